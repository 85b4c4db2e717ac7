"""Command lines: a dataclass gives the flags, and what a user can mend is one line instead of a traceback."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import itertools
import json
import re
import reprlib
import sys
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from context_module.errors import ContextModuleError
from context_module.options import argument, expanded

__all__ = ["argument", "flag_options", "given", "parse_arguments", "run_recipe"]

_SHORT = reprlib.Repr()  # of values in messages
_SHORT.maxlevel = 2
_DEEPEST = 50  # brackets within one another
_LONGEST = 1 << 20  # bytes of a file of flags

T = TypeVar("T")


def parse_arguments(arguments: type[T], *, description: str, argv: Sequence[str] | None = None) -> T:
    """Parse a command line into a dataclass whose fields are made with `argument`.

    Flags are spelt as the fields are. ``bool`` fields get ``--flag`` and ``--no-flag``, ``Literal`` fields choices,
    ``list`` fields take one value or more. Abbreviated flags are refused: a typo must not pass for another flag.
    ``--config file.yaml`` (or ``.json``, such as the ``arguments.json`` of an earlier run) gives values by the flags'
    names; flags on the command line win over it. Text that begins with ``~/`` is a path below the user's home.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--config", default=argparse.SUPPRESS, help="a YAML or JSON file of flags and their values; flags win over it"
    )
    hints = get_type_hints(arguments)
    fields = {field.name: field for field in dataclasses.fields(arguments)}  # type: ignore[arg-type]
    required = [f"--{name} ..." for name, field in fields.items() if "required" in flag_options(field, hints[name])]
    parser.usage = " ".join(["%(prog)s", *required, "[--flag value ...]"])
    groups: dict[str, Any] = {}
    for name, field in fields.items():
        title = _group(arguments, name)
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(f"--{name}", **flag_options(field, hints[name]))
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    if file := first.parse_known_args(argv)[0].config:
        try:
            argv = [*_words_of(file, fields, hints), *argv]  # of a flag given twice, the last counts
        except ValueError as error:
            parser.error(f"--config {file}: {error}")
    parsed = vars(parser.parse_args(argv))
    parsed.pop("config", None)
    try:
        return arguments(**parsed)
    except ValueError as error:  # it names fields, which are flags here
        names = "|".join(sorted((name for name in fields if "_" in name), key=len, reverse=True))
        raise type(error)(re.sub(rf"(?<![\w-])({names})\b", r"--\1", str(error))) from None


def _group(arguments: type, name: str) -> str:
    """What a flag is listed under: the first sentence on the class that its field comes from."""
    owner = next(kind for kind in arguments.__mro__ if name in inspect.get_annotations(kind))
    first = (owner.__doc__ or "").strip().partition(".")[0]
    return first.removeprefix("The ")


def given(name: str, default: str, argv: Sequence[str] | None = None) -> str:
    """The value of one text flag of a command line, before it is known which further flags there are.

    Of ``--config`` it is read as `parse_arguments` does; what is wrong there is said by that.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    first.add_argument(f"--{name}")
    found = first.parse_known_args(sys.argv[1:] if argv is None else list(argv))[0]
    value = getattr(found, name)
    if value is None and found.config:
        with suppress(ValueError):
            value = _read_config(found.config).get(name)
    return expanded(str(value or default))


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
    except MemoryError as error:
        sys.exit(
            f"error: out of memory{f' ({error})' if str(error) else ''}: fewer images, or smaller batches, take less"
        )


def _words_of(file: str, fields: dict[str, dataclasses.Field[Any]], hints: dict[str, Any]) -> list[str]:
    """A file's values as the words of a command line; ValueError says what is wrong with it."""
    words = []
    for key, value in _read_config(file).items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            raise ValueError(f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "; see --help"))
        values = value if isinstance(value, list) else [value]
        if any(isinstance(item, (dict, list)) for item in values):
            raise ValueError(f"{key} must be a value or a list of values, got {_SHORT.repr(value)}")
        if isinstance(value, list) and get_origin(_kind(hints[key])) is not list:
            raise ValueError(f"{key} takes one value, got {_SHORT.repr(value)}")
        if value in (None, "", "null", "~"):
            if fields[key].default is not None:
                raise ValueError(f"{key} has no value: give one, or leave the key out")
        elif _kind(hints[key]) is bool:
            if str(value).lower() not in ("true", "false"):
                raise ValueError(f"{key} must be true or false, got {value!r}")
            words.append(f"--{key}" if str(value).lower() == "true" else f"--no-{key}")
        elif isinstance(value, list):
            words += [f"--{key}", *map(str, value)] if value else []
        else:
            words.append(f"--{key}={value}")
    return words


