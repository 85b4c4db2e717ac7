"""One way to score a system: every context and composition against real data, beside the base and the floor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter
from context_module.data import ContextData, ContextDataset, SampledDataset
from context_module.errors import ConceptError, DataError
from context_module.evaluation.costless import Costless
from context_module.evaluation.result import ContextScores, Evaluation, Scores
from context_module.evaluation.samples import Compared, real_parts
from context_module.evaluation.subject import subject_of
from context_module.io import progress_bar
from context_module.metrics import (
    MIN_SAMPLES,
    Case,
    ContextMetric,
    Estimate,
    Metric,
    Subject,
    WholeMetric,
    available_metrics,
    get_metric,
    inapplicable,
    responses_of,
)
from context_module.model import ContextualDecoder
from context_module.nn import evaluating
from context_module.training import EncodedDataset

__all__ = ["evaluate"]

_EXAMPLES = 8  # images of a context that are kept, to be looked at


def evaluate(
    model: Subject | ContextualDecoder | DecoderAdapter,
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
    encodings: EncodedDataset | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score whatever generates in contexts on images, or texts, that it was never trained on.

    In every context, generated images are compared with as many real ones, beside samples of the bare base, which
    knows no contexts, and beside other real images of the context: the floor. A base without a context module can be
    scored too: samples of its prior are its answer in every context. Of texts the factors are compared that the data's
    parser reads from them.

    Args:
        model: a wrapped base, a base, or a `Subject`: a system of your own.
        data: `held_out` has the real images of compositions, `test` those of training contexts: at least
            2 * `samples` a context. Classifiers and regressors that metrics need learn from `train`.
        samples: images compared per context, real and generated alike.
        metrics: some of `available_metrics`; by default all that apply, and `Evaluation.skipped` says why others do
            not.
        contexts: the contexts to score; by default every training context and composition.
        pooled: the model was trained without being told of contexts, so that it generates and explains every image as
            observational.
        projections: directions of the sliced Wasserstein distance (the paper: 50).
        seed: of the generated images and of the metrics.
        batch_size: images generated at a time.
        cache_dir: keep the networks that metrics train on the data in there, for the next model that is scored on it.
        encodings: those of the training images by the model's base, where they are known already.
        progress: show progress bars.

    Raises:
        ValueError: for an unknown metric, or fewer than one sample.
        ConceptError: if concepts of the model are not the data's, or for an unknown context.
        DataError: for too few images, texts without a parser, or a metric asked for that does not apply.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    subject = subject_of(model, pooled=pooled)
    asked = _asked(metrics, subject)
    everything, data = data, _known(subject, data)
    case = Case(subject, data, samples, seed, batch_size, projections, cache_dir, progress, everything)
    compared = Compared(case)
    parts = real_parts(data, contexts, samples)
    skipped = _skipped(asked, case, strict=metrics is not None)
    by_context = [metric for metric in asked if isinstance(metric, ContextMetric) and metric.name not in skipped]
    whole = [metric for metric in asked if isinstance(metric, WholeMetric) and metric.name not in skipped]

    scored = parts if by_context else {}
    total = len(scored) + len(whole)
    with (
        nullcontext() if subject.network is None else evaluating(subject.network),
        progress_bar(total=total, desc="evaluating", unit="part", disable=not progress) as bar,
    ):
        found = _contexts(by_context, compared, scored, encodings, bar)
        wholes: dict[str, Any] = {}
        for metric in whole:
            bar.set_postfix_str(metric.name)
            try:
                wholes[metric.name] = metric.score(case)
            except DataError as error:  # what only shows on trying: too few images for it, no ELBO, ...
                _skip(skipped, metric, str(error), strict=metrics is not None)
            bar.update()
    return Evaluation(samples, seed, found, wholes, skipped)


def _contexts(
    metrics: list[ContextMetric],
    compared: Compared,
    parts: Mapping[str, ContextDataset],
    encodings: EncodedDataset | None,
    bar: Any,
) -> dict[str, ContextScores]:
    """The scores of every context: its samples are drawn once, for all metrics."""
    if not parts:
        return {}
    case = compared.case
    generator = torch.Generator().manual_seed(case.seed)
    base = compared.base(generator)
    costless = _costless(metrics, case, encodings)
    responses = responses_of(case) if case.subject.kind == "vectors" else None
    found = {}
    for context, part in parts.items():
        bar.set_postfix_str(context)
        # what knows no contexts answers the same in all of them
        generated = base if case.subject.concepts is None else compared.generated(context, generator)
        real, other = compared.real(part, context)
        columns = {"model": generated, "base": base, "floor": other, "real": real}
        if costless is not None:
            concepts = case.data.concepts.parse(context)
            columns |= {"arithmetic": costless.arithmetic(concepts), "maps": costless.maps(concepts)}
            own = isinstance(case.data.train, SampledDataset)  # a base's own samples it makes as they are
            columns |= {"recon": other if own else costless.reconstructions(real), "unchanged": costless.unchanged}
        if responses is not None:
            columns |= responses.columns(context, case.samples)
        scores: Scores = {}
        for metric in metrics:
            scores |= _columns(metric, columns, context, case)
        shown = ("real", "model", "maps") if case.subject.kind == "images" else ()
        examples = {column: columns[column][:_EXAMPLES].clone() for column in shown if column in columns}
        found[context] = ContextScores(part is case.data.held_out, scores, examples)
        bar.update()
    return found


def _costless(metrics: list[ContextMetric], case: Case, encodings: EncodedDataset | None) -> Costless | None:
    """What costs nothing on the subject's base, where there is one and a metric that compares with it."""
    data = case.data
    base = case.subject.decoder if isinstance(data.train, SampledDataset) else case.subject.embedder
    wanted = any("maps" in metric.columns for metric in metrics)
    names = data.train.context_names
    if base is None or not wanted or any(name not in names for name in data.concepts.training_contexts):
        return None
    if min(data.train.counts.values()) < MIN_SAMPLES:
        return None
    return Costless(base, data, case.samples, case.batch_size, case.seed, encodings=encodings)


