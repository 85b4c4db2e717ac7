"""Shows diffusers' autoencoders to the library: today `AutoencoderKL`, the KL-regularised one of latent diffusion."""

from __future__ import annotations

import math
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from context_module.adapters.base import DecoderAdapter, Decoding, Encoding, LatentSpec
from context_module.adapters.likelihoods import DiscretisedLogistic, DiscretisedLogisticLikelihood
from context_module.draws import draw_normal
from context_module.errors import CheckpointError, ShapeError

__all__ = ["SUPPORTED", "AutoencoderKLObjective", "DiffusersAdapter"]

SUPPORTED = ("AutoencoderKL",)  # names of diffusers' classes
FRESH_CHANNELS = (16, 32, 64)  # of a fresh base, at the images' size and after each halving of it

# diffusers keeps entries with an underscore that it does not know, in memory and in config.json
_SCALE_KEY, _DEFAULT_SCALE = "_likelihood_scale", 0.03


class DiffusersAdapter(DecoderAdapter):
    """An `AutoencoderKL` as a base: one level, a spatial decoder input.

    Images are of the configuration's ``sample_size``; for others, which the network takes as well, load it with
    ``AutoencoderKL.from_pretrained(path, sample_size=64)``. Latents are normalised by the configuration's
    ``scaling_factor`` and ``shift_factor`` (or, averaged over channels, ``latents_mean`` and ``latents_std``).

    These decoders give a mean and no more. Around it the likelihood is a logistic, discretised to 256 levels, with one
    scale for all pixels that trains when the base does; it is kept in the configuration.

    Args:
        net: the autoencoder. Tiling is switched off: it blends tiles, which other latents than the whole image's fit.
        source: the folder or hub id it was read from, if any.

    Raises:
        TypeError: for any other class.
        ShapeError: for a ``sample_size`` that the network cannot halve, or other channels out than in.
    """

    name = "diffusers"

    def __init__(self, net: Any, source: str | None = None) -> None:
        super().__init__()
        if not isinstance(net, _diffusers().AutoencoderKL):
            raise TypeError(f"no adapter for diffusers' {type(net).__name__}; supported: {', '.join(SUPPORTED)}")
        config = net.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        factor = 2 ** (len(config.block_out_channels) - 1)
        if height % factor or width % factor:
            raise ShapeError(
                f"this AutoencoderKL divides sizes by {factor}, its sample_size is {height}x{width}: load it with "
                f"from_pretrained(..., sample_size=n), n a multiple of {factor}"
            )
        if config.in_channels != config.out_channels:
            raise ShapeError(
                f"an AutoencoderKL that takes {config.in_channels} channels and gives {config.out_channels} does not "
                "reconstruct its images"
            )
        net.disable_tiling()
        self.net = net
        self.source = source
        self.image_shape = (config.in_channels, height, width)
        self.likelihood = DiscretisedLogistic(config.get(_SCALE_KEY, _DEFAULT_SCALE)).to(net.device)
        shape = (config.latent_channels, height // factor, width // factor)
        self.latent = LatentSpec(shape, *_scale_and_shift(config))
        self.num_features = math.prod(shape)

    @classmethod
    def matches(cls, base: object) -> bool:
        return any(kind.__module__.partition(".")[0] == "diffusers" for kind in type(base).__mro__)

    @classmethod
    def wrap(cls, base: Any) -> DiffusersAdapter:
        return cls(base)

    @classmethod
    def load(cls, path: str | Path) -> DiffusersAdapter:
        """The adapter around a folder written by ``save_pretrained``, or a Hugging Face Hub id.

        Raises:
            CheckpointError: for missing or broken files, weights that are not safetensors, tensors that are missing or
                of another shape, or another class.
        """
        kind = _diffusers().AutoencoderKL
        try:
            found = kind.load_config(str(path)).get("_class_name")
            if found not in SUPPORTED:
                raise CheckpointError(f"{path} holds a {found} of diffusers; supported: {', '.join(SUPPORTED)}")
            net, problems = kind.from_pretrained(str(path), use_safetensors=True, output_loading_info=True)
        except CheckpointError:
            raise
        except Exception as error:  # what a broken file raises is up to four libraries
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{path} is neither a folder written by AutoencoderKL.save_pretrained nor a Hub id of one: {reason}"
            ) from error
        misfits = {name: entries for name, entries in problems.items() if entries}
        if misfits:
            raise CheckpointError(f"{path} does not fit the model it is loaded into: {misfits}")
        return cls(net, source=str(path))

    @classmethod
    def fresh(cls, image_shape: tuple[int, int, int]) -> DiffusersAdapter:
        """A small AutoencoderKL: sizes are halved twice, 3x32x32 images become 4x8x8 latents."""
        channels, height, width = image_shape
        halvings = len(FRESH_CHANNELS) - 1
        if height % 2**halvings or width % 2**halvings:
            raise ValueError(
                f"a fresh AutoencoderKL takes images with sides that divide by {2**halvings}, got {height}x{width}: "
                "set --resolution"
            )
        net = _diffusers().AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=FRESH_CHANNELS,
            down_block_types=("DownEncoderBlock2D",) * len(FRESH_CHANNELS),
            up_block_types=("UpDecoderBlock2D",) * len(FRESH_CHANNELS),
            norm_num_groups=8,
            sample_size=height if height == width else (height, width),
            scaling_factor=1.0,
        )
        return cls(net)

    def save(self, directory: str | Path) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.net.register_to_config(**{_SCALE_KEY: self.likelihood.scale.item()})
        with tempfile.TemporaryDirectory(dir=directory) as temporary:
            self.net.save_pretrained(temporary)
            for file in sorted(Path(temporary).iterdir(), reverse=True):  # config.json after the weights
                file.replace(directory / file.name)

    def decoder_parts(self) -> list[nn.Module]:
        return [part for part in (self.net.post_quant_conv, self.net.decoder) if part is not None]

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Fit what training leaves open to images x, (B, C, H, W) in [0, 1].

        The configuration's scaling and shift factors: encodings get mean 0 and variance 1. And the likelihood's scale,
        which may lag behind the errors: of 61 values between 0.001 and 1 the one that explains x best.
        """
        x = x.to(self.device)
        mean, log_var = self.raw_posterior(x)
        noise = draw_normal(mean, torch.Generator().manual_seed(0))
        location = self.decode_raw(mean + (0.5 * log_var).exp() * noise).location
        scales = torch.logspace(-3, 0, 61, device=x.device)
        fits = [DiscretisedLogisticLikelihood(location, scale).log_prob(x).mean() for scale in scales]
        self.likelihood.log_scale.copy_(scales[torch.stack(fits).argmax()].log())
        factors = {"scaling_factor": 1 / mean.std().item(), "shift_factor": mean.mean().item()}
        self.net.register_to_config(**factors, latents_mean=None, latents_std=None)
        self.latent = LatentSpec(self.latent.shape, *_scale_and_shift(self.net.config))

    def encode(self, x: Tensor) -> Encoding:
        raw, log_var = self.raw_posterior(x)
        mean = self.latent.normalise(raw)
        return Encoding(mean.flatten(1), mean, log_var + 2 * math.log(self.latent.scale))

    def decode(
        self,
        latent: Tensor,
        encoding: Encoding | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Decoding:
        return Decoding(self.decode_raw(self.latent.denormalise(latent)), kl=latent.new_zeros(len(latent)))

    def raw_posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the network's own latents, not normalised, of images (B, C, H, W) in [0, 1]."""
        with self._precision():
            posterior = self.net.encode(2 * x.to(self.dtype) - 1).latent_dist
        return posterior.mean, posterior.logvar

    def decode_raw(self, raw: Tensor) -> DiscretisedLogisticLikelihood:
        """The likelihood of images, from the network's own latents."""
        with self._precision():
            mean = self.net.decode(raw.to(self.dtype)).sample
        return self.likelihood((mean.float() + 1) / 2)

    @property
    def device(self) -> torch.device:
        return self.net.device

    @property
    def dtype(self) -> torch.dtype:
        return self.net.dtype

    def _precision(self) -> AbstractContextManager[Any]:
        """float16 autocast overflows in networks whose configuration says so; bfloat16 does not."""
        kind = self.device.type
        overflows = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        return torch.autocast(kind, enabled=False) if overflows and self.net.config.force_upcast else nullcontext()