def _read_config(file: str) -> dict[str, Any]:
    path = Path(expanded(file))
    if not path.is_file():
        raise ValueError("no such file")
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ValueError("expected a file named .yaml, .yml or .json")
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path.stat().st_size:,d} bytes are no list of flags")
    text = path.read_text(encoding="utf-8")
    if _depth(text) > _DEEPEST:  # YAML's reader takes minutes over it
        raise ValueError("nested too deeply for flags and their values")
    if path.suffix == ".json":
        try:
            content = json.loads(text, object_pairs_hook=_once)
        except json.JSONDecodeError as error:
            raise ValueError(f"not valid JSON: {error}") from None
        except RecursionError:
            raise ValueError("nested too deeply for flags and their values") from None
    else:
        try:
            import yaml
        except ImportError as error:
            raise ImportError("--config with YAML needs PyYAML: pip install context-module[train]") from error
        try:
            # repeated a few times over, an alias of aliases is gigabytes
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.BaseLoader)):
                raise ValueError("YAML aliases (*name) are not read: write the values out")
            _check_keys(yaml.compose(text, Loader=yaml.BaseLoader))
            # values stay text, for each flag's own type to read: to YAML "no" is false, and 1e-3 no number
            content = yaml.load(text, Loader=yaml.BaseLoader)
        except yaml.YAMLError as error:
            raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None
        except RecursionError:
            raise ValueError("nested too deeply for flags and their values") from None
    if isinstance(content, dict):
        return content
    raise ValueError(f"expected flags and their values, such as 'seed: 1', got a {type(content).__name__}")


def _depth(text: str) -> int:
    """How many brackets are open at most."""
    steps = (1 if letter in "[{" else -1 for letter in text if letter in "[]{}")
    return max(itertools.accumulate(steps), default=0)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError for a key that is there twice, of which json would take the last."""
    keys = [key for key, _ in pairs]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"the key {repeated[0]!r} is there twice: keep one of them")
    return dict(pairs)


def _check_keys(node: Any) -> None:
    """Raise ValueError for a key that is there twice in a YAML mapping, of which yaml would take the last."""
    lines: dict[str, int] = {}
    for pair in getattr(node, "value", ()):
        if isinstance(pair, tuple) and isinstance(key := pair[0].value, str):
            line = pair[0].start_mark.line + 1
            if key in lines:
                raise ValueError(f"the key {key!r} on line {line} is already on line {lines[key]}: keep one of them")
            lines[key] = line


def _kind(hint: Any) -> Any:
    """A type without ``| None``."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(member for member in get_args(hint) if member is not types.NoneType)
    return hint


def flag_options(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    """What `argparse.ArgumentParser.add_argument` takes for a field made with `argument`, of this type."""
    options: dict[str, Any] = {"help": field.metadata["help"]}
    if field.default is not dataclasses.MISSING:
        options["default"] = field.default
    elif field.default_factory is not dataclasses.MISSING:
        options["default"] = field.default_factory()
    else:
        options |= {"required": True, "help": f"{options['help']} (required)"}
    kind = _kind(hint)
    if get_origin(kind) is list:
        options["nargs"] = "+"
        (kind,) = get_args(kind)
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif get_origin(kind) is Literal:
        options["choices"] = get_args(kind)
    else:
        options["type"] = expanded if kind is str else kind
    return options
