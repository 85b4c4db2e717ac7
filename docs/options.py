"""Writes a page of every recipe's options, from the dataclass that makes its flags."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from context_module.adapters import available_adapters, get_adapter
from context_module.baselines import available_baselines, get_baseline
from context_module.cli import BaseArguments, DataArguments, TermArguments, TrainingArguments, flag_options
from context_module.study import StudyArguments
from context_module.training import TrainingSettings

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
_SHARED = {
    BaseArguments: "The base",
    DataArguments: "The data",
    TermArguments: "Terms of the latent objective",
    TrainingSettings: "Training",
    TrainingArguments: "Training",
    StudyArguments: "Runs",
}


def recipes() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.py"))


def arguments_of(recipe: str) -> type[Any]:
    """The dataclass of a recipe's flags."""
    spec = importlib.util.spec_from_file_location(f"recipe_{recipe}", RECIPES / f"{recipe}.py")
    assert spec is not None
    assert spec.loader is not None
    script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look annotations up
    spec.loader.exec_module(script)
    return getattr(script, f"{recipe.title().replace('_', '')}Arguments")


def page(recipe: str) -> str:
    """A page in MyST's Markdown: what the recipe does, and its options by the class that they are common to."""
    doc = ast.get_docstring(ast.parse((RECIPES / f"{recipe}.py").read_text(encoding="utf-8"))) or ""
    kind = arguments_of(recipe)
    hints, groups = get_type_hints(kind), dict.fromkeys(["This recipe", *_SHARED.values()], "")
    for field in dataclasses.fields(kind):
        groups[_group(kind, field.name)] += _option(field, hints[field.name])
    config = ":::{option} --config FILE\nA YAML or JSON file of flags and their values; flags win over it.\n:::\n\n"
    groups["This recipe"] += config
    parts = [f"# {recipe}.py\n\n```{{eval-rst}}\n{_as_rest(doc)}\n```\n", f"```{{program}} {recipe}.py\n```\n"]
    groups |= {"pretrain": _families, "train_baseline": _methods}.get(recipe, dict)()
    parts += [f"## {title}\n\n{options}" for title, options in groups.items() if options]
    return "\n".join(parts)


def write(folder: Path) -> None:
    """Write every page; files that would not change are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for recipe in recipes():
        target, text = folder / f"{recipe}.md", page(recipe)
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")


def _methods() -> dict[str, str]:
    """The options of every baseline, by a title."""
    kinds = {name: get_baseline(name).settings_class for name in available_baselines()}
    return dict(_chosen("train_baseline.py --method", name, kind) for name, kind in kinds.items())


def _families() -> dict[str, str]:
    """The options of every family that can be pretrained, by a title."""
    found = {}
    for family in available_adapters():
        try:
            kind = get_adapter(family).pretraining()
        except ValueError:  # it is not made here
            continue
        found |= dict([_chosen("pretrain.py --base", family, kind)])
    return found


def _chosen(command: str, name: str, kind: type[Any]) -> tuple[str, str]:
    """A title, and the options that a recipe has besides where one of its flags has this value."""
    hints = get_type_hints(kind)
    options = (_option(field, hints[field.name]) for field in dataclasses.fields(kind))
    return f"`{command.split()[1]} {name}`", f"```{{program}} {command} {name}\n```\n\n{''.join(options)}"


def _group(kind: type[Any], name: str) -> str:
    """The title for an option: of the class that first had it, however many give it another default."""
    first = next(owner for owner in reversed(kind.__mro__) if name in vars(owner).get("__annotations__", {}))
    return _SHARED.get(first, "This recipe")


def _option(field: dataclasses.Field[Any], hint: Any) -> str:
    given = flag_options(field, hint)
    text = given["help"].replace("%%", "%")
    words = re.split(r"(--\w+)", text)  # flags, and the rest
    words[::2] = [re.sub(r"([\\`*_<>\[\]$|])", r"\\\1", word) for word in words[::2]]
    text = "".join(f"`{word}`" if word.startswith("--") else word for word in words)
    facts = []
    if choices := given.get("choices"):
        facts.append(f"One of {', '.join(f'`{choice}`' for choice in choices)}.")
    if given.get("required"):
        facts.append("Required.")
    elif isinstance(given["default"], bool):
        facts.append(f"Default: `--{'' if given['default'] else 'no-'}{field.name}`.")
    elif given["default"] not in (None, []):
        facts.append(f"Default: `{given['default']}`.")
    end = "" if text.endswith(".") else "."
    head = f":::{{option}} {', '.join(_spellings(field.name, given))}"
    return f"{head}\n{_capital(text)}{end} {' '.join(facts)}\n:::\n\n"


def _spellings(name: str, given: dict[str, Any]) -> Iterator[str]:
    if given.get("action") is argparse.BooleanOptionalAction:
        yield f"--{name}"
        yield f"--no-{name}"
    else:
        kind = "NAME" if "choices" in given else {int: "N", float: "X"}.get(given["type"], "TEXT")
        yield f"--{name} {kind}" + (" ..." if given.get("nargs") else "")


def _capital(text: str) -> str:
    """A help text as a sentence; one that starts with the families of bases it is for stays as it is."""
    named = re.match(r"\w+(, \w+)*:", text)
    return text if named else text[0].upper() + text[1:]


def _as_rest(doc: str) -> str:
    """A recipe's docstring, whose commands are set apart by nothing but their indentation, or not even that."""
    paragraphs = []
    for paragraph in doc.split("\n\n"):
        lines = paragraph.splitlines()
        if all(line.strip().startswith(("python ", "accelerate ")) for line in lines):
            lines = [".. code-block:: bash", "", *(f"    {line.strip()}" for line in lines)]
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)
