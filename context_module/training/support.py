"""Which concept acts on which: what the data support, by a statistic that effects on the picture do not fool.

Under do(k) concept k is exogenous: whatever its reading then shares with another concept's is picture, not cause. So
concept j acts on k if k's reading depends on j's where both follow their mechanisms and where j is forced, beyond what
they share under do(k). All have to hold: of observational images a hidden cause would do as well, and of those
together with do(j) a picture of j that looks like k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.training.gaussians import Moments, reader

__all__ = ["agreed", "find_support"]

_SUPPORTED, _POSSIBLE = 0.15, 0.05  # share of variance
_TIMES = 3  # as strong as the other way round
_BLURRED = 0.8  # two readings that share more in observational images are not told apart
_CLEAR = 1.2  # standard deviations by which a concept's reading tells its own context from the observational one
_LOADED = 0.1  # times the mean variance: added to the covariances that readings are fitted with

_Readings = tuple[Tensor, Tensor]


@torch.no_grad()
def find_support(
    coordinates: Mapping[str, Tensor],
    energies: Sequence[Tensor],
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

    The time is that of the pairs whose readings share anything in observational images.

    The bars were chosen on nine data sets together so that no edge was wrong: a wrong one costs compositions more than
    a missing one.

    Args:
        coordinates: (n, r) by context, ``obs`` and the concepts.
        energies: of each concept, (r, r), the second moment of what its intervention changes.
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
            reader(energy, (usual_moments + moments[name].covariance) / 2, weigh, 1, _LOADED)[0]
            for name, energy in zip(concepts, energies, strict=True)
        ],
        dim=1,
    )
    mixed = torch.Generator().manual_seed(0)
    read = {}
    for name in (OBSERVATIONAL, *concepts):
        rows = (coordinates[name] @ readers).cpu()
        read[name] = rows[torch.randperm(len(rows), generator=mixed)]
    usual = read[OBSERVATIONAL]
    clear = torch.tensor([_separation(usual[:, k], read[name][:, k]) >= _CLEAR for k, name in enumerate(concepts)])
    # the support is the least of six shares: where the first of them is slight, there is none to look for
    first = torch.stack([_explained(usual[:, j : j + 1], usual) for j in range(count)], dim=1) / usual.var(0)[:, None]
    blurred = (first > _BLURRED) | ~(clear & clear[:, None])
    likely = (first >= _POSSIBLE).fill_diagonal_(False)
    spread = torch.stack([torch.cat([usual[:, k], read[name][:, k]]).var() for k, name in enumerate(concepts)])
    mean, deviation, weights = torch.zeros(count, count), torch.ones(count, count), torch.zeros(4, count, count)
    for k, name in enumerate(concepts):  # what readings share where the effect's is forced is picture
        if (causes := likely[k]).any():
            picture = _Cubic.fit(read[name][:, causes], read[name][:, k : k + 1])
            mean[k, causes], deviation[k, causes], weights[:, k, causes] = picture
    found = torch.zeros(count, count)
    for j, name in enumerate(concepts):
        if (effects := likely[:, j]).any():
            picture = _Cubic(mean[effects, j], deviation[effects, j], weights[:, effects, j])
            known, forced = ((rows[:, j : j + 1], rows[:, effects]) for rows in (usual, read[name]))
            found[effects, j] = _support(known, forced, picture, spread[effects])
    decided = (found >= _SUPPORTED) & (found >= _TIMES * found.mT) & ~blurred
    reach = torch.einsum("rk,jrs,sk->kj", readers, torch.stack(list(energies)), readers).cpu()
    within = reach <= reach.diagonal()[:, None]
    undecided = (found >= _POSSIBLE) & ~decided & ~decided.mT & within
    return found * decided, found * undecided


def agreed(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Support and undecided edges, (K, K) each, that two searches have both found, as `find_support` gives them.

    An edge that one of them has decided and the other thinks possible is undecided.
    """
    least = (first[0] + first[1]).minimum(second[0] + second[1])
    decided = (first[0] > 0) & (second[0] > 0)
    return least * decided, least * ~decided


def _support(usual: _Readings, forced: _Readings, picture: _Cubic, spread: Tensor) -> Tensor:
    """Of edges from one concept to m others: (m,).

    Args:
        usual, forced: readings (n, 1) of the cause and (n, m) of the effects, in observational images and under do of
            the cause.
        picture: each effect's reading by the cause's, under do of the effect.
        spread: (m,), the variance of each effect's reading in observational images and under do of it together.
    """
    n = min(len(usual[0]), len(forced[0]))
    x, y = (torch.stack([a[:n], b[:n]], dim=1).flatten(0, 1) for a, b in zip(usual, forced, strict=True))
    shares = []
    for (cause, effect), total in ((usual, usual[1].var(0)), ((x, y), spread), (forced, forced[1].var(0))):
        shares += [_explained(cause, effect) / total, _explained(cause, effect - picture(cause)) / total]
    return torch.stack(shares).amin(0).clamp_min(0)


def _separation(a: Tensor, b: Tensor) -> float:
    """How far the means of two samples are apart, in their standard deviations."""
    return ((b.mean() - a.mean()).abs() / ((a.var() + b.var()) / 2).sqrt().clamp_min(1e-6)).item()


class _Cubic(NamedTuple):
    """Least-squares cubics of columns y (n, m) in columns x (n, m), or in one (n, 1), or of one.

    Of x beyond three standard deviations they are as at these.
    """

    mean: Tensor
    deviation: Tensor
    weights: Tensor

    @classmethod
    def fit(cls, x: Tensor, y: Tensor) -> _Cubic:
        mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
        terms = _terms((x - mean) / deviation)
        gram = torch.einsum("anm,bnm->mab", terms, terms) + 1e-2 * len(x) * torch.eye(4)
        if x.shape[1] == 1:  # one system for all columns of y
            return cls(mean, deviation, torch.linalg.solve(gram[0], terms[..., 0] @ y))
        return cls(mean, deviation, torch.linalg.solve(gram, (terms * y).sum(1).mT[..., None])[..., 0].mT)

    def __call__(self, x: Tensor) -> Tensor:
        terms = _terms((x - self.mean) / self.deviation)
        return terms[..., 0].mT @ self.weights if terms.shape[2] == 1 else (terms * self.weights[:, None]).sum(0)


def _terms(x: Tensor) -> Tensor:
    x = x.clamp(-3, 3)
    return torch.stack([x, x**2, x**3, torch.ones_like(x)])


def _explained(x: Tensor, y: Tensor) -> Tensor:
    """The variance of columns y (n, m) that a cubic in x (n, 1) takes away, of the half it was not fitted to: (m,)."""
    half = len(x) // 2
    return y[half:].var(0) - (y[half:] - _Cubic.fit(x[:half], y[:half])(x[half:])).var(0)
