"""Shows diffusion models of diffusers to the library: pixel and latent diffusion, with or without text."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from context_module.adapters.contract import DecoderAdapter, Encoding, LatentSpec, no_wider_than_the_prior
from context_module.adapters.denoiser.conditioning import SUPPORTED, conditioning_of
from context_module.adapters.denoiser.decoding import DenoisingDecoding
from context_module.adapters.denoiser.encoders import (
    ENCODER_FOLDER,
    CLIPEncoder,
    SemanticEncoder,
    checked_encoder,
    encoder_of,
)
from context_module.adapters.denoiser.pipelines import DENOISERS, denoiser_of, schedule_of
from context_module.adapters.denoiser.schedule import with_fixed_variance, with_shift_of
from context_module.adapters.diffusers import DiffusersAdapter
from context_module.adapters.diffusers.autoencoders import row_of
from context_module.adapters.pretrained import import_library, read_network, reading, source_of
from context_module.adapters.pretraining import Pretraining
from context_module.errors import CheckpointError, ShapeError
from context_module.io import CONFIG_FILE, HUB_OPTIONS, local_folder, recorded

__all__ = ["DenoiserAdapter"]

_TOKENS = 4
_SIZE_KEY = "_sample_size"  # for denoisers that have no sample_size of their own; diffusers keeps such entries
_FRESH_CHANNELS = (16, 32, 64)  # of a fresh denoiser, at the images' size and after each halving of it


class DenoiserAdapter(DecoderAdapter):
    """A diffusion model as a base: the decoder input conditions its denoiser.

    It is added to the timestep's embedding (`UNet2DModel`) or to that of the null class (`DiTTransformer2DModel`), or
    makes up virtual tokens (the others). Of variances that a denoiser learned nothing is read.

    With an encoder whose embeddings of images the denoiser was trained to decode, the decoder input is an embedding:
    of a pipeline of image variation, whose ``image_encoder`` is CLIP's, or of a diffusion autoencoder (Preechakul et
    al. 2022). Such a base has all that others have; features are the embedding, and the neutral input is its mean.

    Without one, the decoder input is an offset from the denoiser's neutral conditioning; zero is the base without
    contexts. Of these there is no embedding, so encodings have the mean zero, and a module in front learns with the
    pixel objective alone. The features that its posterior heads read are the data that is diffused: pixels, or the
    autoencoder's latents.

    Args:
        pipeline: a `DiffusionPipeline` with a denoiser (``unet`` or ``transformer``), a ``scheduler``, for latent
            diffusion an autoencoder (``vae``, see `DiffusersAdapter`), and with a prompt its text encoders.
        prompt: what concepts are composed on top of, if the pipeline has a text encoder; see `set_prompt`.
        tokens: number of virtual tokens; default: 4, or those of an embedding.
        num_inference_steps: of the scheduler.
        guidance_scale: above 1, generation goes further away from what the neutral input (and the empty prompt) give.
            Denoisers that were distilled from guidance, such as FLUX.1-dev, are told the scale instead, and the bound
            on the likelihood is of the scale 1.
        max_snr: the bound on the likelihood is of noise levels up to this signal-to-noise ratio, by default of all.
            Concepts show in much noise; detail that is only seen in less of it adds to the bound what drowns them.
        sample_size: height and width of the images, a number or a pair; default: what the denoiser's configuration
            (``sample_size``, of its data) or the pipeline says. It is kept in the configuration.
        source: the folder or hub id it was read from; default: what the pipeline says, without an `encoder`.
        encoder: of a diffusion autoencoder, an `EmbeddingEncoder`: such as a `SemanticEncoder`. Default: CLIP's, if
            that is what conditions the pipeline.

    Attributes:
        scheduler: the pipeline's own (of one that shifts noise levels by the images' size, with the shift of this
            size); another one with the same noise levels may be set.
        num_inference_steps, guidance_scale: may be set.

    Raises:
        TypeError: for a pipeline, denoiser, scheduler, autoencoder or encoder of a class that is not supported.
        ValueError: for a denoiser without a place for a decoder input, or a prompt without a text encoder.
        ShapeError: for a denoiser of data of unknown size or of one that it cannot divide, or that takes other
            channels than there are; for an encoder of other images, or of other embeddings than the denoiser reads.
    """

    name = "denoiser"
    load_options = (
        *HUB_OPTIONS,
        "prompt",
        "tokens",
        "num_inference_steps",
        "guidance_scale",
        "max_snr",
        "sample_size",
    )

    def __init__(
        self,
        pipeline: Any,
        prompt: str | None = None,
        tokens: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 1.0,
        max_snr: float | None = None,
        sample_size: int | tuple[int, int] | None = None,
        source: str | None = None,
        encoder: Any = None,
    ) -> None:
        super().__init__()
        components, net = pipeline.components, denoiser_of(pipeline)
        if source is None and encoder is None:  # which does not lie there
            source = source_of(pipeline)
        self.encoder = encoder_of(pipeline) if encoder is None else checked_encoder(encoder)
        self.embeds = self.encoder is not None
        if tokens is None:
            tokens = _TOKENS if self.encoder is None else self.encoder.latent_shape[0]
        self.conditioning = conditioning_of(net, tokens)
        self.net, self.scheduler, self.source = net, with_fixed_variance(pipeline.scheduler), source
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        autoencoder = components.get("vae", components.get("vqvae"))
        self.data_shape = self._data_shape(pipeline, _factor(autoencoder), sample_size)
        if self.conditioning.patch is not None:
            seen = math.prod(self.data_shape[1:]) // self.conditioning.patch**2
            self.scheduler = with_shift_of(self.scheduler, seen)
        self.schedule = schedule_of(pipeline, self.scheduler, max_snr)
        self.vae = None if autoencoder is None else self._autoencoder(pipeline, autoencoder)
        self.image_shape = self.data_shape if self.vae is None else self.vae.image_shape
        self.latent = self._latent()
        self.num_features = math.prod(self.latent.shape if self.embeds else self.data_shape)
        sampling = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        options = {"prompt": prompt, "max_snr": max_snr, "sample_size": sample_size, **sampling}
        options["tokens"] = None if self.embeds else tokens
        self.options = {name: value for name, value in options.items() if value is not None}
        self.pipeline = pipeline
        self.conditioning.to(self.device)
        self.schedule.to(self.device)
        if prompt is not None or components.get("text_encoder") is not None:
            self.set_prompt(prompt or "")

    def _data_shape(
        self, pipeline: Any, factor: int, sample_size: int | tuple[int, int] | None
    ) -> tuple[int, int, int]:
        """(C, H, W) of the data that is diffused, for images whose sides are `factor` times as long."""
        net, step = self.net, factor * (self.conditioning.patch or 1)
        key = "sample_size" if "sample_size" in net.config else _SIZE_KEY
        if sample_size is None:
            size = net.config.get(key) or getattr(pipeline, "default_sample_size", None)
            if size is None:
                raise ShapeError(
                    f"this {type(net).__name__} does not say the size of its images: give sample_size, their height "
                    "and width"
                )
            height, width = (factor * side for side in _pair(size))
        else:
            height, width = _pair(sample_size)
        if height % step or width % step:
            raise ShapeError(
                f"this {type(net).__name__} takes images with sides that divide by {step}, got {height}x{width}: give "
                "another sample_size"
            )
        height, width = height // factor, width // factor
        net.register_to_config(**{key: height if height == width else (height, width)})
        return self.conditioning.channels, height, width

    def _autoencoder(self, pipeline: Any, net: Any) -> DiffusersAdapter:
        """The adapter around the pipeline's autoencoder, for images whose latents are the data."""
        channels, height, width = self.data_shape
        factor = _factor(net)
        size = factor * height, factor * width
        vae = DiffusersAdapter(net, sample_size=size[0] if height == width else size)
        if vae.latent.shape[0] != channels:
            raise ShapeError(
                f"the denoiser of this {type(pipeline).__name__} takes {channels} channels, the autoencoder's latents "
                f"have {vae.latent.shape[0]}: denoisers that read more than the noisy latents are not supported"
            )
        return vae

    def _latent(self) -> LatentSpec:
        """Of embeddings, those of a fitted density with mean zero and variance one."""
        shape, encoder = self.conditioning.latent_shape, self.encoder
        if encoder is None:
            return LatentSpec(shape)
        if tuple(encoder.latent_shape) != shape:
            raise ShapeError(
                f"the encoder gives embeddings of shape {tuple(encoder.latent_shape)}, the denoiser reads {shape}"
            )
        if not isinstance(encoder, SemanticEncoder):
            return LatentSpec(shape)
        if encoder.image_shape != tuple(self.image_shape):
            raise ShapeError(
                f"the encoder is of images of shape {encoder.image_shape}, the denoiser of {tuple(self.image_shape)}"
            )
        scale = 1 / encoder.root.float().norm(dim=1)
        return LatentSpec(shape, tuple(scale.tolist()), tuple(encoder.center.float().tolist()))

    def fit_density(self, x: Tensor) -> None:
        """Fit the density of embeddings that the base samples from, to images x, (N, C, H, W) in [0, 1].

        Raises:
            TypeError: for a base without a `SemanticEncoder`.
            ShapeError: for fewer than two images.
        """
        if not isinstance(self.encoder, SemanticEncoder):
            found = type(self.encoder).__name__
            raise TypeError(f"a density is fitted to the embeddings of a SemanticEncoder, this base has {found}")
        self.encoder.fit_density(x)
        self.latent = self._latent()

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
    def wrap(cls, base: Any, **options: Any) -> DenoiserAdapter:
        if type(base).__name__ in SUPPORTED:
            raise TypeError(
                f"a {type(base).__name__} alone does not say how noisy its data is: give the pipeline with its "
                "scheduler (such as diffusers.DDIMPipeline(unet=..., scheduler=...))"
            )
        return cls(base, **options)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> DenoiserAdapter:
        """The adapter around a pipeline's folder, written by ``save_pretrained``, or a Hugging Face Hub id.

        The encoder of a diffusion autoencoder is in its subfolder ``encoder``.

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
            # a pipeline wants to be told of parts that it was saved without
            loaded = {part: None for part, found in index.items() if isinstance(found, list) and found[0] is None}
            for part in (*DENOISERS, "vae", "vqvae", "image_encoder"):
                library, kind = index.get(part) or (None, None)
                if kind is None or library not in ("diffusers", "transformers"):
                    continue
                if part in DENOISERS and kind not in SUPPORTED:
                    raise CheckpointError(f"{path} holds a denoiser {kind}; supported: {', '.join(SUPPORTED)}")
                network = getattr(import_library(library, cls.name), kind)
                loaded[part] = read_network(network, str(path), f"{part} of {path}", subfolder=part, **hub)
            pipeline = diffusers.DiffusionPipeline.from_pretrained(str(path), use_safetensors=True, **loaded, **hub)
        folder = local_folder(path, (f"{ENCODER_FOLDER}/*",), **hub) / ENCODER_FOLDER
        if (folder / CONFIG_FILE).is_file():
            options["encoder"] = SemanticEncoder.from_pretrained(folder)
        adapter = cls(pipeline, source=str(path), **options)
        adapter.options = {**adapter.options, **recorded(hub)}
        return adapter

    @classmethod
    def fresh(cls, image_shape: tuple[int, int, int]) -> DenoiserAdapter:
        """A small diffusion autoencoder: a UNet2DModel of pixels, with DDIM on a cosine schedule, and its encoder."""
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
            down_block_types=("DownBlock2D",) * len(_FRESH_CHANNELS),
            up_block_types=("UpBlock2D",) * len(_FRESH_CHANNELS),
            layers_per_block=1,
            norm_num_groups=8,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",  # as Preechakul et al. condition theirs
        )
        scheduler = diffusers.DDIMScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
        )
        encoder = SemanticEncoder(image_shape, 4 * _FRESH_CHANNELS[0])
        return cls(diffusers.DDIMPipeline(unet=net, scheduler=scheduler), encoder=encoder)

    @classmethod
    def pretraining(cls) -> type[Pretraining]:
        from context_module.adapters.denoiser.objective import DenoiserPretraining

        return DenoiserPretraining

    def save(self, directory: str | Path) -> None:
        """Write the pipeline, and beside it the encoder of a diffusion autoencoder.

        Raises:
            CheckpointError: for an encoder of a class of your own.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if isinstance(self.encoder, SemanticEncoder):
            self.encoder.save_pretrained(directory / ENCODER_FOLDER)
        elif self.encoder is not None and not isinstance(self.encoder, CLIPEncoder):
            raise CheckpointError(f"an encoder of the class {type(self.encoder).__name__} is saved by who wrote it")
        else:
            (directory / ENCODER_FOLDER / CONFIG_FILE).unlink(missing_ok=True)  # of a base that was here before
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
        if self.encoder is None:
            zero = data.new_zeros(len(x), *self.latent.shape)
            return Encoding(data.flatten(1), zero, states=(x, data))
        raw, log_var = self.encoder.posterior(x)
        mean = self.latent.normalise(raw)
        if log_var is not None:
            log_var = self.latent.normalise_log_var(no_wider_than_the_prior(log_var))
        return Encoding(mean.flatten(1), mean, log_var, states=(x, data))

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
        """n embeddings from the encoder's density; without an encoder, n times the neutral decoder input, zero."""
        if self.encoder is not None:
            return self.latent.normalise(self.encoder.sample(n, generator))
        return torch.zeros(n, *self.latent.shape, device=self.device)

    def denoise(self, z: Tensor, timestep: Tensor, latent: Tensor, prompted: bool = True, **told: float) -> Tensor:
        """The denoiser's output (B, C, H, W), float32, for noisy data z at timesteps (B,).

        Args:
            told: the scale of ``guidance``, to those that were distilled from it.
        """
        latent = self.latent.denormalise(latent).to(self.dtype)
        output = self.conditioning(self.net, z.to(self.dtype), timestep, latent, prompted, **told)
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

    @property
    def device(self) -> torch.device:
        return self.net.device

    @property
    def dtype(self) -> torch.dtype:
        return self.net.dtype


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _factor(autoencoder: Any) -> int:
    """By what an autoencoder divides heights and widths; 1 without one, or for a class that is not supported."""
    row = None if autoencoder is None else row_of(autoencoder)
    return 1 if row is None else row.factors(autoencoder.config)[0]
