"""Command lines: a dataclass gives the flags, and what a user can mend is one line instead of a traceback."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from context_module.errors import ContextModuleError

__all__ = ["argument", "parse_arguments", "run_recipe"]

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


def run_recipe(main: Callable[[], None]) -> None:
    """Run a script's main function; errors and interruptions end it with their message and an exit code.

    The code is 1 for an error, and for an interruption its `exit_code` (see `TrainingInterrupted`), or 130.
    """
    try:
        main()
    except KeyboardInterrupt as interruption:
        print(str(interruption) or "interrupted", file=sys.stderr)
        sys.exit(getattr(interruption, "exit_code", 130))
    except (ContextModuleError, ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


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
