"""One way to score a model: every context and composition against real images, beside the base and the floor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from context_module.adapters import DecoderAdapter
from context_module.data import ContextData
from context_module.errors import ConceptError, DataError
from context_module.evaluation.contexts import CONTEXT_METRICS, context_scores
from context_module.evaluation.generated import base_images, model_images, real_parts
from context_module.evaluation.result import ContextScores, Evaluation
from context_module.evaluation.whole import WHOLE_METRICS, inapplicable, whole_scores
from context_module.metrics import train_concept_classifier
from context_module.model import ContextualDecoder
from context_module.nn import evaluating

__all__ = ["METRICS", "evaluate"]

#: The names of all metrics, those of single contexts first.
METRICS = (*CONTEXT_METRICS, *WHOLE_METRICS)


def evaluate(
    model: ContextualDecoder | DecoderAdapter,
    data: ContextData,
    *,
    samples: int = 1000,
    metrics: Iterable[str] | None = None,
    contexts: Iterable[str] | None = None,
    pooled: bool = False,
    projections: int = 200,
    seed: int = 0,
    batch_size: int = 250,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score a model on images it was never trained on.

    In every context, generated images are compared with as many real ones, beside samples of the bare base, which
    knows no contexts, and beside other real images of the context: the floor. A base without a context module can be
    scored too: samples of its prior are its answer in every context.

    Args:
        model: a wrapped base, or a base.
        data: `held_out` has the real images of compositions, `test` those of training contexts: at least
            2 * `samples` a context. Classifiers and regressors that metrics need learn from `train`.
        samples: images compared per context, real and generated alike.
        metrics: some of `METRICS`; by default all that apply, and `Evaluation.skipped` says why others do not.
        contexts: the contexts to score; by default every training context and composition.
        pooled: the model was trained without being told of contexts, so that it generates and explains every image as
            observational.
        projections: directions of the sliced Wasserstein distance (the paper: 50).
        seed: of the generated images and of the metrics.
        batch_size: images generated at a time.
        cache_dir: keep the networks that metrics train on the data in there, for the next model that is scored on it.
        progress: show progress bars.

    Raises:
        ValueError: for an unknown metric, or fewer than one sample.
        ConceptError: if the data's concepts are not the model's, or for an unknown context.
        DataError: for too few images, or a metric asked for that does not apply.
    """
    asked = _checked(metrics)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    wrapped = model if isinstance(model, ContextualDecoder) else None
    base = model.base if isinstance(model, ContextualDecoder) else model
    if wrapped and set(wrapped.concepts) != set(data.concepts):
        raise ConceptError(
            f"the model has the concepts {', '.join(wrapped.concepts)}, the data {', '.join(data.concepts)}: "
            "evaluate it on data of the concepts it was trained on"
        )
    parts = real_parts(data, contexts, samples)
    skipped = {metric: reason for metric in asked if (reason := inapplicable(metric, model, data, pooled))}
    _refuse(skipped, metrics)
    classifier = None
    if {"precision_recall", "concept_accuracy"} & set(asked):
        try:
            classifier = train_concept_classifier(
                data.train, seed=seed, device=base.device, cache_dir=cache_dir, progress=progress
            )
        except DataError as error:
            skipped |= {metric: str(error) for metric in ("precision_recall", "concept_accuracy") if metric in asked}
            _refuse(skipped, metrics)
    by_context, whole = (
        [metric for metric in asked if metric in group and metric not in skipped]
        for group in (CONTEXT_METRICS, WHOLE_METRICS)
    )

    scores: dict[str, ContextScores] = {}
    wholes: dict[str, Any] = {}
    scored = parts if by_context else {}
    with (
        evaluating(model),
        tqdm(total=len(scored) + len(whole), desc="evaluating", unit="part", disable=not progress) as bar,
    ):
        generator = torch.Generator().manual_seed(seed)
        of_base = base_images(base, samples if scored else 0, generator, batch_size)
        for context, part in scored.items():
            bar.set_postfix_str(context)
            generated = of_base
            if wrapped:
                generated = model_images(wrapped, samples, context, generator, batch_size, pooled=pooled)
            real, other = part.select(context, 2 * samples).split(samples)
            found = context_scores(
                context,
                generated,
                of_base,
                real,
                other,
                metrics=by_context,
                classifier=classifier,
                projections=projections,
                seed=seed,
            )
            scores[context] = ContextScores(part is data.held_out, found)
            bar.update()
        for metric in whole:
            bar.set_postfix_str(metric)
            try:
                wholes[metric] = whole_scores(
                    metric,
                    model,
                    data,
                    samples=samples,
                    pooled=pooled,
                    seed=seed,
                    cache_dir=cache_dir,
                    progress=progress,
                )
            except DataError as error:  # what only shows on trying: too few images for it, no ELBO, ...
                skipped[metric] = str(error)
                _refuse(skipped, metrics)
            bar.update()
    graph, true_edges = wholes.get("graph"), None
    if graph is not None and data.graph is not None:  # what concept packs add has no edges
        true_edges = tuple(edge for edge in data.graph if set(graph.concepts).issuperset(edge))
    return Evaluation(samples, seed, scores, **wholes, true_edges=true_edges, skipped=skipped)


def _checked(metrics: Iterable[str] | None) -> list[str]:
    asked = set(METRICS if metrics is None else metrics)
    if unknown := sorted(asked - set(METRICS)):
        raise ValueError(f"unknown metric {', '.join(map(repr, unknown))}: expected some of {', '.join(METRICS)}")
    return [metric for metric in METRICS if metric in asked]


def _refuse(skipped: dict[str, str], metrics: Iterable[str] | None) -> None:
    """What was asked for by name is not passed over."""
    if metrics is not None and skipped:
        raise DataError("; ".join(f"{metric} cannot be measured: {reason}" for metric, reason in skipped.items()))
