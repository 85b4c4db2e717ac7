"""The contract between the library and a base: latents, encodings, decodings, and the registry of adapters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from context_module.contexts import Kind
from context_module.errors import CheckpointError, LoraError, ShapeError
from context_module.normal import draw_normal

if TYPE_CHECKING:
    from context_module.adapters.pretraining import Pretraining

__all__ = ["DecoderAdapter", "Decoding", "Encoding", "LatentSpec", "Likelihood", "no_wider_than_the_prior"]

_WIDEST = 2.0  # trained encoders of images they know go to 0.5


def no_wider_than_the_prior(log_var: Tensor) -> Tensor:
    """Log-variances of raw latents whose prior is N(0, I), those beyond 2 as 2.

    Of images unlike those that it was trained on an encoder may say a variance of thousands; a draw from that is no
    embedding of them.
    """
    return log_var.clamp(max=_WIDEST)


@dataclass(frozen=True)
class LatentSpec:
    """The decoder input of a base. The module sees normalised latents, ``(raw - shift) * scale``; the base raw ones.

    Attributes:
        shape: shape of one latent, without the batch.
        scale: positive factor that brings raw latents to about unit variance; or one for each channel, the first axis.
        shift: subtracted from raw latents before scaling; or one for each channel.

    Raises:
        ShapeError: for a scale or shift with another number of entries than there are channels.

    >>> spec = LatentSpec((2, 1, 1), scale=0.5, shift=(1.0, 3.0))
    >>> spec.normalise(torch.tensor([5.0, 5.0]).view(1, 2, 1, 1)).flatten().tolist()
    [2.0, 1.0]
    """

    shape: tuple[int, ...]
    scale: float | tuple[float, ...] = 1.0
    shift: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "shift"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.shape[0]:
                raise ShapeError(
                    f"{name} must be a number, or one for each of the {self.shape[0]} channels of latents of shape "
                    f"{self.shape}; got {len(value)}"
                )

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw latents (B, *shape) to normalised ones; ShapeError for latents of another shape."""
        self._check(raw)
        return (raw - self._along_channels(self.shift, raw)) * self._along_channels(self.scale, raw)

    def normalise_log_var(self, log_var: Tensor) -> Tensor:
        """The log-variance (B, *shape) of raw latents to that of normalised ones."""
        self._check(log_var)
        return log_var + 2 * torch.as_tensor(self._along_channels(self.scale, log_var)).log()

    def denormalise_log_var(self, log_var: Tensor) -> Tensor:
        """And back."""
        self._check(log_var)
        return log_var - 2 * torch.as_tensor(self._along_channels(self.scale, log_var)).log()

    def denormalise(self, latent: Tensor) -> Tensor:
        """Normalised latents (B, *shape) to raw ones; ShapeError for latents of another shape."""
        self._check(latent)
        return latent / self._along_channels(self.scale, latent) + self._along_channels(self.shift, latent)

    def _along_channels(self, values: float | tuple[float, ...], like: Tensor) -> float | Tensor:
        if not isinstance(values, tuple):
            return values
        return like.new_tensor(values).view(-1, *[1] * (len(self.shape) - 1))

    def _check(self, latent: Tensor) -> None:
        if tuple(latent.shape[1:]) != self.shape:
            raise ShapeError(
                f"latents must have shape (batch, {', '.join(map(str, self.shape))}), got {tuple(latent.shape)}: "
                "where they depend on the size of the images, it has to be the one that the base was wrapped for"
            )


class Likelihood(Protocol):
    """A distribution over images (B, C, H, W) with values in [0, 1], or over whatever else the base is of."""

    @property
    def mean(self) -> Tensor:
        """(B, C, H, W) in [0, 1]."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-likelihood of images in [0, 1], summed over channels and pixels: (B,), float32, nats."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw, (B, C, H, W) in [0, 1]."""


