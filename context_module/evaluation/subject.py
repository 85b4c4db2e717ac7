"""Whatever can be scored, as a subject."""

from __future__ import annotations

from context_module.adapters import DecoderAdapter, adapt
from context_module.evaluation.module_subject import BaseSubject, ModuleSubject
from context_module.evaluation.screen_subject import ScreenSubject
from context_module.metrics import Subject
from context_module.model import ContextualDecoder

__all__ = ["subject_of"]


def subject_of(model: Subject | ContextualDecoder | DecoderAdapter | object, *, pooled: bool = False) -> Subject:
    """What `evaluate` scores: a `Subject` as it is, a wrapped base, or a base as `adapt` takes it.

    Args:
        model: any of these.
        pooled: of a wrapped base, see `ModuleSubject`.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(model, Subject):
        return model
    if isinstance(model, ContextualDecoder):
        screen = model.base.kind == "vectors" and model.config.form == "edits" and not pooled
        return ScreenSubject(model) if screen else ModuleSubject(model, pooled=pooled)
    try:
        return BaseSubject(adapt(model))
    except TypeError as error:
        raise TypeError(f"{error} To score a system of your own, subclass context_module.metrics.Subject.") from None
