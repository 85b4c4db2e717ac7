"""Command lines from dataclasses: each field is a flag, its metadata the help, its default the default."""

from __future__ import annotations

import argparse
import dataclasses
import types
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["argument", "parse_arguments"]

T = TypeVar("T")


def argument(default: Any = dataclasses.MISSING, *, help: str) -> Any:
    """A dataclass field with a help text; without a default the flag is required."""
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


def parse_arguments(arguments: type[T], *, description: str, argv: Sequence[str] | None = None) -> T:
    """Parse a command line into a dataclass whose fields are made with `argument`.

    Flags are spelt as the fields are. ``bool`` fields get ``--flag`` and ``--no-flag``, ``Literal`` fields choices,
    ``list`` fields take one value or more. Abbreviated flags are refused: a typo must not pass for another flag.
    """
    parser = argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    hints = get_type_hints(arguments)
    for field in dataclasses.fields(arguments):  # type: ignore[arg-type]
        parser.add_argument(f"--{field.name}", **_options(field, hints[field.name]))
    return arguments(**vars(parser.parse_args(argv)))


def _options(field: dataclasses.Field[Any], kind: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"help": field.metadata["help"]}
    if field.default is not dataclasses.MISSING:
        options["default"] = field.default
    elif field.default_factory is not dataclasses.MISSING:
        options["default"] = field.default_factory()
    else:
        options["required"] = True
    if get_origin(kind) in (Union, types.UnionType):  # X | None
        kind = next(member for member in get_args(kind) if member is not types.NoneType)
    if get_origin(kind) is list:
        options["nargs"] = "+"
        (kind,) = get_args(kind)
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif get_origin(kind) is Literal:
        options["choices"] = get_args(kind)
    else:
        options["type"] = kind
    return options
