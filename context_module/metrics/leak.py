"""What does an intervention change that it must not?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.metrics.case import Case
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
    test, data = case.data.test, case.data
    assert test is not None
    assert data.graph is not None
    regressor = case.trained(train_factor_regressor)
    images = test.select(OBSERVATIONAL, min(case.samples, _MOST))
    generator = torch.Generator().manual_seed(case.seed)
    concepts = [name for name in case.subject.concepts or () if name in test.factor_names]
    contexts = [OBSERVATIONAL, *concepts]
    read: dict[str, list[Tensor]] = {context: [] for context in contexts}
    for part in images.split(case.batch_size):
        found = case.subject.counterfactuals(part.to(case.subject.device), contexts, generator)  # type: ignore[attr-defined]
        for context in contexts:
            read[context].append(regressor.read(found[context].cpu().clamp(0, 1)))
    before = torch.cat(read[OBSERVATIONAL])
    ranges = ((regressor.values[:, -1] - regressor.values[:, 0]) / regressor.std).cpu()
    varying = [name for name, extent in zip(test.factor_names, ranges.tolist(), strict=True) if extent > 0]
    causes = ancestors_of(data.graph, test.factor_names)
    shares: dict[str, Any] = {}
    for concept in concepts:
        untouched = [name for name in varying if name != concept and concept not in causes[name]]
        shares[concept] = leak(before, torch.cat(read[concept]), ranges, test.factor_names, untouched)
    return shares


def _reason(case: Case) -> str | None:
    if case.data.test is None:
        return "the data has no images of the training contexts that were not trained on"
    if case.subject.concepts is None:
        return "the model knows no interventions"
    if case.data.graph is None:
        return "it is not known which concept acts on which"
    return "the true factors of the images are not known" if case.data.test.factors is None else None


METRIC = WholeMetric(
    name="leak",
    figure=Figure(
        "Leak",
        "lower",
        "How often an intervention changes a factor that does not descend from it by more than a tenth of its range, "
        "as a regressor reads factors from counterfactuals of the same images. A factor that it reads badly, or that "
        "cannot be seen, counts as moved more often than it is.",
    ),
    asks=("counterfactuals",),
    reason=_reason,
    score=_score,
)
