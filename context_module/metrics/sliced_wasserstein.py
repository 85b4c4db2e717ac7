"""Sliced Wasserstein distance between two sets of images: the paper's measure of concept and composition."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from context_module.metrics.case import Case
from context_module.metrics.estimate import Estimate, bootstrap_indices
from context_module.metrics.metric import ContextMetric, Figure
from context_module.metrics.pairs import flat_pair

__all__ = ["METRIC", "sliced_wasserstein"]

INTERVAL_PROJECTIONS = 50  # directions of the resamples: their spread hardly depends on the number


def sliced_wasserstein(
    a: Tensor, b: Tensor, *, projections: int = 200, seed: int = 0, resamples: int = 100
) -> Estimate:
    """Sliced 2-Wasserstein distance of two sets of images, each flattened to a vector of pixels.

    Bonneel et al. 2015, with the directions that POT draws for a seed. Zero for equal sets; for samples of one
    distribution it has a floor that shrinks with their number, so give both sets the same size and read it beside real
    against real. The interval is for the draw of the images, with the directions fixed; it comes from the first 50 of
    them.

    Args:
        a, b: (n, C, H, W) and (m, C, H, W), in [0, 1].
        projections: random directions (the paper: 50).
        seed: of the directions and the resamples.
        resamples: of the bootstrap, at least 2.

    Raises:
        ShapeError: for images of different shapes.
        DataError: for fewer than `MIN_SAMPLES` images of either, or NaN among them.
        ValueError: for fewer than two resamples, or no projection.
    """
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}")
    a, b = (images.cpu() for images in flat_pair(a, b))
    directions = _directions(a.shape[1], projections, seed)
    along_a, along_b = a @ directions, b @ directions
    from_a, from_b, width = _common_steps(len(a), len(b))

    def between(sorted_a: Tensor, sorted_b: Tensor) -> Tensor:
        return ((sorted_a[:, from_a] - sorted_b[:, from_b]).square_() @ width).mean().sqrt()

    of_a, of_b = (_Quantiles(along[:, :INTERVAL_PROJECTIONS]) for along in (along_a, along_b))
    return bootstrap_indices(
        lambda rows_a, rows_b: between(of_a.resampled(rows_a), of_b.resampled(rows_b)),
        (len(a), len(b)),
        value=between(along_a.T.sort().values, along_b.T.sort().values),
        resamples=resamples,
        seed=seed,
    )


@lru_cache(maxsize=1)  # those of one context are those of the next
def _directions(size: int, count: int, seed: int) -> Tensor:
    """Directions (size, count), float32, uniform on the sphere; not to be written to."""
    drawn = np.random.RandomState(seed).randn(size, count)
    return torch.from_numpy(drawn / np.sqrt((drawn**2).sum(0, keepdims=True))).float()


class _Quantiles:
    """Samples (n, P) of P one-dimensional distributions, sorted once for all resamples."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.order = values.T.sort()

    def resampled(self, rows: Tensor) -> Tensor:
        """The sorted samples (P, n) of these rows."""
        counts = rows.bincount(minlength=len(rows))[self.order]
        return self.values.flatten().repeat_interleave(counts.flatten()).view_as(self.values)


def _common_steps(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The quantile functions of n and of m points on common steps: both indices, and the steps' widths."""
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()  # in units of 1 / (n m)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // m, starts // n, (ends - starts).float() / (n * m)


def _score(samples: Tensor, real: Tensor, context: str, case: Case) -> Estimate:
    return sliced_wasserstein(samples, real, projections=case.projections, seed=case.seed)


METRIC = ContextMetric(
    name="sliced_wasserstein",
    figure=Figure(
        "Sliced Wasserstein distance",
        "lower",
        "Both sets of images are projected onto random directions in pixel space; the distance is the root mean "
        "square gap between their sorted projections. It is the paper's measure.",
    ),
    score=_score,
    columns=("model", "base", "floor", "arithmetic", "maps", "recon", "unchanged"),
)