def _columns(metric: ContextMetric, columns: Mapping[str, Tensor], context: str, case: Case) -> Scores:
    """What a metric finds of each column it scores; a base without a context module is scored once."""
    found: dict[str, Estimate | dict[str, Estimate]] = {}
    for column in metric.columns:
        if column not in columns:  # what costs nothing takes a base with embeddings
            continue
        same = column == "base" and "model" in found and columns["base"] is columns["model"]
        found[column] = found["model"] if same else metric.score(columns[column], columns["real"], context, case)
    scores: Scores = {}
    for column, figures in found.items():
        named = {metric.name: figures} if isinstance(figures, Estimate) else figures
        for name, figure in named.items():
            scores.setdefault(name, {})[column] = figure
    return scores


def _asked(names: Iterable[str] | None, subject: Subject) -> list[Metric]:
    """The metrics of these names, in the order of the registry; by default all of what the subject makes."""
    known = available_metrics()
    if names is None:
        return [metric for metric in map(get_metric, known) if metric.kind == subject.kind]
    asked = set(names)
    if unknown := sorted(asked - set(known)):
        raise ValueError(f"unknown metric {', '.join(map(repr, unknown))}: expected some of {', '.join(known)}")
    return [get_metric(name) for name in known if name in asked]


def _known(subject: Subject, data: ContextData) -> ContextData:
    """The data of the concepts that the subject knows."""
    known, concepts = subject.concepts, data.concepts
    if known is None or set(known) == set(concepts):
        return data
    if not set(known) < set(concepts):
        raise ConceptError(
            f"the model has the concepts {', '.join(known)}, the data {', '.join(concepts)}: "
            "evaluate it on data of the concepts it was trained on"
        )
    return data.of_concepts(known)


def _skipped(asked: list[Metric], case: Case, *, strict: bool) -> dict[str, str]:
    """Metric -> why it does not apply; the slow reasons, of what has to be trained, last."""
    skipped: dict[str, str] = {}
    for metric in asked:
        if reason := inapplicable(metric, case):
            _skip(skipped, metric, reason, strict=strict)
    for metric in asked:
        if isinstance(metric, ContextMetric) and metric.name not in skipped:
            try:
                metric.prepare(case)
            except DataError as error:
                _skip(skipped, metric, str(error), strict=strict)
    return skipped


def _skip(skipped: dict[str, str], metric: Metric, reason: str, *, strict: bool) -> None:
    """What was asked for by name is not passed over."""
    if strict:
        raise DataError(f"{metric.name} cannot be measured: {reason}")
    skipped[metric.name] = reason
