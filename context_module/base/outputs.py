"""What a wrapped base gives back: losses and reconstructions, and the noise behind images."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from context_module.adapters import Decoding

__all__ = ["Abduction", "ContextualOutput"]


@dataclass
class ContextualOutput:
    """What one forward pass says of a batch; all losses per sample, (B,), float32, in nats.

    Attributes:
        loss: neg_log_likelihood + beta * kl_noise + kl_base.
        neg_log_likelihood: -log p(x | decoder input, deeper latents), summed over channels and pixels, or tokens.
        kl_noise: KL(q(z | x, context) || N(0, I)).
        kl_base: KL of the base's latents: of the decoder input, for a module with latent noise before a base with a
            probabilistic encoder, and of the deeper ones, if there are any.
        decoding: the base's decoding, for its mean, samples and density.

    ``out["loss"]`` and ``out[0]`` are ``out.loss``, as of the outputs of transformers and diffusers.
    """

    loss: Tensor
    neg_log_likelihood: Tensor
    kl_noise: Tensor
    kl_base: Tensor
    decoding: Decoding

    def __getitem__(self, key: str | int) -> Any:
        names = [field.name for field in fields(self)]
        if isinstance(key, int):
            return getattr(self, names[key])
        if key not in names:
            raise KeyError(f"no {key!r} in the output; it has {', '.join(names)}")
        return getattr(self, key)

    @property
    def reconstruction(self) -> Tensor:
        """(B, C, H, W) in [0, 1], the likelihood's mean; of a language model its likeliest token ids (B, T)."""
        return self.decoding.mean


@dataclass
class Abduction:
    """All the noise behind given images: what stays the same in their counterfactuals.

    Attributes:
        noise: (B, (K+F) w_z), of the context module.
        latent: (B, *latent_shape), standardised noise of the decoder input; None for a module without latent noise.
        residuals: standardised noise of the base's deeper latents; empty for one-level bases.
    """

    noise: Tensor
    latent: Tensor | None = None
    residuals: tuple[Tensor, ...] = ()
