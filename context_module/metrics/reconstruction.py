"""How well a model explains given images: its negative ELBO, in bits."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL, Concepts, ContextsLike
from context_module.data import ContextDataset
from context_module.metrics.case import Case, batches
from context_module.metrics.estimate import Estimate, check_samples, mean_estimate
from context_module.metrics.metric import Figure, WholeMetric
from context_module.nn import evaluating

__all__ = ["METRIC", "Reconstruction", "reconstruction_bits"]


@dataclass(frozen=True)
class Reconstruction:
    """The mean negative ELBO of a set of images, an upper bound on -log2 p(image).

    Attributes:
        per_pixel: bits over height x width, the paper's normalisation.
        per_dimension: bits over channels x height x width.
    """

    per_pixel: Estimate
    per_dimension: Estimate


@torch.no_grad()
def reconstruction_bits(
    subject: Any,
    images: ContextDataset | Tensor,
    contexts: ContextsLike | None = None,
    *,
    batch_size: int = 250,
    seed: int = 0,
) -> Reconstruction:
    """-log p(x | latents) + KL of all latents, with beta 1 and one draw of the latents per image.

    With a context module it is the bound on p(x | context). A decoder input that the module draws (``latent_noise``)
    comes from one distribution here and in generation, so that it adds no KL: the bound holds by Jensen's inequality.
    For the base alone it is the base's own, with the prior N(0, I) on its decoder input.

    Args:
        subject: a `Subject` with ``nats``; of a model or a base, ``subject_of(model)``.
        images: a data set, or a tensor (n, C, H, W) in [0, 1].
        contexts: of the images: one name, one per image, or a bool mask (n, K). By default the data set's own, and
            ``obs`` for a tensor. A subject that knows no contexts ignores them.
        batch_size: images at a time.
        seed: of all draws.

    Raises:
        DataError: for a base with a deterministic encoder, which has no ELBO; for fewer than `MIN_SAMPLES` images.
        ShapeError: for images the subject does not take, or a mask that does not fit.
        ConceptError: for contexts of unknown concepts.
    """
    check_samples(len(images))
    generator = torch.Generator().manual_seed(seed)
    masks = _masks(subject.concepts, images, contexts)
    nats = []
    with nullcontext() if subject.network is None else evaluating(subject.network):
        for x, mask in zip(batches(images, batch_size), masks.split(batch_size), strict=True):
            nats.append(subject.nats(x.to(subject.device), mask, generator))
    bits = torch.cat(nats).cpu().double() / math.log(2)
    channels, height, width = subject.image_shape
    return Reconstruction(
        per_pixel=mean_estimate(bits / (height * width)),
        per_dimension=mean_estimate(bits / (channels * height * width)),
    )


def _masks(concepts: Concepts | None, images: ContextDataset | Tensor, contexts: ContextsLike | None) -> Tensor:
    """Intervention masks (n, K), by name: a data set may have the subject's concepts in another order."""
    if concepts is None:
        return torch.zeros(len(images), 0, dtype=torch.bool)
    if contexts is None and not isinstance(images, Tensor):
        return concepts.mask(images.context_names)[images.labels]
    return concepts.mask(OBSERVATIONAL if contexts is None else contexts, len(images))


def _score(case: Case) -> dict[str, Estimate]:
    """Of the first images of each context."""
    test = case.data.test
    assert test is not None
    rows = [(test.labels == label).nonzero().flatten()[: case.samples] for label in range(len(test.context_names))]
    found = reconstruction_bits(case.subject, test.subset(torch.cat(rows)), seed=case.seed)
    return {"bits_per_pixel": found.per_pixel, "bits_per_dimension": found.per_dimension}


def _reason(case: Case) -> str | None:
    return None if case.data.test else "the data has no images of the training contexts that were not trained on"


METRIC = WholeMetric(
    name="reconstruction",
    figure=Figure(
        "Reconstruction",
        "lower",
        "The negative evidence lower bound of real images that were never trained on, in bits: per pixel (over height "
        "times width, as in the paper) and per dimension (over the channels too).",
    ),
    asks=("nats",),
    reason=_reason,
    score=_score,
    in_summary=True,
)
