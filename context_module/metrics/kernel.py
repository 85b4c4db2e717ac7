"""Two distances between sets of images that compare every pair: kernel MMD and the energy distance."""

from __future__ import annotations

import torch
from torch import Tensor

from context_module.errors import DataError
from context_module.metrics.estimate import Estimate, bootstrap_indices
from context_module.metrics.metric import ContextMetric, Figure
from context_module.metrics.pairs import distances, flat_pair

__all__ = ["ENERGY_DISTANCE", "MMD", "discrepancy", "energy_distance", "mmd"]


def mmd(a: Tensor, b: Tensor, *, bandwidth: float | None = None, seed: int = 0, resamples: int = 100) -> Estimate:
    """Squared maximum mean discrepancy with the kernel exp(-|x - y|^2 / (2 bandwidth^2)) (Gretton et al. 2012).

    The unbiased estimate of MMD^2 (not its root): zero on average for samples of one distribution, so it can come out
    slightly negative there; the interval is too wide there, by a factor of up to about 1.7. Time and memory grow with
    (n + m)^2.

    Args:
        a, b: images (n, C, H, W) and (m, C, H, W), flattened to vectors of pixels, or feature vectors (n, D), (m, D).
        bandwidth: by default the median distance between the items of both sets pooled. Fix it to compare scores of
            different pairs of sets.
        seed: of the resamples.
        resamples: of the bootstrap, at least 2.

    Raises:
        ShapeError: for items of different shapes.
        DataError: for fewer than `MIN_SAMPLES` items of either, NaN among them, or a median distance of zero.
        ValueError: for a bandwidth that is not positive, or fewer than two resamples.
    """
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    a, b = flat_pair(a, b)
    pooled = torch.cat([a, b])
    apart = distances(pooled, pooled)
    if bandwidth is None:
        pairs = torch.ones_like(apart, dtype=torch.bool).triu_(1)
        bandwidth = apart[pairs].median().item()
        if bandwidth == 0:
            raise DataError("most items are equal, so their median distance is zero: pass bandwidth=...")
    kernel = apart.div_(bandwidth).square_().mul_(-0.5).exp_()
    return discrepancy(kernel, len(a), resamples, seed)


def energy_distance(a: Tensor, b: Tensor, *, seed: int = 0, resamples: int = 100) -> Estimate:
    """Energy distance 2 E|x - y| - E|x - x'| - E|y - y'| (Szekely & Rizzo 2013), by unbiased U-statistics.

    Zero on average for samples of one distribution, so it can come out slightly negative there. It is the squared MMD
    with the kernel -|x - y| (Sejdinovic et al. 2013) and needs no bandwidth.

    Args:
        a, b, seed, resamples: as for `mmd`, and so are the errors.
    """
    a, b = flat_pair(a, b)
    pooled = torch.cat([a, b])
    return discrepancy(distances(pooled, pooled).neg_(), len(a), resamples, seed)


def discrepancy(kernel: Tensor, n: int, resamples: int, seed: int) -> Estimate:
    """E k(x, x') + E k(y, y') - 2 E k(x, y), from the kernel matrix of the n items x followed by those of y.

    The matrix is written to.
    """
    # An item is no pair with itself, nor with its copies in a resample: pairs weigh w_i w_j, off the diagonal.
    kernel.fill_diagonal_(0)
    within_a, within_b, between = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]

    def of_rows(rows_a: Tensor, rows_b: Tensor) -> Tensor:
        a = rows_a.bincount(minlength=n).to(kernel)
        b = rows_b.bincount(minlength=len(kernel) - n).to(kernel)
        return _within(within_a, a) + _within(within_b, b) - 2 * _form(a, between, b) / (a.sum() * b.sum())

    return bootstrap_indices(of_rows, (n, len(kernel) - n), resamples=resamples, seed=seed)


def _within(kernel: Tensor, weights: Tensor) -> Tensor:
    return _form(weights, kernel, weights) / (weights.sum().square() - weights.square().sum())


def _form(left: Tensor, kernel: Tensor, right: Tensor) -> Tensor:
    return left.double() @ (kernel @ right).double()


MMD = ContextMetric(
    name="mmd",
    figure=Figure(
        "Squared MMD",
        "lower",
        "Maximum mean discrepancy with a Gaussian kernel as wide as the median distance between images. Unbiased: for "
        "two samples of one distribution it is about zero, possibly below.",
    ),
    score=lambda samples, real, context, case: mmd(samples, real, seed=case.seed),
)
ENERGY_DISTANCE = ContextMetric(
    name="energy_distance",
    figure=Figure(
        "Energy distance",
        "lower",
        "How much farther images of different sets are from each other than images of one set. Unbiased: about zero, "
        "possibly below, for two samples of one distribution.",
    ),
    score=lambda samples, real, context, case: energy_distance(samples, real, seed=case.seed),
)
