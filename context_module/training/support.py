"""Which concept acts on which: what the data support, by a statistic that effects on the picture do not fool.

Under do(k) concept k is exogenous: whatever its reading then shares with another concept's is picture, not cause. So
concept j acts on k if k's reading depends on j's where both follow their mechanisms or j is forced, beyond what they
share under do(k). Both have to hold of observational images, where a hidden cause would do as well, and of those
together with do(j), where it would not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.training.gaussians import Moments, reader

__all__ = ["find_support"]

_SUPPORTED, _POSSIBLE = 0.1, 0.05  # share of variance
_TIMES = 3  # as strong as the other way round
_BLURRED = 0.3  # two readings that share more where one is exogenous are not told apart
_LOADED = 0.1


@torch.no_grad()
def find_support(
    coordinates: Mapping[str, Tensor],
    changes: Sequence[Tensor],
    moments: Mapping[str, Moments],
    concepts: Sequence[str],
    weigh: Tensor,
) -> tuple[Tensor, Tensor]:
    """How well each possible edge is supported, and which are undecided.

    The support of j -> k is the share of the variance of k's reading that a cubic in j's reading explains, of images
    that it was not fitted to: the least of four, raw or with what the two share under do(k) taken off, in
    observational images or those with do(j). An edge takes a support of .1 and three times that of the reverse one;
    from .05 on one is undecided otherwise,
    and so is one between readings that share much under do(k).

    Args:
        coordinates: (n, r) by context, ``obs`` and the concepts.
        changes: of each concept, (n, r), what its intervention changes.
        moments: of the coordinates, by context.
        concepts: the K names.
        weigh: (r,), how much of each coordinate pictures show.

    Returns:
        two (K, K), effects in rows and causes in columns: the support, zero where an edge is not supported; and the
        support of undecided edges, zero elsewhere.
    """
    readers = [
        reader(change, (moments[OBSERVATIONAL].covariance + moments[name].covariance) / 2, weigh, 1, _LOADED)[0][:, 0]
        for name, change in zip(concepts, changes, strict=True)
    ]
    mixed = torch.Generator().manual_seed(0)
    matrix = torch.stack(readers, dim=1)
    reads = {}
    for name in (OBSERVATIONAL, *concepts):
        rows = coordinates[name]
        reads[name] = (rows[torch.randperm(len(rows), generator=mixed).to(rows.device)] @ matrix).cpu()
    found = torch.zeros(len(concepts), len(concepts))
    blurred = torch.zeros(len(concepts), len(concepts), dtype=torch.bool)
    usual = reads[OBSERVATIONAL]
    for j, cause in enumerate(concepts):
        n = min(len(usual), len(reads[cause]))
        forced = torch.stack([usual[:n], reads[cause][:n]], dim=1).flatten(0, 1)
        for k, effect in enumerate(concepts):
            if j == k:
                continue
            overlap = _explained(reads[effect][:, j], reads[effect][:, k]) / reads[effect][:, k].var()
            blurred[k, j] = overlap > _BLURRED
            shared = _cubic(reads[effect][:, j], reads[effect][:, k])
            own = torch.cat([usual[:, k], reads[effect][:, k]]).var()
            shares = []
            for rows, total in ((usual, usual[:, k].var()), (forced, own)):
                given, answer = rows[:, j], rows[:, k]
                shares += [_explained(given, answer) / total, _explained(given, answer - shared(given)) / total]
            found[k, j] = torch.stack(shares).min().clamp_min(0)
    decided = (found >= _SUPPORTED) & (found >= _TIMES * found.mT) & ~blurred
    open_ = (found >= _POSSIBLE) & ~decided & ~decided.mT
    return found * decided, found * open_


class _cubic:
    """The least-squares cubic of y (n,) in x (n,), both any; of x beyond three standard deviations as at these."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.mean, self.deviation = x.mean(), x.std().clamp_min(1e-6)
        terms = self._terms(x)
        gram = terms.mT @ terms + 1e-2 * len(x) * torch.eye(4)
        self.weights = torch.linalg.solve(gram, terms.mT @ y)

    def _terms(self, x: Tensor) -> Tensor:
        x = ((x - self.mean) / self.deviation).clamp(-3, 3)
        return torch.stack([x, x**2, x**3, torch.ones_like(x)], dim=1)

    def __call__(self, x: Tensor) -> Tensor:
        return self._terms(x) @ self.weights


def _explained(x: Tensor, y: Tensor) -> Tensor:
    """The variance of y that a cubic in x takes away, of the half of the rows that it was not fitted to."""
    half = len(x) // 2
    rest = y[half:] - _cubic(x[:half], y[:half])(x[half:])
    return y[half:].var() - rest.var()
