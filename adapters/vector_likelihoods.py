"""Likelihoods of vectors: Gaussian columns, and counts, Poisson or negative binomial around expected counts."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from context_module.adapters.contract import Likelihood
from context_module.normal import draw_normal

__all__ = ["VECTOR_LIKELIHOODS", "VectorLikelihood", "VectorOutput"]

VectorLikelihood = Literal["negative_binomial", "poisson", "gaussian"]
VECTOR_LIKELIHOODS: tuple[str, ...] = get_args(VectorLikelihood)
_LEAST = 1e-8  # expected counts
_NARROW = 10.0  # times the inverse dispersion that rows show: latents are to explain the most of it
_WIDEST = (-5.0, 15.0)  # logarithms of inverse dispersions to start from


class GaussianVectors:
    """Independent normal columns.

    Args:
        mean: (B, G).
        log_scale: (G,), logarithms of standard deviations.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self.mean, self._log_scale = mean.float(), log_scale.float()

    def log_prob(self, x: Tensor) -> Tensor:
        """(B,), nats."""
        scaled = (x.float() - self.mean) * (-self._log_scale).exp()
        return -(0.5 * scaled.square() + self._log_scale + 0.5 * math.log(2 * math.pi)).sum(1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """(B, G)."""
        return self.mean + self._log_scale.exp() * draw_normal(self.mean, generator)


class PoissonCounts:
    """Independent Poisson columns.

    Args:
        mean: expected counts (B, G).
    """

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean.float().clamp_min(_LEAST)

    def log_prob(self, x: Tensor) -> Tensor:
        """(B,), nats."""
        x = x.float()
        return (x * self.mean.log() - self.mean - torch.lgamma(x + 1)).sum(1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """(B, G), whole numbers."""
        return _poisson(self.mean, generator)


class NegativeBinomialCounts:
    """Independent negative binomial columns: Poisson counts whose rates are Gamma distributed around their means.

    Args:
        mean: expected counts m (B, G).
        log_inverse: (G,) or (B, G), the logarithm of t; the variance is m + m^2 / t.
    """

    def __init__(self, mean: Tensor, log_inverse: Tensor) -> None:
        self.mean, self._log_inverse = mean.float().clamp_min(_LEAST), log_inverse.float()

    def log_prob(self, x: Tensor) -> Tensor:
        """(B,), nats."""
        return self.log_probs(x).sum(1)

    def log_probs(self, x: Tensor) -> Tensor:
        """Of every column, (B, G), nats."""
        x, log_mean, log_t = x.float(), self.mean.log(), self._log_inverse
        total = torch.logaddexp(log_mean, log_t)
        t = log_t.exp()
        ways = torch.lgamma(x + t) - torch.lgamma(t) - torch.lgamma(x + 1)
        return ways + t * (log_t - total) + x * (log_mean - total)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """(B, G), whole numbers."""
        t = self._log_inverse.exp().expand_as(self.mean)
        device = self.mean.device if generator is None else generator.device
        gamma = torch._standard_gamma(t.to(device), generator=generator)
        return _poisson(self.mean * (gamma.to(t.device) / t), generator)


class VectorOutput(nn.Module):
    """The last step of a decoder of vectors: its outputs (B, G) to a likelihood.

    Of counts the outputs are logits of each column's share of a row's library, the sum of its counts, which is
    observed; of Gaussian columns their means.

    Args:
        columns: G.
        likelihood: one of `VECTOR_LIKELIHOODS`.

    Raises:
        ValueError: for another likelihood.
    """

    def __init__(self, columns: int, likelihood: VectorLikelihood) -> None:
        super().__init__()
        if likelihood not in VECTOR_LIKELIHOODS:
            raise ValueError(f"likelihood must be one of {', '.join(VECTOR_LIKELIHOODS)}, got {likelihood!r}")
        self.likelihood = likelihood
        #: of Gaussian columns the logarithm of the deviation, of negative binomial ones of the inverse dispersion
        self.log_spread = nn.Parameter(torch.zeros(columns)) if likelihood != "poisson" else None

    @torch.no_grad()
    def fit(self, x: Tensor) -> Tensor:
        """Start from the spreads of rows (N, G); the outputs (G,) whose mean is theirs."""
        if self.likelihood == "gaussian":
            assert self.log_spread is not None
            self.log_spread.copy_(x.std(0, correction=0).clamp_min(1e-3).log())
            return x.mean(0)
        library = x.sum(1, keepdim=True).clamp_min(1)
        shares = x / library
        mean, typical = shares.mean(0), library.mean()
        if self.log_spread is not None:  # the variance m + m^2 / t of rows of the typical library
            expected = (typical * mean).clamp_min(_LEAST)
            beyond = (typical.square() * shares.var(0, correction=0) - expected).clamp_min(1e-3 * expected)
            self.log_spread.copy_((_NARROW * expected.square() / beyond).log().clamp(*_WIDEST))
        return (mean + 1 / (len(x) * typical)).log()

    def forward(self, outputs: Tensor, library: Tensor) -> Likelihood:
        """The likelihood of rows (B, G) of a library (B,); of Gaussian columns it takes no part."""
        if self.likelihood == "gaussian":
            assert self.log_spread is not None
            return GaussianVectors(outputs, self.log_spread)
        mean = library[:, None] * outputs.float().softmax(1)
        return PoissonCounts(mean) if self.log_spread is None else NegativeBinomialCounts(mean, self.log_spread)


def _poisson(rate: Tensor, generator: torch.Generator | None) -> Tensor:
    device = rate.device if generator is None else generator.device
    return torch.poisson(rate.to(device), generator=generator).to(rate.device)
