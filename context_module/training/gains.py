"""Edits that go as far as pictures ask for, and change as little else as can be: with labellers of the concepts.

Contexts that were sorted by what a picture shows say where, in decoder inputs, such pictures lie on average. That
average shift d_k is a fair reading of the concept and a poor edit. It moves whatever goes along with the concept in
the samples; and where a decoder is far from linear it is too short, as a regression on noisy readings is flat
(attenuation): the decoder spreads many other pictures around the same place. Of all shifts that the readings
V = (d_1, ..., d_K) take for the same one, and for none of the other concepts', pictures show least of

    H V (V^T H V)^-1 e_k |d_k|^2,    H = (G + mean(diag G) I)^-1,

with G how much pictures show of each direction. It goes on until what it makes is labelled as it should be, alone and
beside other concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextDataset, Labeller
from context_module.errors import ConceptError
from context_module.model import ContextualDecoder
from context_module.nn import EditModule, evaluating
from context_module.training.encodings import EncodedDataset, encode_dataset
from context_module.training.maps import coordinates_of

__all__ = ["fit_gains"]

_SHARE = 0.95  # of pictures that are to be labelled as showing the concept
_MOST = 4.0  # times as far as the contexts lie apart
_HALVINGS, _ROUNDS = 5, 2
_PICTURES = 256
_CHUNK = 64


@torch.no_grad()
def fit_gains(
    model: ContextualDecoder, labellers: Mapping[str, Labeller], images: ContextDataset | EncodedDataset
) -> dict[str, float]:
    """Turn and lengthen each edit until 95% of the pictures that it makes of observational ones are labelled so.

    A share of 1 / K of these it makes alone, the others together with one other concept. Its average becomes the shift
    above, as often as that takes, from one time to four; what it does to each picture beyond its average stays. It is
    meant for contexts that were sorted by what is shown (`from_samples`): these know of no effects of one concept on
    another.

    Args:
        model: with fitted edits; they are changed in place.
        labellers: by concept, those that sorted the contexts.
        images: the training images, or their encodings; up to 256 observational ones are edited and decoded, twelve
            times over for each concept at most.

    Returns:
        by concept, how often.

    Raises:
        ConceptError: for a concept without a labeller.
    """
    module, concepts = model.module, model.config.concepts
    assert isinstance(module, EditModule)
    if missing := [name for name in concepts if name not in labellers]:
        raise ConceptError(f"no labeller of {', '.join(missing)}: edits are lengthened by one for each concept")
    encodings = images if isinstance(images, EncodedDataset) else encode_dataset(model.base, images)
    shifts = _least_shown(module, encodings)
    before = coordinates_of(module, encodings, OBSERVATIONAL)[:_PICTURES]
    changes = torch.stack([module.edits(before, k) for k in range(len(concepts))])
    changes = changes - changes.mean(1, keepdim=True)
    found, beside = torch.ones(len(concepts)), torch.arange(len(before)) % len(concepts)
    with evaluating(model):
        for _ in range(_ROUNDS):
            for k, name in enumerate(concepts):
                others = changes + found.to(shifts)[:, None, None] * shifts[:, None]
                other = others[beside, torch.arange(len(before))] * (beside != k).to(shifts)[:, None]
                start = before + other + changes[k]

                def enough(times: float, k: int = k, name: str = name, start: Tensor = start) -> bool:
                    return _share(model, start + times * shifts[k], labellers[name]) >= _SHARE

                found[k] = _least(enough)
    for k, times in enumerate(found.tolist()):
        module.edits.shift[k] += times * shifts[k] - module.edits(before, k).mean(0)
    return dict(zip(concepts, found.tolist(), strict=True))


def _least(enough: Callable[[float], bool]) -> float:
    """The least number from 1 to the most that is enough, as near as some halvings come; else the most."""
    low, high = 1.0, _MOST
    if enough(low):
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _least_shown(module: EditModule, encodings: EncodedDataset) -> Tensor:
    """(K, r), in coordinates: the shifts above."""
    observed = coordinates_of(module, encodings, OBSERVATIONAL).mean(0)
    readings = torch.stack([coordinates_of(module, encodings, k).mean(0) - observed for k in module.config.concepts])
    shown = module.visible.square()
    turned = readings / (shown + shown.mean())
    return torch.linalg.pinv(turned @ readings.mT) * readings.square().sum(1)[:, None] @ turned


def _share(model: ContextualDecoder, coordinates: Tensor, labeller: Labeller) -> float:
    """Of pictures at these coordinates (n, r), those that are labelled."""
    module, base = model.module, model.base
    assert isinstance(module, EditModule)
    shown = [
        labeller(base.decode(part.to(base.dtype), temperature=0.0).mean.float().clamp(0, 1)) > 0
        for part in module.place(coordinates).split(_CHUNK)
    ]
    return torch.cat(shown).float().mean().item()
