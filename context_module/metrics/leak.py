"""What does an intervention change that it must not?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.metrics.case import Case
from context_module.metrics.concept_accuracy import classifier_of
from context_module.metrics.counterfactual import train_factor_regressor
from context_module.metrics.estimate import Estimate, check_samples, share_estimate
from context_module.metrics.metric import Figure, WholeMetric
from context_module.nn import ancestors_of

__all__ = ["METRIC", "leak"]

_MOST = 500  # images
_SHARE = 0.1  # of a factor's range


@torch.no_grad()
def leak(
    before: Tensor, after: Tensor, ranges: Tensor, names: Iterable[str], untouched: Iterable[str]
) -> dict[str, Estimate]:
    """By factor that an intervention must leave alone, the share of images in which it moves by a tenth of its range.

    Args:
        before, after: factors (n, D) as read from the same images without and with the intervention.
        ranges: (D,), of the factors, in the same units.
        names: of the D factors.
        untouched: those that are neither the intervened concept nor descend from it.

    Raises:
        DataError: for fewer than `MIN_SAMPLES` images.
    """
    check_samples(len(before))
    columns = {name: column for column, name in enumerate(names)}
    moved = (after - before).abs() > _SHARE * ranges
    return {name: share_estimate(moved[:, columns[name]]) for name in untouched}


def _score(case: Case) -> dict[str, Any]:
    test = case.data.test
    assert test is not None
    images = test.select(OBSERVATIONAL, min(case.samples, _MOST))
    generator = torch.Generator().manual_seed(case.seed)
    by_factors = test.factors is not None and case.data.graph is not None
    concepts = [name for name in case.subject.concepts or () if not by_factors or name in test.factor_names]
    contexts = [OBSERVATIONAL, *concepts]
    read: Callable[[Tensor], Tensor]
    if by_factors:
        regressor = case.trained(train_factor_regressor)
        read, names = regressor.read, test.factor_names
        ranges = ((regressor.values[:, -1] - regressor.values[:, 0]) / regressor.std).cpu()
    else:
        classifier = classifier_of(case)
        read, names = lambda pictures: classifier.detect(pictures).float(), tuple(case.data.concepts)
        ranges = torch.ones(len(names))  # of concepts that are shown or not
    found: dict[str, list[Tensor]] = {context: [] for context in contexts}
    for part in images.split(case.batch_size):
        made = case.subject.counterfactuals(part.to(case.subject.device), contexts, generator)  # type: ignore[attr-defined]
        for context in contexts:
            found[context].append(read(made[context].cpu().clamp(0, 1)))
    before = torch.cat(found[OBSERVATIONAL])
    causes = ancestors_of(case.data.graph or (), names)
    varying = [name for name, extent in zip(names, ranges.tolist(), strict=True) if extent > 0]
    shares: dict[str, Any] = {}
    for concept in concepts:
        untouched = [name for name in varying if name != concept and concept not in causes[name]]
        shares[concept] = leak(before, torch.cat(found[concept]), ranges, names, untouched)
    return shares


def _reason(case: Case) -> str | None:
    if case.data.test is None:
        return "the data has no images of the training contexts that were not trained on"
    if case.subject.concepts is None:
        return "the model knows no interventions"
    return "there is no concept but one" if len(case.data.concepts) < 2 else None


METRIC = WholeMetric(
    name="leak",
    figure=Figure(
        "Leak",
        "lower",
        "How often an intervention changes a factor that does not descend from it by more than a tenth of its range, "
        "as a regressor reads factors from counterfactuals of the same images. A factor that it reads badly, or that "
        "cannot be seen, counts as moved more often than it is. Where factors or graph are not known: how often a "
        "classifier of the training contexts changes its mind on whether another concept was intervened on.",
    ),
    asks=("counterfactuals",),
    reason=_reason,
    score=_score,
)
