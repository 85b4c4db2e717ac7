"""The normal distribution of NVAE's latents, with softly clamped parameters."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

from context_module.normal import draw_normal

__all__ = ["Normal"]


def _soft_clamp(raw: Tensor) -> Tensor:
    return 5 * torch.tanh(raw / 5)


@dataclass(frozen=True)
class Normal:
    """Independent normal variables.

    Attributes:
        mean: (B, C, H, W), float32.
        sigma: standard deviations, same shape.
    """

    mean: Tensor
    sigma: Tensor

    @classmethod
    def from_raw(cls, raw: Tensor) -> Normal:
        """The distribution a network's output stands for.

        Args:
            raw: (B, 2 C, H, W), means in the first half of the channels and log standard deviations in the second;
                both are clamped to (-5, 5), and 1e-2 is added to the standard deviations.
        """
        mean, log_sigma = raw.float().chunk(2, dim=1)
        return cls(_soft_clamp(mean), _soft_clamp(log_sigma).exp() + 1e-2)

    def sample(self, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """A draw with standard deviations times `temperature`; at 0 the mean, for which no noise is drawn."""
        if temperature == 0:
            return self.mean
        return self.mean + temperature * self.sigma * draw_normal(self.mean, generator)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of each element, nats."""
        return -0.5 * self.standardise(value) ** 2 - self.sigma.log() - 0.5 * log(2 * pi)

    def standardise(self, value: Tensor) -> Tensor:
        """The noise (value - mean) / sigma that makes `value`."""
        return (value - self.mean) / self.sigma

    def kl(self, prior: Normal) -> Tensor:
        """KL(self || prior) of each element, nats."""
        # this form keeps its digits where both distributions nearly agree
        shift = (self.mean - prior.mean) / prior.sigma
        ratio = self.sigma / prior.sigma
        return 0.5 * (shift**2 + ratio**2) - 0.5 - ratio.log()