@dataclass
class Encoding:
    """What the base's encoder says of a batch of images.

    Attributes:
        features: (B, D), read by the posterior heads.
        mean: (B, *latent.shape), the base's own embedding, normalised; zeros for a base without (`embeds`).
        log_var: its log-variance, same shape; None for a deterministic encoder. See `no_wider_than_the_prior`.
        states: whatever `decode` wants to know of the images (NVAE: encoder states for the deeper latents).
    """

    features: Tensor
    mean: Tensor
    log_var: Tensor | None = None
    states: Any = None


@dataclass
class Decoding:
    """What the base's decoder makes of a batch of decoder inputs.

    Attributes:
        likelihood: p(x | decoder input, deeper latents).
        kl: (B,), KL of the base's deeper latents in nats; zeros for one-level bases.
        residuals: the standardised noise of each deeper latent under its prior, (value - prior mean) / prior std, in
            decoding order; empty for one-level bases. Given back to `decode`, it replays the same noise.
    """

    likelihood: Likelihood
    kl: Tensor
    residuals: tuple[Tensor, ...] = field(default=())

    @property
    def mean(self) -> Tensor:
        return self.likelihood.mean

    def log_prob(self, x: Tensor) -> Tensor:
        return self.likelihood.log_prob(x)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.likelihood.sample(generator)


