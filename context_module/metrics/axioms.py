"""The axioms of counterfactual images: composition, reversibility, effectiveness, and minimality.

Sources: the first three are measured as in Monteiro et al. 2023, 'Measuring axiomatic soundness of counterfactual
image models'; minimality by the counterfactual latent divergence of Sanchez & Tsaftaris 2022, 'Diffusion causal models
for counterfactual estimation', in the features of a classifier of the data's own concepts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.metrics.case import Case
from context_module.metrics.concept_accuracy import ConceptClassifier, classifier_of
from context_module.metrics.estimate import Estimate, mean_estimate, share_estimate
from context_module.metrics.metric import Figure, WholeMetric
from context_module.metrics.pairs import distances

__all__ = ["METRIC", "latent_divergence"]

_MOST = 250  # images
_CYCLES = 10


def latent_divergence(before: Tensor, after: Tensor, same: Tensor, target: Tensor) -> Tensor:
    """How far from least a change is, of each of n images: log(exp P(T <= d) + exp P(S >= d)), from .69 to 1.69.

    d is how far the change went, T how far images of the context asked for are from the image, and S how far other
    images are that are as the image was: least is a change that goes no further than it takes to be none of those.

    Args:
        before, after: features (n, D) of the images and of what became of them.
        same: features (m, D) of other images of the context that they were seen in.
        target: features (m, D) of images of the context asked for.
    """
    went = (after - before).norm(dim=1, keepdim=True)
    shares = (distances(before, target) <= went, distances(before, same) >= went)
    return torch.stack([share.float().mean(1).exp() for share in shares]).sum(0).log()


def _score(case: Case) -> dict[str, Any]:
    classifier = classifier_of(case)  # which may train
    with torch.no_grad():
        return _scores(case, classifier)


def _scores(case: Case, classifier: ConceptClassifier) -> dict[str, Any]:
    test, subject = case.data.test, cast("Any", case.subject)
    assert test is not None
    names = [name for name in subject.concepts or () if name in test.context_names]
    total = test.counts[OBSERVATIONAL]
    half = min(case.samples, _MOST, total // 2)
    images, others = test.select(OBSERVATIONAL).split([half, total - half])
    generator = torch.Generator().manual_seed(case.seed)

    def batched(make: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
        parts = [make(part.to(subject.device)).float().cpu() for part in pictures.split(case.batch_size)]
        return torch.cat(parts).clamp(0, 1)

    def became(pictures: Tensor, context: str) -> Tensor:
        return batched(lambda part: subject.counterfactuals(part, [context], generator)[context], pictures)

    def reverted(pictures: Tensor, context: str) -> Tensor:
        return batched(lambda part: subject.reverted(part, context, generator), pictures)

    cycled, composition = images, {}
    for cycle in range(1, _CYCLES + 1):
        cycled = became(cycled, OBSERVATIONAL)
        if cycle in (1, _CYCLES):
            composition[str(cycle)] = _apart(images, cycled)
    changed = {name: became(images, name) for name in names}
    scores: dict[str, Any] = {"composition": composition}
    if subject.unable("reverted") is None:
        scores["reversibility"] = {name: _apart(images, reverted(made, name)) for name, made in changed.items()}
    before, same = classifier.features(images), classifier.features(others)
    effectiveness, minimality = {}, {}
    for name, made in changed.items():
        real, column = test.select(name), list(case.data.concepts).index(name)
        hits = {"model": classifier.detect(made)[:, column], "real": classifier.detect(real)[:, column]}
        effectiveness[name] = {whose: share_estimate(found) for whose, found in hits.items()}
        divergence = latent_divergence(before, classifier.features(made), same, classifier.features(real))
        minimality[name] = mean_estimate(divergence)
    return scores | {"effectiveness": effectiveness, "minimality": minimality}


def _apart(images: Tensor, others: Tensor) -> Estimate:
    return mean_estimate((images - others).abs().flatten(1).mean(1))


def _reason(case: Case) -> str | None:
    if case.data.test is None or OBSERVATIONAL not in case.data.test.context_names:
        return "the data has no observational images that were not trained on"
    return "the model knows no interventions" if case.subject.concepts is None else None


METRIC = WholeMetric(
    name="axioms",
    figure=Figure(
        "Axioms of counterfactuals",
        "see each",
        "Of observational images. Composition: how far pixels are off after no intervention, once and ten times over "
        "(0 is best). Reversibility: after an intervention and its withdrawal (0 is best). Effectiveness: how often a "
        "classifier of the training contexts finds the concept, beside real images of it (1 is best). Minimality: the "
        "counterfactual latent divergence, by its features, from .69, no further than it takes, to 1.69.",
    ),
    asks=("counterfactuals",),
    reason=_reason,
    score=_score,
)
