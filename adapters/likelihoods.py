"""Likelihoods that more than one base uses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from context_module.draws import draw_uniform

__all__ = ["BernoulliLikelihood"]


class BernoulliLikelihood:
    """Independent Bernoulli variables, one per channel and pixel.

    Args:
        logits: (B, C, H, W); computations are in float32 whatever their dtype.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.float()

    @property
    def mean(self) -> Tensor:
        """(B, C, H, W) in [0, 1]."""
        return self.logits.sigmoid()

    def log_prob(self, x: Tensor) -> Tensor:
        """x log p + (1 - x) log(1 - p) summed over channels and pixels: (B,), nats. Values between 0 and 1 may be."""
        losses = functional.binary_cross_entropy_with_logits(self.logits, x.float(), reduction="none")
        return -losses.flatten(1).sum(1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A binary draw, (B, C, H, W)."""
        return (draw_uniform(self.logits, generator) < self.mean).float()
