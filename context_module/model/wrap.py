"""`wrap_decoder`: a new context module in front of a pretrained base."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from context_module.adapters import adapt
from context_module.contexts import Concepts
from context_module.model.decoder import ContextualDecoder
from context_module.nn import ContextModuleConfig, auto_widths

__all__ = ["wrap_decoder"]


def wrap_decoder(base: object, concepts: Iterable[str], **options: Any) -> ContextualDecoder:
    """Put a context module in front of a pretrained base.

    Args:
        base: a `DecoderAdapter`, or anything the registry recognises (our `NVAE`, a `LightweightVAE`, ...).
        concepts: names of the concepts that can be intervened on, in a fixed order.
        options: the other fields of `ContextModuleConfig`: ``noise_width``, ``concept_width``, ``depth``,
            ``free_blocks``, ``form``, ``graph``, ``composition``, ``inversion_width``, ``inversion``, ``reference``,
            ``latent_noise``, ``posterior_width``. What is left out or None is as `auto_widths` says for the base's
            decoder input and the number of concepts, or has its default.

    Raises:
        TypeError: if no adapter knows the base, or for an unknown option.
        ValueError: for options out of range (ConceptError for unusable names).
    """
    adapter, names = adapt(base), tuple(Concepts(concepts))
    shape = tuple(adapter.latent.shape)
    given = {name: value for name, value in options.items() if value is not None}
    # the paper's are the defaults
    chosen = {} if given.get("reference") else auto_widths(shape, len(names), given.get("form", "structural"))
    config = ContextModuleConfig(
        concepts=names, latent_shape=shape, num_features=adapter.num_features, **{**chosen, **given}
    )
    return ContextualDecoder(adapter, config)
