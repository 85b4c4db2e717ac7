"""How far an edit has to go until pictures show it: found with labellers of the concepts, after the edits themselves.

Contexts that were sorted by what a picture shows say where, in decoder inputs, those pictures lie on average. Where a
decoder is far from linear that average explains only a part of why they show it: its own prior spreads many other
pictures around the same place. An edit to there is as short as that part is small, as a regression on noisy readings
is flat (attenuation); it has to go on until what it makes is read as often.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextDataset, Labeller
from context_module.errors import ConceptError
from context_module.model import ContextualDecoder
from context_module.nn import EditModule, evaluating
from context_module.training.encodings import EncodedDataset, encode_dataset

__all__ = ["fit_gains"]

_SHARE = 0.95  # of pictures that are to be read as showing the concept
_MOST = 4.0  # times as far
_HALVINGS = 5
_PICTURES = 256
_CHUNK = 64


@torch.no_grad()
def fit_gains(
    model: ContextualDecoder, labellers: Mapping[str, Labeller], images: ContextDataset | EncodedDataset
) -> dict[str, float]:
    """Lengthen each edit until 95% of the pictures it makes of observational ones are labelled as showing its concept.

    No edit is shortened, and none made more than four times as long. Strength 1 is the new length.

    Args:
        model: with fitted edits; they are changed in place.
        labellers: by concept, those that sorted the contexts.
        images: the training images, or their encodings; up to 256 observational ones are edited and decoded, six
            times over at most.

    Returns:
        by concept, the factor.

    Raises:
        ConceptError: for a concept without a labeller.
    """
    module, concepts = model.module, model.config.concepts
    assert isinstance(module, EditModule)
    if missing := [name for name in concepts if name not in labellers]:
        raise ConceptError(f"no labeller of {', '.join(missing)}: edits are lengthened by one for each concept")
    encodings = images if isinstance(images, EncodedDataset) else encode_dataset(model.base, images)
    start = encodings.batch(encodings.places(OBSERVATIONAL, _PICTURES))["mean"].to(module.device)
    before, found = module.coordinates(start), {}
    with evaluating(model):
        for k, name in enumerate(concepts):
            low, high = 1.0, _MOST
            if _share(model, before, k, low, labellers[name]) >= _SHARE:
                found[name] = low
                continue
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                enough = _share(model, before, k, middle, labellers[name]) >= _SHARE
                low, high = (low, middle) if enough else (middle, high)
            found[name] = high
    for k, name in enumerate(concepts):
        for weight in (module.edits.linear, module.edits.shift, module.edits.last):
            weight[k] *= found[name]
    return found


def _share(model: ContextualDecoder, before: Tensor, concept: int, strength: float, labeller: Labeller) -> float:
    """Of pictures made of these coordinates (n, r) by one edit of this strength, those that show its concept."""
    module, base = model.module, model.base
    assert isinstance(module, EditModule)
    strengths = before.new_zeros(len(before), len(model.config.concepts))
    strengths[:, concept] = strength
    latents = module.place(module.changed(before, strengths)).reshape(-1, *model.config.latent_shape)
    shown = [
        labeller(base.decode(part.to(base.dtype), temperature=0.0).mean.float().clamp(0, 1)) > 0
        for part in latents.split(_CHUNK)
    ]
    return torch.cat(shown).float().mean().item()
