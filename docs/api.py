"""Writes the pages of the API: one for each room of the library, with every name that its door lets out."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: The modules of every page, in order. What several of them let out is described by the first.
PAGES: dict[str, tuple[str, ...]] = {
    "context_module": ("context_module", "context_module.interventions", "context_module.errors"),
    "adapters": (
        "context_module.adapters",
        "context_module.adapters.modules",
        "context_module.adapters.decoder_only",
        "context_module.adapters.lightweight",
        "context_module.adapters.nvae",
        "context_module.adapters.diffusers",
        "context_module.adapters.denoiser",
        "context_module.adapters.transformers",
        "context_module.adapters.scvi",
        "context_module.adapters.vector_vae",
        "context_module.adapters.vector_likelihoods",
        "context_module.adapters.likelihoods",
    ),
    "model": ("context_module.model", "context_module.model.published"),
    "nn": ("context_module.nn",),
    "base": ("context_module.base",),
    "data": ("context_module.data",),
    "training": ("context_module.training", "context_module.training.objectives"),
    "metrics": ("context_module.metrics",),
    "baselines": ("context_module.baselines",),
    "evaluation": ("context_module.evaluation",),
    "demo": ("context_module.demo",),
    "drawing": ("context_module.drawing",),
    "saving": ("context_module.saving",),
    "io": ("context_module.io",),
    "cli": ("context_module.cli",),
    "study": ("context_module.study",),
}
#: what a reader wants first of what the library exports; the rest follows in its own order
FIRST = ("wrap_decoder", "ContextualDecoder", "Value", "adapt")


def public_names(module: str) -> list[str]:
    """The public names of a module: those of its ``__all__``, or what it defines itself."""
    room = importlib.import_module(module)
    own = (name for name, value in vars(room).items() if getattr(value, "__module__", None) == module)
    names = getattr(room, "__all__", None) or [name for name in own if not name.startswith("_")]
    return [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]


def pages() -> dict[str, str]:
    """The text of every page, in MyST's Markdown, by its name."""
    seen: dict[int, str] = {}  # the full names of what was described, by identity
    return {name: "\n".join(_page(modules, seen)) for name, modules in PAGES.items()}


def write(folder: Path) -> None:
    """Write every page; files that would not change are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        target = folder / f"{name}.md"
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")


def _page(modules: tuple[str, ...], seen: dict[int, str]) -> Iterator[str]:
    for number, module in enumerate(modules):
        yield f"{'##' if number else '#'} {module}\n"
        yield _directive("automodule", module, "   :no-members:")
        elsewhere = []
        for name in public_names(module):
            value, full = getattr(importlib.import_module(module), name), f"{module}.{name}"
            described = isinstance(value, type) or inspect.isroutine(value)
            if described and seen.setdefault(id(value), full) != full:
                elsewhere.append(f"[`{name}`](#{seen[id(value)]})")
                continue
            yield _directive(_kind(value), full, *_OPTIONS.get(full, ())) if described else _constant(module, name)
        if elsewhere:
            yield f"Also here: {', '.join(elsewhere)}.\n"


#: a model's methods for saving and for switching modules are those of the classes it is made of
_OPTIONS = {"context_module.ContextualDecoder": ("   :inherited-members: Module",)}


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction"


def _constant(module: str, name: str) -> str:
    """A constant with the comment above it, or beside it, in whichever file of the room makes it."""
    folder = Path(inspect.getfile(importlib.import_module(module)))
    for file in sorted(folder.parent.glob("*.py")) if folder.stem == "__init__" else [folder]:
        lines = file.read_text(encoding="utf-8").splitlines()
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and name in _made_by(node):
                above = node.lineno - 1
                while above and lines[above - 1].startswith("#"):
                    above -= 1
                words = [line.lstrip("#: ") for line in lines[above : node.lineno - 1]]
                beside = lines[node.lineno - 1].partition("  # ")[2]
                value = [f"   :value: {code}"] if len(code := ast.unparse(node.value or node.target)) < 100 else []
                return _directive(
                    "py:data", f"{module}.{name}", *value, "", *(f"   {line}" for line in [*words, beside])
                )
    raise LookupError(f"{module}.{name} is made in no file of {folder.parent}")


def _made_by(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}


def _directive(kind: str, name: str, *options: str) -> str:
    return "\n".join(("```{eval-rst}", f".. {kind}:: {name}", *options, "```\n"))
