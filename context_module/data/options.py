"""Options as words, `name=value`: the declared type of the argument that an option is for says what its value is."""

from __future__ import annotations

import builtins
import inspect
import json
import math
import sys
import types
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from context_module.errors import DataError
from context_module.options import expanded

__all__ = ["parse_options"]

_SWITCH = {"true": True, "false": False}


def parse_options(words: Iterable[str], *functions: Callable[..., Any]) -> dict[str, Any]:
    """Options written ``name=value``, for a function that takes them.

    An argument that is annotated as a ``str`` or ``Path`` gets the text as it is, whatever it looks like, one of
    several names (``Iterable[str]``) too, if it is no JSON list; of ``int``, ``float``, ``bool`` (true or false) and
    ``Literal`` the value is read as such, and null and none stand for None where that is allowed. For all others, and
    without a function, a value that is JSON (a finite number, true, a list) is taken as such, else as text. Text that
    begins with ``~/`` is a path below the user's home.

    Args:
        words: the options.
        functions: that they are for; of an argument that several have, the first says its type.

    Raises:
        DataError: for a word without ``=``, an option given twice, or a value that is not of the declared type.

    >>> parse_options(["strength=0.5", "fracture=true", "root=mnist"])
    {'strength': 0.5, 'fracture': True, 'root': 'mnist'}
    """
    declared: dict[str, Any] = {}
    for function in reversed(functions):
        declared.update(_annotations(function))
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise DataError(f"cannot read the option {word!r}: write name=value, as in strength=0.5")
        if name in options:
            raise DataError(f"the option {name!r} is given twice")
        options[name] = _value(name, expanded(value), declared.get(name, Any))
    return options


class _Names(dict[str, Any]):
    """Names that an annotation may use; one that is imported for type checkers alone may be anything."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, Any)


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """The declared types of the arguments, but of those that have none or one that cannot be told."""
    while isinstance(function, partial):
        function = function.func
    module = sys.modules.get(inspect.unwrap(function).__module__)
    names = _Names(vars(module) if module else {})
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = Any if parameter.annotation is inspect.Parameter.empty else parameter.annotation
        if isinstance(hint, str):
            try:
                hint = eval(hint, {}, names)  # as typing.get_type_hints does, which stops at the first it cannot tell
            except (TypeError, AttributeError, SyntaxError):
                hint = Any
        if hint is not Any and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            found[name] = hint
    return found


def _value(name: str, text: str, hint: Any) -> Any:
    kinds = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    if any(map(_of_names, kinds)):
        items = _guess(text)
        return [str(item) for item in items] if isinstance(items, list) else text
    is_text = str in kinds or Path in kinds
    if types.NoneType in kinds and not is_text and text.lower() in ("none", "null"):
        return None
    for kind in kinds:
        with suppress(ValueError, KeyError):
            if get_origin(kind) is Literal:
                return {str(choice): choice for choice in get_args(kind)}[text]
            if kind is bool:
                return _SWITCH[text.lower()]
            if kind in (int, float):
                return kind(text)
    if is_text:
        return text
    expected = [_expected(kind) for kind in kinds if kind is not types.NoneType]
    if None in expected:  # a type that this does not know
        return _guess(text)
    raise DataError(f"the option {name} must be {' or '.join(map(str, expected))}, got {text!r}")


def _expected(kind: Any) -> str | None:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind)


def _of_names(kind: Any) -> bool:
    """Whether it is a list or the like of strings."""
    origin, items = get_origin(kind), get_args(kind)
    return isinstance(origin, type) and issubclass(origin, Iterable) and items in ((str,), (str, Ellipsis))


def _guess(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    beyond = isinstance(value, float) and not math.isfinite(value)  # such as the commit 12e4567
    return text if beyond else value
