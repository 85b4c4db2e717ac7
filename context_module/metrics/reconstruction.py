"""How well a model explains given images: its negative ELBO, in bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter, adapt
from context_module.base import base_output
from context_module.contexts import OBSERVATIONAL, ContextsLike
from context_module.data import ContextDataset, evaluation_loader
from context_module.errors import DataError
from context_module.metrics.estimate import Estimate, check_samples, mean_estimate
from context_module.model import ContextualDecoder
from context_module.nn import evaluating

__all__ = ["Reconstruction", "reconstruction_bits"]


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
    model: ContextualDecoder | object,
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
        model: a `ContextualDecoder`, or a base: a `DecoderAdapter` or anything `adapt` takes.
        images: a data set, or a tensor (n, C, H, W) in [0, 1].
        contexts: of the images: one name, one per image, or a bool mask (n, K). By default the data set's own, and
            ``obs`` for a tensor. A base alone knows no contexts and ignores them.
        batch_size: images at a time.
        seed: of all draws.

    Raises:
        DataError: for a base with a deterministic encoder, which has no ELBO; for fewer than `MIN_SAMPLES` images.
        ShapeError: for images the base does not take, or a mask that does not fit.
        ConceptError: for contexts of unknown concepts.
        TypeError: for a base that no adapter knows.
    """
    check_samples(len(images))
    generator = torch.Generator().manual_seed(seed)
    if isinstance(model, ContextualDecoder):
        base, masks = model.base, _masks(model, images, contexts)
    else:
        model = base = adapt(model)
        masks = torch.zeros(len(images), 0)
    nats = []
    with evaluating(model):
        for x, mask in zip(_batches(images, batch_size), masks.split(batch_size), strict=True):
            base.check_inputs(x)
            x = x.to(base.device)
            if isinstance(model, ContextualDecoder):
                nats.append(model(x, mask, generator=generator).loss)
            else:
                nats.append(_base_loss(base, x, generator))
    bits = torch.cat(nats).cpu().double() / math.log(2)
    channels, height, width = base.image_shape
    return Reconstruction(
        per_pixel=mean_estimate(bits / (height * width)),
        per_dimension=mean_estimate(bits / (channels * height * width)),
    )


def _masks(model: ContextualDecoder, images: ContextDataset | Tensor, contexts: ContextsLike | None) -> Tensor:
    """Intervention masks (n, K), by name: a data set may have the model's concepts in another order."""
    if contexts is None and isinstance(images, ContextDataset):
        return model.concepts.mask(images.context_names)[images.labels]
    return model.concepts.mask(OBSERVATIONAL if contexts is None else contexts, len(images))


def _batches(images: ContextDataset | Tensor, batch_size: int) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        yield from images.split(batch_size)
    else:
        for batch in evaluation_loader(images, batch_size):
            yield batch["x"]


def _base_loss(base: DecoderAdapter, x: Tensor, generator: torch.Generator) -> Tensor:
    """The negative ELBO (B,) of a base alone, in nats."""
    encoding = base.encode(x.to(base.dtype))
    if encoding.log_var is None:
        raise DataError(
            f"the {base.name!r} base encodes deterministically, so it has no ELBO: score it with a context module"
        )
    return base_output(base, x, encoding, generator).loss
