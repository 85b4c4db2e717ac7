"""One context: generated images against real ones, under every metric, beside the base and the floor."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch import Tensor

from context_module.evaluation.result import Scores
from context_module.metrics import (
    ConceptClassifier,
    Estimate,
    concept_accuracy,
    energy_distance,
    mmd,
    precision_recall,
    sliced_wasserstein,
)

__all__ = ["CONTEXT_METRICS", "context_scores"]

CONTEXT_METRICS = ("sliced_wasserstein", "mmd", "energy_distance", "precision_recall", "concept_accuracy")


def context_scores(
    context: str,
    generated: Tensor,
    base: Tensor,
    real: Tensor,
    other: Tensor,
    *,
    metrics: Collection[str],
    classifier: ConceptClassifier | None,
    projections: int,
    seed: int,
) -> Scores:
    """Score one context.

    Args:
        context: its name.
        generated: images generated in it, (n, C, H, W) in [0, 1], as all of them.
        base: samples of the base alone; the same tensor as `generated` if there is no context module.
        real: real images of the context, to compare all others with.
        other: further real images of the context: the floor.
        metrics: some of `CONTEXT_METRICS`.
        classifier: of concepts; needed for precision_recall and concept_accuracy.
        projections: directions of the sliced Wasserstein distance.
        seed: of the metrics.
    """
    columns = {"model": generated, "base": base, "floor": other}
    distances: dict[str, Callable[..., Estimate]] = {
        "sliced_wasserstein": partial(sliced_wasserstein, projections=projections, seed=seed),
        "mmd": partial(mmd, seed=seed),
        "energy_distance": partial(energy_distance, seed=seed),
    }
    scores: Scores = {}
    for name, distance in distances.items():
        if name in metrics:
            scores[name] = _on_columns(partial(distance, b=real), columns)
    if classifier is None:
        return scores
    if "precision_recall" in metrics:
        real_features = classifier.features(real)
        found = _on_columns(lambda images: precision_recall(real_features, classifier.features(images)), columns)
        for name in ("precision", "recall", "density", "coverage"):
            scores[name] = {column: getattr(figures, name) for column, figures in found.items()}
    if "concept_accuracy" in metrics:
        found = {
            column: concept_accuracy(classifier, images, context)
            for column, images in (("model", generated), ("real", real))
        }
        scores["concept_accuracy"] = {column: accuracy.exact for column, accuracy in found.items()}
    return scores


def _on_columns(score: Callable[[Tensor], Any], columns: dict[str, Tensor]) -> dict[str, Any]:
    """A score of every column; a base without a context module is scored once."""
    found = {column: score(images) for column, images in columns.items() if column != "base"}
    same = columns["base"] is columns["model"]
    return {
        "model": found["model"],
        "base": found["model"] if same else score(columns["base"]),
        "floor": found["floor"],
    }
