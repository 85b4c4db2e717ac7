"""Two distances between sets of feature vectors: the kernel (KID) and the Frechet (FID) inception distance.

Their names are those of the network that they were first taken with. Here it is the classifier of the data's own
concepts: it is there wherever there are contexts, and sees what they change; figures of other networks are not
comparable.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from context_module.metrics.case import Case
from context_module.metrics.concept_accuracy import classifier_of
from context_module.metrics.estimate import Estimate, bootstrap
from context_module.metrics.kernel import discrepancy
from context_module.metrics.metric import ContextMetric, Figure
from context_module.metrics.pairs import flat_pair

__all__ = ["FRECHET", "KERNEL", "frechet_distance", "kernel_distance"]


def kernel_distance(a: Tensor, b: Tensor, *, seed: int = 0, resamples: int = 100) -> Estimate:
    """Squared maximum mean discrepancy of features with the kernel (x.y / D + 1)^3 (KID, Binkowski et al. 2018).

    Unbiased, whatever the number of items: zero on average for samples of one distribution, so it can come out
    slightly negative there. Over all items at once, where the original averages over blocks of them.

    Args:
        a, b: feature vectors (n, D) and (m, D).
        seed: of the resamples.
        resamples: of the bootstrap, at least 2.

    Raises:
        ShapeError: for vectors of different lengths.
        DataError: for fewer than `MIN_SAMPLES` items of either, or NaN among them.
        ValueError: for fewer than two resamples.
    """
    a, b = flat_pair(a, b)
    pooled = torch.cat([a, b])
    kernel = (pooled @ pooled.mT / pooled.shape[1]).add_(1).pow_(3)
    return discrepancy(kernel, len(a), resamples, seed)


def frechet_distance(a: Tensor, b: Tensor, *, seed: int = 0, resamples: int = 20) -> Estimate:
    """Squared Frechet distance of Gaussians with the features' moments (FID, Heusel et al. 2017).

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)). Biased upward, the more the fewer items there are: compare at
    one size, beside real against real. The interval is around that.

    Arguments and errors as for `kernel_distance`.
    """
    return bootstrap(_frechet, *flat_pair(a, b), resamples=resamples, seed=seed)


def _frechet(a: Tensor, b: Tensor) -> float:
    first, second = (torch.atleast_2d(items.double().mT.cov()) for items in (a, b))
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()  # the trace of (S_a S_b)^(1/2)
    apart = (a.double().mean(0) - b.double().mean(0)).square().sum()
    return (apart + first.trace() + second.trace() - 2 * cross).item()


def _scored(distance: Callable[..., Estimate]) -> Callable[[Tensor, Tensor, str, Case], Estimate]:
    def score(samples: Tensor, real: Tensor, context: str, case: Case) -> Estimate:
        classifier = classifier_of(case)
        return distance(classifier.features(samples), classifier.features(real), seed=case.seed)

    return score


KERNEL = ContextMetric(
    name="kernel_distance",
    figure=Figure(
        "Kernel distance of features (KID)",
        "lower",
        "The kernel inception distance, with features of a classifier of the data's concepts in place of Inception's. "
        "Unbiased: about zero, possibly below, for two samples of one distribution.",
    ),
    score=_scored(kernel_distance),
    prepare=classifier_of,
)
FRECHET = ContextMetric(
    name="frechet_distance",
    figure=Figure(
        "Fréchet distance of features (FID)",
        "lower",
        "The Fréchet inception distance, likewise: of Gaussians with the same moments. It does not reach zero, and is "
        "larger for fewer images: read it beside real against real.",
    ),
    score=_scored(frechet_distance),
    prepare=classifier_of,
)
