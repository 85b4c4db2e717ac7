"""Fidelity and diversity apart: precision, recall, density and coverage of generated images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from context_module.errors import DataError
from context_module.metrics.case import Case
from context_module.metrics.concept_accuracy import classifier_of
from context_module.metrics.estimate import Estimate, mean_estimate, share_estimate
from context_module.metrics.metric import ContextMetric, Figure
from context_module.metrics.pairs import distances, flat_pair

__all__ = ["METRIC", "PrecisionRecall", "precision_recall"]


@dataclass(frozen=True)
class PrecisionRecall:
    """How much of the generated set is real, and how much of the real set is generated.

    A manifold is the union of the balls around a set's items that reach to their k-th nearest neighbour in the set.

    Attributes:
        precision: share of generated items on the real manifold.
        recall: share of real items on the generated manifold.
        density: number of real balls that a generated item lies in, over k; about 1 for equal distributions, and
            unlike precision not raised by a few outliers with large balls.
        coverage: share of real items whose ball holds a generated item.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def precision_recall(real: Tensor, generated: Tensor, *, neighbours: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    The intervals are those of shares of items (Wilson; of the density, normal), with both manifolds fixed: they leave
    out that other samples have other manifolds. Samples of one distribution do not reach 1, and every figure depends
    on the sets' sizes: compare at one size, beside real against real. A distance equal to a radius counts as inside,
    which the package prdc leaves out: the figures differ where distances tie, as among images that repeat or are
    binary.

    Args:
        real, generated: feature vectors (n, D) and (m, D), or images (n, C, H, W), flattened to vectors of pixels.
        neighbours: k.

    Raises:
        ShapeError: for items of different shapes.
        DataError: for fewer than `MIN_SAMPLES` items of either, no more items than neighbours, or NaN.
        ValueError: for fewer than one neighbour.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    real, generated = flat_pair(real, generated)
    fewest = min(len(real), len(generated))
    if fewest <= neighbours:
        raise DataError(f"{neighbours} nearest neighbours need more than {neighbours} items in each set, got {fewest}")
    apart = distances(real, generated)  # (n, m)
    in_real_ball = apart <= _radii(real, neighbours)[:, None]
    in_generated_ball = apart <= _radii(generated, neighbours)

    return PrecisionRecall(
        precision=share_estimate(in_real_ball.any(0)),
        recall=share_estimate(in_generated_ball.any(1)),
        density=mean_estimate(in_real_ball.sum(0) / neighbours),
        coverage=share_estimate(in_real_ball.any(1)),
    )


def _radii(items: Tensor, neighbours: int) -> Tensor:
    """Distance (n,) of every item to its k-th nearest other one."""
    return distances(items, items).fill_diagonal_(float("inf")).kthvalue(neighbours).values


def _score(samples: Tensor, real: Tensor, context: str, case: Case) -> dict[str, Estimate]:
    """In the space of the features of a classifier of concepts."""
    classifier = classifier_of(case)
    return dict(vars(precision_recall(classifier.features(real), classifier.features(samples))))


METRIC = ContextMetric(
    name="precision_recall",
    figure=Figure("Precision, recall, density and coverage"),
    figures={
        "precision": Figure(
            "Precision",
            "higher",
            "Share of the generated images that lie among the real ones: within reach of a real image's third-nearest "
            "neighbour, by the features of a classifier of concepts. Fidelity.",
        ),
        "recall": Figure(
            "Recall", "higher", "Share of the real images that lie among the generated ones, likewise. Diversity."
        ),
        "density": Figure(
            "Density",
            "about 1 is best",
            "Number of real neighbourhoods that a generated image lies in, relative to what is expected: precision "
            "that a few outliers among the real images do not raise.",
        ),
        "coverage": Figure(
            "Coverage",
            "higher",
            "Share of the real images with a generated one in their neighbourhood: diversity, robust to outliers.",
        ),
    },
    score=_score,
    prepare=classifier_of,
)
