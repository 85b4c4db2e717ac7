"""Likelihoods that more than one base uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from context_module.normal import draw_uniform

__all__ = ["BernoulliLikelihood", "DiscretisedLogistic", "DiscretisedLogisticLikelihood"]

_PROBABILITY = 1e-6  # of the rarer value of a pixel, at least


class BernoulliLikelihood:
    """Independent Bernoulli variables, one per channel and pixel.

    Args:
        logits: (B, C, H, W); computations are in float32 whatever their dtype.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.float()
        self._mean: Tensor | None = None

    @classmethod
    def of_mean(cls, mean: Tensor) -> BernoulliLikelihood:
        """From probabilities (B, C, H, W) in [0, 1], which `mean` returns as they are; values outside are clipped.

        For densities they are kept 1e-6 from both ends, so that no image is impossible.
        """
        mean = mean.float().clamp(0, 1)
        likelihood = cls(mean.clamp(_PROBABILITY, 1 - _PROBABILITY).logit())
        likelihood._mean = mean
        return likelihood

    @property
    def mean(self) -> Tensor:
        """(B, C, H, W) in [0, 1]."""
        return self.logits.sigmoid() if self._mean is None else self._mean

    def log_prob(self, x: Tensor) -> Tensor:
        """x log p + (1 - x) log(1 - p) summed over channels and pixels: (B,), nats. Values between 0 and 1 may be."""
        losses = functional.binary_cross_entropy_with_logits(self.logits, x.float(), reduction="none")
        return -losses.flatten(1).sum(1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A binary draw, (B, C, H, W)."""
        return (draw_uniform(self.logits, generator) < self.mean).float()


class DiscretisedLogistic(nn.Module):
    """Means (B, C, H, W) to `DiscretisedLogisticLikelihood`, with one learned scale for all channels and pixels.

    Args:
        scale: where it starts, in units of images in [0, 1].
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    @property
    def scale(self) -> Tensor:
        """() float32."""
        return self.log_scale.float().exp()

    def forward(self, mean: Tensor) -> DiscretisedLogisticLikelihood:
        return DiscretisedLogisticLikelihood(mean, self.scale.to(mean.device))


class DiscretisedLogisticLikelihood:
    """Independent logistic variables, one per channel and pixel, on the 256 values k / 255.

    The outer bins reach to infinity, so that probabilities sum to one: in bits comparable to any other likelihood of
    8-bit images (Salimans et al. 2017, "PixelCNN++").

    Args:
        mean: (B, C, H, W), of any size; computations are in float32 whatever its dtype.
        scale: (), positive; the standard deviation is 1.81 times that.
    """

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        self.location, self.scale = mean.float(), scale.float()

    @property
    def mean(self) -> Tensor:
        """(B, C, H, W) in [0, 1]; values outside are clipped."""
        return self.location.clamp(0, 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of the bins of x, summed over channels and pixels: (B,), nats."""
        x, half = x.float(), 0.5 / 255
        centred, half_width = (x - self.location) / self.scale, half / self.scale
        below = functional.logsigmoid(centred + half_width)  # log P(at most this bin)
        above = functional.logsigmoid(half_width - centred)  # log P(at least this bin)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), in float32 however far from the mean
        inside = below + above + torch.log(-torch.expm1(-2 * half_width))
        return torch.where(x < half, below, torch.where(x > 1 - half, above, inside)).flatten(1).sum(1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw, (B, C, H, W), of the 256 values."""
        noise = draw_uniform(self.location, generator).clamp(1e-6, 1 - 1e-6).logit()
        return ((self.location + self.scale * noise).clamp(0, 1) * 255).round() / 255