class DecoderAdapter(nn.Module, ABC):
    """Shows a base to the library. Subclass it, set the attributes, and write `encode` and `decode`.

    The base itself is a submodule, so that ``.to()``, ``.parameters()`` and ``.state_dict()`` reach it.

    Bases are of images, unless `check_inputs`, `data_settings`, `present` and `kind` say otherwise.

    Attributes:
        name: the registry's name of the family, as in ``--base nvae``.
        kind: what the base generates.
        draws: whether what is generated is a draw unless told otherwise, and not the likelihood's mean.
        embeds: whether `Encoding.mean` is a decoder input that x can be decoded from, as the latent objective needs.
        latent: the decoder input.
        image_shape: (C, H, W) of the images; bases of anything else have none.
        num_features: D, the width of `Encoding.features`.
        source: where the base came from (path or hub id), for the saved configuration; None if unknown.
        load_options: names of the keywords that `load` takes besides the path.
        options: those that the base was loaded with, for the saved configuration: of JSON's types.
        own_parts: names of submodules that are this library's and not the base's, such as an encoder made for a
            decoder without one: they are saved with the module, and are no part of the base's fingerprint.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind] = "images"
    draws: ClassVar[bool] = False
    embeds: bool = True
    latent: LatentSpec
    image_shape: tuple[int, int, int]
    num_features: int
    source: str | None = None
    load_options: ClassVar[tuple[str, ...]] = ()
    options: Mapping[str, Any] = MappingProxyType({})
    own_parts: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def matches(cls, base: object) -> bool:
        """Whether `wrap` can show `base`; must not import heavy packages. Without it, callers build the adapter."""
        return False

    @classmethod
    def wrap(cls, base: Any) -> DecoderAdapter:
        """The adapter around a base for which `matches` is true; families may take options besides."""
        raise TypeError(f"{cls.__name__} is built by its caller, not found by the type of the base")

    @classmethod
    def load(cls, path: str | Path) -> DecoderAdapter:
        """The adapter around a base read from a file, a folder or a Hub repository.

        Families with `load_options` take these as keywords: `context_module.io.hub.HUB_OPTIONS`, where they read
        repositories, and what else they know. Raises CheckpointError for what it cannot read.
        """
        raise CheckpointError(
            f"a {cls.name!r} base cannot be rebuilt from a file: build it yourself and pass base={cls.__name__}(...)"
        )

    @classmethod
    def fresh(cls, image_shape: tuple[int, int, int]) -> DecoderAdapter:
        """The adapter around a new base with random weights, for images (C, H, W); ValueError if that cannot be."""
        raise ValueError(f"a {cls.name!r} base cannot be made from scratch here: give a pretrained one")

    @classmethod
    def pretraining(cls) -> type[Pretraining]:
        """How recipes/pretrain.py makes and trains a new base of the family; ValueError for one that it does not."""
        raise ValueError(f"a {cls.name!r} base is not pretrained here: give a pretrained one")

    def save(self, directory: str | Path) -> None:
        """Write the base so that `load` reads it. Families that do not write this cannot train with a module."""
        raise CheckpointError(f"a {self.name!r} base cannot be saved by this library")

    def decoder_parts(self) -> list[nn.Module]:
        """The submodules that `decode` runs and `encode` does not: LoRA adapts layers in them."""
        raise LoraError(
            f"a {self.name!r} base does not say which of its parts decode, so it takes no LoRA: write "
            f"{type(self).__name__}.decoder_parts"
        )

    @abstractmethod
    def encode(self, x: Tensor) -> Encoding:
        """Encode images (B, C, H, W) with values in [0, 1], or what else `check_inputs` returns."""

    @abstractmethod
    def decode(
        self,
        latent: Tensor,
        encoding: Encoding | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Decoding:
        """Decode normalised decoder inputs (B, *latent.shape).

        Args:
            latent: the decoder input.
            encoding: of the images to explain. Deeper latents are then drawn from their posterior, and `Decoding.kl`
                is their KL; without it they are drawn from their prior, and it is zero.
            residuals: replaces the prior's noise (see `Decoding.residuals`); not together with `encoding`.
            temperature: multiplies the standard deviation of every deeper latent drawn (posterior or prior); 0 gives
                their means. Densities and KLs are those of the untempered distributions.
            generator: for the draws; the default generator without it.
        """

    def sample_latent(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws from the base's own prior over decoder inputs, normalised; N(0, I) unless a family overrides it."""
        return draw_normal(torch.empty(n, *self.latent.shape, device=self.device), generator)

    @property
    def device(self) -> torch.device:
        """Where the base's first parameter is."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the base's first parameter; images and decoder inputs come in it."""
        return next((parameter.dtype for parameter in self.parameters()), torch.float32)

    @property
    def takes(self) -> str:
        """What the base is of, for people: ``images 3x32x32``."""
        return f"images {'x'.join(map(str, self.image_shape))}"

    def data_settings(self) -> dict[str, Any]:
        """Arguments of `context_module.data.load_data` that make data fit the base."""
        channels, height, width = self.image_shape
        return {"resolution": height if height == width else (height, width), "channels": channels, "base": self}

    def present(self, samples: Tensor) -> Any:
        """Means or samples as `ContextualDecoder.generate` hands them out: images (B, C, H, W), float32."""
        return samples.float()

    def seen(self, mean: Tensor) -> Tensor:
        """`Decoding.mean` (B, ...) as distances between what is decoded are to see it; here, as it is."""
        return mean.float()

    def check_inputs(self, x: Any) -> Tensor:
        """x as `encode` and `Decoding.log_prob` take it, but for the device: here, images as they are.

        Raises:
            ShapeError: unless x is a float tensor (B, *image_shape) with finite values in [0, 1].
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ShapeError(f"images must be a float tensor with values in [0, 1], got {found}: use x.float() / 255")
        if x.ndim != 4 or tuple(x.shape[1:]) != tuple(self.image_shape):
            raise ShapeError(
                f"the base {self.name!r} takes images of shape (batch, {', '.join(map(str, self.image_shape))}) "
                f"(channels, height, width), got {tuple(x.shape)}: resize or convert the images"
            )
        if torch.compiler.is_compiling() or not len(x):
            return x
        low, high = (bound.item() for bound in x.detach().aminmax())
        if not (low >= 0 and high <= 1):  # also true for NaN
            raise ShapeError(f"image values must be finite and in [0, 1], got a range of [{low:g}, {high:g}]")
        return x
