"""`wrap_decoder`: a new context module in front of a pretrained base."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from context_module.adapters import adapt, family_of, load_base
from context_module.contexts import Concepts
from context_module.model.decoder import ContextualDecoder
from context_module.nn import ContextModuleConfig, auto_widths

__all__ = ["wrap_decoder"]

_OURS = frozenset(field.name for field in fields(ContextModuleConfig)) - {"concepts", "latent_shape", "num_features"}


def wrap_decoder(base: object, concepts: Iterable[str], **options: Any) -> ContextualDecoder:
    """Put a context module in front of a pretrained base.

    Args:
        base: a `DecoderAdapter`; anything the registry recognises (our `NVAE`, a `LightweightVAE`, a model or pipeline
            of diffusers or transformers, ...); or where such a base lies: a path or Hub id.
        concepts: names of the concepts that can be intervened on, in a fixed order.
        options: the other fields of `ContextModuleConfig`: ``noise_width``, ``concept_width``, ``depth``,
            ``free_blocks``, ``form``, ``graph``, ``composition``, ``inversion_width``, ``inversion``, ``reference``,
            ``latent_noise``, ``posterior_width``. What is left out or None is as `auto_widths` says for the base's
            decoder input and the number of concepts, or has its default. All others are the base's: of a model what
            `adapt` takes (``tokenizer``, ``prompt``, ...), of a path or id what `load_base` takes (``revision``,
            ``token``, ``sample_size``, ...).

    Raises:
        TypeError: if no adapter knows the base, or for an unknown option.
        ValueError: for options out of range (ConceptError for unusable names), or that a base at a path does not take.
        CheckpointError: for a path or id without a base that can be read.
    """
    said = {name: value for name, value in options.items() if value is not None}
    given = {name: value for name, value in said.items() if name in _OURS}
    of_base = {name: value for name, value in said.items() if name not in _OURS}
    if isinstance(base, str | Path):
        adapter = load_base(family_of(base, **of_base), base, **of_base)
    else:
        adapter = adapt(base, **of_base)
    names, shape = tuple(Concepts(concepts)), tuple(adapter.latent.shape)
    # the paper's are the defaults
    chosen = {} if given.get("reference") else auto_widths(shape, len(names), given.get("form", "structural"))
    config = ContextModuleConfig(
        concepts=names, latent_shape=shape, num_features=adapter.num_features, **{**chosen, **given}
    )
    return ContextualDecoder(adapter, config)
