"""Does an image show the concepts it was asked for, and no others? Told by a classifier of single interventions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.contexts import Concepts
from context_module.data import ContextDataset
from context_module.errors import DataError
from context_module.metrics.case import Case
from context_module.metrics.estimate import Estimate, check_samples, share_estimate
from context_module.metrics.metric import ContextMetric, Figure
from context_module.metrics.networks import ConvNet, train_network

__all__ = [
    "METRIC",
    "ConceptAccuracy",
    "ConceptClassifier",
    "classifier_of",
    "concept_accuracy",
    "train_concept_classifier",
]

_YES_OR_NO = 0.1  # weight of the loss that asks for each concept by itself


class ConceptClassifier(ConvNet):
    """Says per concept whether an image shows its intervention: logits (B, K) of which the positive ones do.

    Logit j estimates log p(x | do j) - log p(x | obs). Mechanisms are independent of each other, so this ratio is the
    same for an image in which other concepts were intervened on, too: that is why single interventions are enough to
    learn from.

    Args:
        concepts: the K concepts.
        image_shape: (C, H, W).
    """

    def __init__(self, concepts: Iterable[str], image_shape: tuple[int, int, int]) -> None:
        self.concepts = Concepts(concepts)
        super().__init__(image_shape, len(self.concepts), pool=True, dropout=0.1)

    def detect(self, images: Tensor) -> Tensor:
        """bool (n, K), per image (n, C, H, W) in [0, 1] the concepts it shows; errors as for `read`."""
        return self.read(images) > 0


@dataclass(frozen=True)
class ConceptAccuracy:
    """What a `ConceptClassifier` finds in images of one context.

    Where the distributions of contexts overlap, real images do not reach 1 either: read it beside theirs.

    Attributes:
        context: its name.
        exact: share of images that show the context's concepts and no others.
        detected: per concept, the share of images that show it, whether or not they should.
    """

    context: str
    exact: Estimate
    detected: dict[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def train_concept_classifier(
    data: ContextDataset,
    *,
    steps: int = 600,
    batch_size: int = 128,
    seed: int = 0,
    device: str | torch.device | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> ConceptClassifier:
    """Train a classifier on real images of single interventions.

    Independent yes-or-no questions would not do: trained on single interventions they learn that one concept rules out
    the others, and fail on pairs. So each image is assigned to one of the K + 1 contexts instead, and the K logits
    beside a fixed zero for ``obs`` become log ratios of densities. Where contexts do not overlap these ratios are not
    determined off the data; a yes-or-no loss of little weight settles them.

    Args:
        data: images of ``obs`` and of every single concept, a thousand or more each; of others nothing is learned.
        steps, batch_size: of the training; batches mix the contexts in equal shares.
        seed: the same seed gives the same classifier.
        device: to train on and leave the classifier on; by default torch's own default.
        cache_dir: keep the classifier in a file in there, and read it when it is to be trained again in the same way
            on the same images; a damaged file is replaced, with a warning. Default: trained every time.
        progress: show a progress bar.

    Returns:
        the classifier in eval mode.

    Raises:
        DataError: for a context that is missing, or a batch size below 1.
        ValueError: for fewer than one step.
    """
    data = _single_interventions(data)
    targets = data.concepts.mask(data.context_names)[data.labels].float()
    return train_network(
        lambda: ConceptClassifier(data.concepts, data.image_shape),
        data,
        targets,
        _loss,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        device=device,
        cache_dir=cache_dir,
        progress=progress,
    )


def concept_accuracy(classifier: ConceptClassifier, images: Tensor, context: str | Iterable[str]) -> ConceptAccuracy:
    """How many images show exactly the concepts of a context.

    Args:
        classifier: of concepts.
        images: (n, C, H, W) in [0, 1], generated or real.
        context: the one they should show.

    Raises:
        ConceptError: for a concept the classifier does not know.
        ShapeError: for images of another shape, dtype or range than it was trained on.
        DataError: for fewer than `MIN_SAMPLES` images.
    """
    concepts = classifier.concepts
    name = concepts.name(context)
    check_samples(len(images))
    found = classifier.detect(images)
    detected = {concept: share_estimate(hits) for concept, hits in zip(concepts, found.T, strict=True)}
    return ConceptAccuracy(name, share_estimate((found == concepts.mask(name)).all(1)), detected)


def classifier_of(case: Case) -> ConceptClassifier:
    """The classifier of a case's concepts, trained on its data once; errors as for `train_concept_classifier`."""
    classifier: ConceptClassifier = case.trained(train_concept_classifier)
    return classifier


def _score(samples: Tensor, real: Tensor, context: str, case: Case) -> Estimate:
    return concept_accuracy(classifier_of(case), samples, context).exact


def _loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Of logits and float masks (B, K) with at most one intervention each."""
    ratios = F.pad(logits, (1, 0))  # that of obs to itself is zero
    context = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).sum(1).long()
    return F.cross_entropy(ratios, context) + _YES_OR_NO * F.binary_cross_entropy_with_logits(logits, mask)


def _single_interventions(data: ContextDataset) -> ContextDataset:
    """The images of ``obs`` and of single interventions; DataError where a context is missing."""
    expected = data.concepts.training_contexts
    if missing := [name for name in expected if name not in data.context_names]:
        raise DataError(
            f"a concept classifier learns from images of obs and of every single concept; none of {', '.join(missing)}"
        )
    return data if set(data.context_names) == set(expected) else data.only(expected)


METRIC = ContextMetric(
    name="concept_accuracy",
    figure=Figure(
        "Concept accuracy",
        "higher",
        "A classifier trained on real images of the training contexts tells which concepts were intervened on: the "
        "share of images where it names exactly those asked for. Read it beside its accuracy on real images.",
    ),
    score=_score,
    columns=("model", "real"),
    prepare=classifier_of,
)
