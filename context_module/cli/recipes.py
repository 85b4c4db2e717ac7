"""Where the recipes lie: scripts to run and to copy that ship with the library, with what they refer to."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from pathlib import Path

__all__ = ["accelerate_configs", "find_by_name", "next_command", "recipe_file", "recipe_scripts", "recipes_folder"]


def recipes_folder() -> Path:
    """The folder of the recipes: inside the installed package, or beside it in a clone of the repository."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def recipe_scripts() -> dict[str, Path]:
    """The recipes by name."""
    return {file.stem: file for file in sorted(recipes_folder().glob("*.py"))}


def accelerate_configs() -> dict[str, Path]:
    """The configurations for Accelerate that ship with the recipes, by name."""
    return {file.stem: file for file in sorted((recipes_folder() / "configs").glob("*.yaml"))}


def recipe_file(recipe: str, name: str) -> Path:
    """What a recipe refers to: beside the recipe if it is there, else, for a copy of it elsewhere, as shipped.

    Args:
        recipe: the ``__file__`` of the recipe.
        name: path from the folder of the recipes, such as ``pretrained/nvae-quad32``.
    """
    beside = Path(recipe).resolve().parent / name
    return beside if beside.exists() else recipes_folder() / name


def next_command(recipe: str, name: str, *words: object) -> str:
    """What to type next, for the last line of a recipe: another recipe with these words.

    Args:
        recipe: the ``__file__`` of the recipe that ends.
        name: of the other one.
        words: flags and their values.
    """
    file, here = recipe_file(recipe, f"{name}.py"), Path.cwd()
    called = f"python {file.relative_to(here)}" if file.is_relative_to(here) else f"context-module run {name}"
    return f"next: {called} {shlex.join(map(str, words))}"


def find_by_name(name: str, files: Mapping[str, Path], kind: str) -> Path:
    """The one of these files that has this name.

    Raises:
        ValueError: for an unknown name; says which one is near, and which there are.
    """
    if name in files:
        return files[name]
    near = difflib.get_close_matches(name.removesuffix(".py").removesuffix(".yaml"), files, n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}? There" if near else ": there"
    own = f"; a file of your own is run by python {name}" if name.endswith(".py") and Path(name).is_file() else ""
    raise ValueError(f"unknown {kind} {name!r}{hint} are {', '.join(files)}{own}")
