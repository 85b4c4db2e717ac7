"""Shows diffusers' autoencoders to the library."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from context_module.adapters.contract import DecoderAdapter, Decoding, Encoding, LatentSpec, no_wider_than_the_prior
from context_module.adapters.diffusers.autoencoders import AUTOENCODERS, row_of
from context_module.adapters.likelihoods import DiscretisedLogistic, DiscretisedLogisticLikelihood
from context_module.adapters.pretrained import import_library, network_of, read_network, reading, source_of
from context_module.adapters.pretraining import Pretraining
from context_module.errors import CheckpointError, ShapeError
from context_module.io import HUB_OPTIONS
from context_module.normal import draw_normal

__all__ = ["DiffusersAdapter"]

FRESH_CHANNELS = (16, 32, 64)  # of a fresh base, at the images' size and after each halving of it

# diffusers keeps entries with an underscore that it does not know, in memory and in config.json
_SCALE_KEY, _DEFAULT_SCALE = "_likelihood_scale", 0.03
_SIZE_KEY = "_sample_size"  # for classes that have no sample_size of their own


class DiffusersAdapter(DecoderAdapter):
    """An autoencoder of diffusers as a base: one level, a spatial decoder input. `AUTOENCODERS` names the classes.

    Latents are normalised by the configuration's ``scaling_factor`` and ``shift_factor``, or channel by channel by its
    ``latents_mean`` and ``latents_std``. Encoders without a distribution give no log-variance.

    These decoders give a mean and no more. Around it the likelihood is a logistic, discretised to 256 levels, with one
    scale for all pixels that trains when the base does; it is kept in the configuration.

    Of a `VQModel` the decoder input is what its codebook quantises, with straight-through gradients; the commitment
    loss is no part of a likelihood and is left out, so the codebook stands still when the base trains. The noise that
    a `ConsistencyDecoderVAE` decodes from is a deeper latent whose posterior is its prior.

    Args:
        net: the autoencoder. Tiling and slicing are switched off: tiles are blended, which other latents than the
            whole image's fit.
        source: the folder or hub id it was read from; default: what the network says.
        sample_size: height and width of the images, a number or a pair; default: the configuration's
            ``sample_size``. Classes without one (`AutoencoderTiny`, `AutoencoderDC`, those of videos) need it.

    Raises:
        TypeError: for any other class.
        ShapeError: for a class without ``sample_size``; a size that the network cannot halve, or another than its only
            one (`AutoencoderRAE`); and networks that do not give what they take.
    """

    name = "diffusers"
    load_options = (*HUB_OPTIONS, "subfolder", "variant", "sample_size")

    def __init__(
        self, net: Any, source: str | None = None, *, sample_size: int | tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        net = network_of(net)
        row = row_of(net)
        if row is None:
            raise TypeError(f"no adapter for diffusers' {type(net).__name__}; supported: {', '.join(AUTOENCODERS)}")
        self.row, config = row, net.config
        if row.only_size is not None:
            height, width = _only_size(net, row.only_size(net), sample_size)
        else:
            if sample_size is not None:
                net.register_to_config(**{"sample_size" if "sample_size" in config else _SIZE_KEY: sample_size})
                self.options = {"sample_size": sample_size}
            height, width = _image_size(net)
        ins, outs, channels = row.channels(config)
        down, up = row.factors(config)
        if height % down or width % down:
            raise ShapeError(
                f"this {type(net).__name__} divides sizes by {down}, its sample_size is {height}x{width}: give a "
                f"sample_size that is a multiple of {down}"
            )
        if (ins, down) != (outs, up):
            raise ShapeError(
                f"a {type(net).__name__} that takes {ins} channels and gives {outs}, and divides sizes by {down} and "
                f"multiplies them by {up}, does not reconstruct its images"
            )
        net.disable_tiling()
        net.disable_slicing()
        self.net = net
        self.source = source or source_of(net)
        self.image_shape = (ins, height, width)
        self.likelihood = DiscretisedLogistic(config.get(_SCALE_KEY, _DEFAULT_SCALE)).to(net.device)
        shape = (channels, height // down, width // down)
        scale, shift = _scale_and_shift(config) if row.scale_and_shift is None else row.scale_and_shift(net)
        self.latent = LatentSpec(shape, scale, shift)
        self.num_features = math.prod(shape)

    @classmethod
    def matches(cls, base: object) -> bool:
        """For every autoencoder of diffusers: `wrap` names those that it can show."""
        return any(kind.__module__.startswith("diffusers.models.autoencoders.") for kind in type(base).__mro__)

    @classmethod
    def wrap(cls, base: Any) -> DiffusersAdapter:
        return cls(base)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        subfolder: str | None = None,
        variant: str | None = None,
        sample_size: int | tuple[int, int] | None = None,
        torch_dtype: torch.dtype | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> DiffusersAdapter:
        """The adapter around a folder written by ``save_pretrained``, or a Hugging Face Hub id.

        Args:
            path: the folder, which is read without the network, or the id.
            subfolder: the folder inside it, such as ``vae`` in a pipeline's.
            variant: of the weights' files, such as ``fp16``.
            sample_size: see the class.
            torch_dtype: of the weights; default: float32.
            revision, token, local_files_only: for Hub repositories, as everywhere in huggingface_hub.

        Raises:
            CheckpointError: for missing or broken files, weights that are not safetensors, tensors that are missing or
                of another shape, or another class.
        """
        diffusers = import_library("diffusers", cls.name)
        given = {"subfolder": subfolder, "variant": variant, "revision": revision}
        files: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        where = f"{path}{''.join(f', {name} {value}' for name, value in files.items())}"
        access: dict[str, Any] = {"token": token, "local_files_only": local_files_only}
        place = {name: value for name, value in files.items() if name != "variant"} | access  # the weights' alone
        with reading(where, "a folder written by save_pretrained of diffusers' autoencoders"):
            found = diffusers.AutoencoderKL.load_config(str(path), **place).get("_class_name")
            if found not in AUTOENCODERS:
                raise CheckpointError(f"{where} holds a {found} of diffusers; supported: {', '.join(AUTOENCODERS)}")
            net = read_network(getattr(diffusers, found), str(path), where, torch_dtype=torch_dtype, **files, **access)
        adapter = cls(net, str(path), sample_size=sample_size)
        adapter.options = {**files, **adapter.options}
        return adapter

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
        net = import_library("diffusers", cls.name).AutoencoderKL(
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

    @classmethod
    def pretraining(cls) -> type[Pretraining]:
        from context_module.adapters.diffusers.objective import AutoencoderKLPretraining

        return AutoencoderKLPretraining

    def save(self, directory: str | Path) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.net.register_to_config(**{_SCALE_KEY: self.likelihood.scale.item()})
        with tempfile.TemporaryDirectory(dir=directory) as temporary:
            self.net.save_pretrained(temporary)
            for file in sorted(Path(temporary).iterdir(), reverse=True):  # config.json after the weights
                file.replace(directory / file.name)

    def decoder_parts(self) -> list[nn.Module]:
        return [part for name in self.row.decoder if (part := attrgetter(name)(self.net)) is not None]

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Fit what pretraining leaves open to images x, (B, C, H, W) in [0, 1].

        The configuration's scaling and shift factors: encodings get mean 0 and variance 1. And the likelihood's scale,
        which may lag behind the errors: of 61 values between 0.001 and 1 the one that explains x best.
        """
        x = x.to(self.device)
        latent, log_var = self.raw_posterior(x)
        mean = latent
        if log_var is not None:
            latent = mean + (0.5 * log_var).exp() * draw_normal(mean, torch.Generator().manual_seed(0))
        location = self.decode_raw(latent).location
        scales = torch.logspace(-3, 0, 61, device=x.device)
        fits = [DiscretisedLogisticLikelihood(location, scale).log_prob(x).mean() for scale in scales]
        self.likelihood.log_scale.copy_(scales[torch.stack(fits).argmax()].log())
        factors = {"scaling_factor": 1 / mean.std().item(), "shift_factor": mean.mean().item()}
        self.net.register_to_config(**factors, latents_mean=None, latents_std=None)
        self.latent = LatentSpec(self.latent.shape, *_scale_and_shift(self.net.config))

    def encode(self, x: Tensor) -> Encoding:
        raw, log_var = self.raw_posterior(x)
        mean = self.latent.normalise(raw)
        if log_var is not None:
            log_var = self.latent.normalise_log_var(no_wider_than_the_prior(log_var))
        return Encoding(mean.flatten(1), mean, log_var)

    def decode(
        self,
        latent: Tensor,
        encoding: Encoding | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Decoding:
        noises = residuals or tuple(temperature * noise for noise in self._draw_noises(len(latent), generator))
        likelihood = self.decode_raw(self.latent.denormalise(latent), noises)
        return Decoding(likelihood, latent.new_zeros(len(latent)), noises)

    def raw_posterior(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and log-variance of the network's own latents, not normalised, of images (B, C, H, W) in [0, 1].

        There is no log-variance from an encoder without a distribution.
        """
        with self._precision():
            return self.row.encode(self.net, 2 * x.to(self.dtype) - 1)

    def decode_raw(self, raw: Tensor, noises: Sequence[Tensor] = ()) -> DiscretisedLogisticLikelihood:
        """The likelihood of images, from the network's own latents and the noise that decoding takes, if any."""
        with self._precision():
            mean = self.row.decode(self.net, raw.to(self.dtype), noises)
        return self.likelihood((mean.float() + 1) / 2)

    @property
    def device(self) -> torch.device:
        return self.net.device

    @property
    def dtype(self) -> torch.dtype:
        return self.net.dtype

    def _draw_noises(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        like = torch.empty(n, *self.image_shape, device=self.device)
        return tuple(draw_normal(like, generator) for _ in range(self.row.noises))

    def _precision(self) -> AbstractContextManager[Any]:
        """float16 autocast overflows in networks whose configuration says so; bfloat16 does not."""
        kind = self.device.type
        overflows = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        upcast = overflows and self.net.config.get("force_upcast", False)
        return torch.autocast(kind, enabled=False) if upcast else nullcontext()


def _image_size(net: Any) -> tuple[int, int]:
    """Height and width of the images, from a network's configuration."""
    config = net.config
    size = config.get("sample_size", config.get(_SIZE_KEY))
    if size is None and "sample_height" in config:  # of AutoencoderKLCogVideoX
        size = config.sample_height, config.sample_width
    if size is None:
        raise ShapeError(
            f"{type(net).__name__} takes images of any size and its configuration names none: give sample_size, as in "
            "DiffusersAdapter(net, sample_size=64)"
        )
    return (size, size) if isinstance(size, int) else tuple(size)


def _only_size(net: Any, size: int, wanted: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the images of a network that decodes to one size."""
    if wanted not in (None, size, (size, size)):
        raise ShapeError(
            f"this {type(net).__name__} decodes to images of {size}x{size} and no others, sample_size is {wanted}: "
            "leave it out, and resize the images"
        )
    return size, size


def _scale_and_shift(config: Any) -> tuple[float | tuple[float, ...], float | tuple[float, ...]]:
    """Of `LatentSpec`, from an autoencoder's configuration."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean and std:  # diffusers: (latent - mean) * scaling_factor / std, by channel
        factor = config.get("scaling_factor", 1.0)
        return tuple(factor / deviation for deviation in std), tuple(mean)
    return config.scaling_factor, config.get("shift_factor") or 0.0