class AutoencoderKLObjective(nn.Module):
    """Pretraining: -log p(x | latent) + beta KL on pooled contexts. Returns the same kind of dict as every objective.

    The likelihood's scale is learned (Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated
    Decoders"), so that beta=1 is the ELBO whatever the errors. It comes down to the errors' size, and with it the
    weight of the KL relative to them, to where autoencoders of latent diffusion choose it by hand.
    """

    def __init__(self, base: DiffusersAdapter, beta: float = 1.0) -> None:
        super().__init__()
        self.base, self.beta = base, beta

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        mean, log_var = (part.float() for part in self.base.raw_posterior(batch["x"]))
        kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1).flatten(1).sum(1)
        latent = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        neg_log_likelihood = -self.base.decode_raw(latent).log_prob(batch["x"])
        return {"loss": neg_log_likelihood + self.beta * kl, "neg_log_likelihood": neg_log_likelihood, "kl": kl}


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("a 'diffusers' base needs diffusers: pip install context-module[diffusers]") from error
    return diffusers


def _scale_and_shift(config: Any) -> tuple[float, float]:
    """Of `LatentSpec`, from an autoencoder's configuration."""
    if config.latents_mean and config.latents_std:  # diffusers: (latent - mean) * scaling_factor / std, by channel
        channels = config.latent_channels
        return config.scaling_factor * channels / sum(config.latents_std), sum(config.latents_mean) / channels
    return config.scaling_factor, config.shift_factor or 0.0
