"""Which concept acts on which: what the data support, by a statistic that effects on the picture do not fool.

Under do(k) concept k is exogenous: whatever its reading then shares with another concept's is picture, not cause. So
concept j acts on k if k's reading depends on j's where both follow their mechanisms and where j is forced, beyond what
they share under do(k). All have to hold: of observational images a hidden cause would do as well, and of those
together with do(j) a picture of j that looks like k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.training.gaussians import Moments, reader

__all__ = ["find_support"]

_SUPPORTED, _POSSIBLE = 0.15, 0.05  # share of variance
_TIMES = 3  # as strong as the other way round
_BLURRED = 0.8  # two readings that share more in observational images are not told apart
_CLEAR = 1.2  # standard deviations by which a concept's reading tells its own context from the observational one
_LOADED = 0.1  # times the mean variance: added to the covariances that readings are fitted with


@torch.no_grad()
def find_support(
    coordinates: Mapping[str, Tensor],
    changes: Sequence[Tensor],
    moments: Mapping[str, Moments],
    concepts: Sequence[str],
    weigh: Tensor,
) -> tuple[Tensor, Tensor]:
    """How well each possible edge is supported, and which are undecided.

    A concept is read along the main direction of what its intervention changes. The support of j -> k is the share of
    the variance of k's reading that a cubic in j's explains, of images that it was not fitted to: the least of six,
    raw or with what the two share under do(k) taken off, in observational images, in those of do(j), or in both. An
    edge takes a support of .15 and three times that of the reverse one; from .05 on one is undecided otherwise, and so
    is one between readings that are nearly the same, or that hardly tell their own contexts from observational images;
    unless an intervention on j moves k's reading further than one on k itself does, which is picture.

    The bars were chosen on nine data sets together so that no edge was wrong: a wrong one costs compositions more than
    a missing one.

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
    count = len(concepts)
    usual_moments = moments[OBSERVATIONAL].covariance
    readers = torch.cat(
        [
            reader(change, (usual_moments + moments[name].covariance) / 2, weigh, 1, _LOADED)[0]
            for name, change in zip(concepts, changes, strict=True)
        ],
        dim=1,
    )
    mixed = torch.Generator().manual_seed(0)
    read = {}
    for name in (OBSERVATIONAL, *concepts):
        rows = (coordinates[name] @ readers).cpu()
        read[name] = rows[torch.randperm(len(rows), generator=mixed)]
    found, blurred = torch.zeros(count, count), torch.zeros(count, count, dtype=torch.bool)
    clear = [_separation(read[OBSERVATIONAL][:, k], read[name][:, k]) >= _CLEAR for k, name in enumerate(concepts)]
    for j, cause in enumerate(concepts):
        for k, effect in enumerate(concepts):
            if j == k:
                continue
            usual, forced, cut = (read[name][:, [j, k]] for name in (OBSERVATIONAL, cause, effect))
            blurred[k, j] = _explained(usual) > _BLURRED * usual[:, 1].var() or not (clear[j] and clear[k])
            shared = _Cubic(*cut.mT)
            n = min(len(usual), len(forced))
            both = torch.stack([usual[:n], forced[:n]], dim=1).flatten(0, 1)
            spread = torch.cat([usual[:, 1], cut[:, 1]]).var()
            shares = []
            for rows, total in ((usual, usual[:, 1].var()), (both, spread), (forced, forced[:, 1].var())):
                rest = torch.stack([rows[:, 0], rows[:, 1] - shared(rows[:, 0])], dim=1)
                shares += [_explained(rows) / total, _explained(rest) / total]
            found[k, j] = torch.stack(shares).min().clamp_min(0)
    decided = (found >= _SUPPORTED) & (found >= _TIMES * found.mT) & ~blurred
    reach = torch.stack([(change @ readers).square().mean(0).cpu() for change in changes], dim=1)
    within = reach <= reach.diagonal()[:, None]
    undecided = (found >= _POSSIBLE) & ~decided & ~decided.mT & within
    return found * decided, found * undecided


def _separation(a: Tensor, b: Tensor) -> float:
    """How far the means of two samples are apart, in their standard deviations."""
    return ((b.mean() - a.mean()).abs() / ((a.var() + b.var()) / 2).sqrt().clamp_min(1e-6)).item()


class _Cubic:
    """The least-squares cubic of y (n,) in x (n,); of x beyond three standard deviations as at these."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.mean, self.deviation = x.mean(), x.std().clamp_min(1e-6)
        terms = self._terms(x)
        self.weights = torch.linalg.solve(terms.mT @ terms + 1e-2 * len(x) * torch.eye(4), terms.mT @ y)

    def _terms(self, x: Tensor) -> Tensor:
        x = ((x - self.mean) / self.deviation).clamp(-3, 3)
        return torch.stack([x, x**2, x**3, torch.ones_like(x)], dim=1)

    def __call__(self, x: Tensor) -> Tensor:
        return self._terms(x) @ self.weights


def _explained(rows: Tensor) -> Tensor:
    """The variance of the second column that a cubic in the first takes away, of the half it was not fitted to."""
    half = len(rows) // 2
    x, y = rows.mT
    return y[half:].var() - (y[half:] - _Cubic(x[:half], y[:half])(x[half:])).var()
