"""Shows diffusion models of diffusers to the library: pixel and latent diffusion, with or without text."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from context_module.adapters.base import DecoderAdapter, Encoding, LatentSpec
from context_module.adapters.denoiser.conditioning import SUPPORTED, conditioning_of
from context_module.adapters.denoiser.decoding import DenoisingDecoding
from context_module.adapters.denoiser.schedule import NoiseSchedule
from context_module.adapters.diffusers import DiffusersAdapter
from context_module.adapters.diffusers.autoencoders import row_of
from context_module.adapters.likelihoods import DiscretisedLogisticLikelihood
from context_module.adapters.pretrained import import_library, read_network, reading
from context_module.errors import CheckpointError, ShapeError
from context_module.hub import HUB_OPTIONS, recorded

__all__ = ["DenoiserAdapter"]

_DENOISERS = ("unet", "transformer")  # names of the denoiser among a pipeline's components
_FRESH_CHANNELS = (16, 32, 64)  # of a fresh denoiser, at the images' size and after each halving of it


class DenoiserAdapter(DecoderAdapter):
    """A diffusion model as a base: the decoder input conditions its denoiser.

    The decoder input is an offset from the denoiser's neutral conditioning, which is added to the timestep's embedding
    (`UNet2DModel`) or makes up virtual tokens (the others); zero is the base without contexts. Of these there is no
    embedding, so encodings have the mean zero, and a module in front learns with the pixel objective alone. The
    features that its posterior heads read are the data that is diffused: pixels, or the autoencoder's latents.

    Args:
        pipeline: a `DiffusionPipeline` with a denoiser (``unet`` or ``transformer``), a ``scheduler``, for latent
            diffusion an autoencoder (``vae``, see `DiffusersAdapter`), and with a prompt its text encoders.
        prompt: what concepts are composed on top of, if the pipeline has a text encoder; see `set_prompt`.
        tokens: number of virtual tokens.
        num_inference_steps: of the scheduler.
        guidance_scale: above 1, generation goes further away from what the neutral input (and the empty prompt) give.
        max_snr: the bound on the likelihood is of noise levels up to this signal-to-noise ratio, by default of all.
            Concepts show in much noise; detail that is only seen in less of it adds to the bound what drowns them.
        source: the folder or hub id it was read from, if any.

    Attributes:
        scheduler: the pipeline's own; another one with the same noise levels may be set.
        num_inference_steps, guidance_scale: may be set.

    Raises:
        TypeError: for a denoiser, scheduler or autoencoder of a class that is not supported.
        ValueError: for a denoiser without a place for a decoder input, or a prompt without a text encoder.
        ShapeError: for a denoiser of data of unknown size, or that takes other channels than there are.
    """

    name = "denoiser"
    embeds = False
    load_options = (*HUB_OPTIONS, "prompt", "tokens", "num_inference_steps", "guidance_scale", "max_snr")

    def __init__(
        self,
        pipeline: Any,
        prompt: str | None = None,
        tokens: int = 4,
        num_inference_steps: int = 20,
        guidance_scale: float = 1.0,
        max_snr: float | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__()
        components = pipeline.components
        net = next((components[name] for name in _DENOISERS if components.get(name) is not None), None)
        if net is None:
            raise TypeError(f"a {type(pipeline).__name__} has no denoiser: no component {' or '.join(_DENOISERS)}")
        self.conditioning = conditioning_of(net, tokens)
        self.net, self.scheduler, self.source = net, pipeline.scheduler, source
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.schedule = NoiseSchedule(pipeline.scheduler, math.inf if max_snr is None else max_snr)
        autoencoder = components.get("vae", components.get("vqvae"))
        self.data_shape = self._data_shape()
        self.vae = None if autoencoder is None else self._autoencoder(autoencoder)
        self.image_shape = self.data_shape if self.vae is None else self.vae.image_shape
        self.latent = LatentSpec(self.conditioning.latent_shape)
        self.num_features = math.prod(self.data_shape)
        sampling = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        options = {"prompt": prompt, "tokens": tokens, "max_snr": max_snr, **sampling}
        self.options = {name: value for name, value in options.items() if value is not None}
        self.pipeline = pipeline
        self.conditioning.to(self.device)
        self.schedule.to(self.device)
        if prompt is not None or components.get("text_encoder") is not None:
            self.set_prompt(prompt or "")

    def _data_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the data that is diffused."""
        config = self.net.config
        size = config.sample_size
        if size is None:
            raise ShapeError(
                f"this {type(self.net).__name__} does not say the size of its images: load it with "
                "from_pretrained(..., sample_size=n)"
            )
        height, width = (size, size) if isinstance(size, int) else size
        return config.in_channels, height, width

    def _autoencoder(self, net: Any) -> DiffusersAdapter:
        """The adapter around the pipeline's autoencoder, for images whose latents are the data."""
        channels, height, width = self.data_shape
        row = row_of(net)
        factor = row.factors(net.config)[0] if row is not None else 1  # else it says what is supported
        size = factor * height, factor * width
        vae = DiffusersAdapter(net, sample_size=size[0] if height == width else size)
        if vae.latent.shape[0] != channels:
            raise ShapeError(
                f"the denoiser takes {channels} channels, the autoencoder's latents have {vae.latent.shape[0]}: "
                "denoisers that read more than the noisy latents are not supported"
            )
        return vae

    def set_prompt(self, prompt: str) -> None:
        """Compose on top of another prompt from now on.

        Raises:
            ValueError: for a denoiser that takes no prompt, or a pipeline without a text encoder.
        """
        self.conditioning.set_prompt(self.pipeline, prompt)
        self.options = {**self.options, "prompt": prompt}

    @classmethod
    def matches(cls, base: object) -> bool:
        kinds = [kind for kind in type(base).__mro__ if kind.__module__.partition(".")[0] == "diffusers"]
        return any(kind.__name__ == "DiffusionPipeline" or kind.__name__ in SUPPORTED for kind in kinds)

    @classmethod
    def wrap(cls, base: Any) -> DenoiserAdapter:
        if type(base).__name__ in SUPPORTED:
            raise TypeError(
                f"a {type(base).__name__} alone does not say how noisy its data is: give the pipeline with its "
                "scheduler (such as diffusers.DDIMPipeline(unet=..., scheduler=...))"
            )
        return cls(base)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> DenoiserAdapter:
        """The adapter around a pipeline's folder, written by ``save_pretrained``, or a Hugging Face Hub id.

        Args:
            path: of the folder that holds ``model_index.json``, or the id.
            options: the adapter's own arguments but the pipeline: ``prompt``, ``tokens``, ...; and `revision`, `token`
                and `local_files_only` of huggingface_hub.

        Raises:
            CheckpointError: for missing or broken files, weights that are not safetensors, tensors that are missing or
                of another shape, or a denoiser of another class.
            ValueError, ShapeError: as for the class itself.
        """
        diffusers = import_library("diffusers", cls.name)
        hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
        with reading(str(path), "a folder written by save_pretrained of a DiffusionPipeline"):
            index = diffusers.DiffusionPipeline.load_config(str(path), **hub)
            loaded = {}
            for part in (*_DENOISERS, "vae", "vqvae"):
                kind = (index.get(part) or [None, None])[1]
                if kind is None:
                    continue
                if part in _DENOISERS and kind not in SUPPORTED:
                    raise CheckpointError(f"{path} holds a denoiser {kind}; supported: {', '.join(SUPPORTED)}")
                loaded[part] = read_network(
                    getattr(diffusers, kind), str(path), f"{part} of {path}", subfolder=part, **hub
                )
            pipeline = diffusers.DiffusionPipeline.from_pretrained(str(path), use_safetensors=True, **loaded, **hub)
        adapter = cls(pipeline, source=str(path), **options)
        adapter.options = {**adapter.options, **recorded(hub)}
        return adapter

    @classmethod
    def fresh(cls, image_shape: tuple[int, int, int]) -> DenoiserAdapter:
        """A small UNet2DModel of pixels, with DDIM on a cosine schedule."""
        diffusers = import_library("diffusers", cls.name)
        channels, height, width = image_shape
        halvings = len(_FRESH_CHANNELS) - 1
        if height % 2**halvings or width % 2**halvings:
            raise ValueError(
                f"a fresh UNet2DModel takes images with sides that divide by {2**halvings}, got {height}x{width}: "
                "set --resolution"
            )
        net = diffusers.UNet2DModel(
            sample_size=height if height == width else (height, width),
            in_channels=channels,
            out_channels=channels,
            block_out_channels=_FRESH_CHANNELS,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            class_embed_type="identity",
        )
        scheduler = diffusers.DDIMScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
        )
        return cls(diffusers.DDIMPipeline(unet=net, scheduler=scheduler))

    def save(self, directory: str | Path) -> None:
        """Write the pipeline."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as temporary:
            self.pipeline.save_pretrained(temporary)
            files = [file.relative_to(temporary) for file in Path(temporary).rglob("*") if file.is_file()]
            for file in sorted(files, key=lambda file: file.name == "model_index.json"):  # last
                (directory / file).parent.mkdir(parents=True, exist_ok=True)
                (Path(temporary) / file).replace(directory / file)

    def decoder_parts(self) -> list[nn.Module]:
        return [self.net]

    def encode(self, x: Tensor) -> Encoding:
        data = self.data(x)
        zero = data.new_zeros(len(x), *self.latent.shape)
        return Encoding(data.flatten(1), zero, states=(x, data))

    def decode(
        self,
        latent: Tensor,
        encoding: Encoding | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> DenoisingDecoding:
        return DenoisingDecoding(self, latent, encoding, residuals, temperature, generator)

    def sample_latent(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n times the neutral decoder input, zero: the base as it was trained, without contexts."""
        return torch.zeros(n, *self.latent.shape, device=self.device)

    def denoise(self, z: Tensor, timestep: Tensor, latent: Tensor, prompted: bool = True) -> Tensor:
        """The denoiser's output (B, C, H, W), float32, for noisy data z at timesteps (B,)."""
        latent = latent.to(self.dtype)
        output = self.conditioning(self.net, z.to(self.dtype), timestep, latent, prompted)
        return output[:, : z.shape[1]].float()  # those that learn variances give them after

    @torch.no_grad()
    def data(self, x: Tensor, encoding: Encoding | None = None) -> Tensor:
        """What is diffused of images x in [0, 1]: pixels in [-1, 1], or normalised latents. Float32.

        Args:
            x: images (B, C, H, W).
            encoding: its data is taken if it is of the same images.
        """
        if encoding is not None and torch.equal(encoding.states[0].to(x), x):
            return encoding.states[1]
        return (2 * x - 1 if self.vae is None else self.vae.encode(x).mean).float()

    def images(self, data: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1], float32, of data."""
        if self.vae is None:
            return ((data + 1) / 2).clamp(0, 1)
        return self.vae.decode(data.to(self.vae.dtype), temperature=0.0).mean

    def log_prob_at_first(self, x: Tensor, data: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) (B,) in nats, of data around the noisy data of the first level in the bound."""
        alpha, sigma = self.schedule.alphas[self.schedule.first], self.schedule.sigmas[self.schedule.first]
        if self.vae is None:
            scale = sigma / alpha / 2 * math.sqrt(3) / math.pi  # a logistic of the same variance, in units of images
            return DiscretisedLogisticLikelihood((z / alpha + 1) / 2, scale).log_prob(x)
        return torch.distributions.Normal(z / alpha, sigma / alpha).log_prob(data).flatten(1).sum(1)

    @property
    def device(self) -> torch.device:
        return self.net.device

    @property
    def dtype(self) -> torch.dtype:
        return self.net.dtype
