"""A Sphinx extension: references in docstrings lead to what they name, and every public name has a place.

In this project's docstrings `name` is something of the code. A documented object, by however short a name, becomes a
link; a parameter, a local name, a file of the project or something of another package is shown as code; what the code
does not know (any more) is left to Sphinx's nitpicky mode, which warns of it, and warnings fail the build.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).resolve().parents[1]
_CALLABLES = ("class", "function", "exception")
_COLON = "\ue000"  # of prose, where napoleon would read "type: description"
_logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-skip-member", _without_words)
    app.connect("autodoc-process-signature", _readable)
    app.connect("autodoc-process-docstring", _before_napoleon, priority=100)
    app.connect("autodoc-process-docstring", _after_napoleon, priority=900)
    app.connect("missing-reference", _resolve)
    app.connect("env-check-consistency", _check_public_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _without_words(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what torch calls and explains, unless we say something of it."""
    callable_ = inspect.isfunction(obj) or inspect.isclass(obj)
    if what == "class" and callable_ and obj.__name__ != name.rpartition(".")[2]:
        return True  # the default of an attribute, which its class's docstring explains
    return True if name in ("extra_repr", "forward", "train") and not obj.__doc__ else None


def _readable(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returned: str) -> Any:
    """A dataclass's default factory is no Python: with it Sphinx could not read the signature."""
    return (signature.replace("<factory>", "..."), returned) if signature else None


def _before_napoleon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    for number, line in enumerate(lines):
        prose = number == 0 and what in ("attribute", "data", "property")
        returned = number > 0 and lines[number - 1].strip() in ("Returns:", "Yields:")
        returned = returned and " " in line.partition(":")[0].strip()  # no name of a type
        if prose or returned:
            lines[number] = re.sub(r"(?<!:):(?!:)", _COLON, line)


def _after_napoleon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Shapes such as (B, *latent_shape) and norms such as |x - y| are not reStructuredText's."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line.replace(_COLON, ":"))
        parts[::2] = [re.sub(r"(?<![\\*\w])\*(?=\w)|\|(?=\w)|(?<=\w)\|", r"\\\g<0>", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def _resolve(app: Sphinx, env: BuildEnvironment, node: Any, shown: Any) -> Any:
    """The node for a reference to Python that Sphinx did not resolve, or None to have it warn."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if found := documented(env, target):
        place = env.domaindata["py"]["objects"][found]
        return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, [shown], found)
    if node["reftype"] == "class":  # in a signature: the type checker knows it
        return shown
    _, mark, described = str(node.source).rpartition("docstring of ")
    known = mark and (_words(described).issuperset(target.split(".")) or (ROOT / target).exists())
    return shown if known or _object(target) is not None else None


def _check_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    found = {name.rpartition(".")[2] for name in env.domaindata["py"]["objects"]}
    for room in rooms():
        for name in importlib.import_module(room).__all__:
            if name not in found:
                _logger.warning("%s.%s is public and on no page of the API: see docs/api.py", room, name)


def rooms() -> Iterator[str]:
    """The packages of the library: what their ``__all__`` names is public."""
    library = importlib.import_module("context_module")
    yield library.__name__
    for place in ("", ".adapters", ".baselines"):  # other folders hold some, so that no path leads from one to another
        package = importlib.import_module(library.__name__ + place)
        yield from (
            found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.") if found.ispkg
        )
    yield from (f"{library.__name__}.{outside}" for outside in ("adapters", "baselines"))


def documented(env: BuildEnvironment, target: str) -> str | None:
    """The full name of the one documented object that a short name, or one through another module, means."""
    objects = env.domaindata["py"]["objects"]
    short = target
    while True:
        ends = [name for name in objects if name == short or name.endswith(f".{short}")]
        if "." not in short:  # methods are called by their class's name, too
            ends = [name for name in ends if objects[name].objtype in _CALLABLES]
        same = {id(_object(name)): name for name in sorted(ends, key=len, reverse=True)}
        if len(same) == 1:
            return next(iter(same.values()))
        if not target.startswith("context_module.") or "." not in short:
            return None
        short = short.partition(".")[2]


@functools.cache
def _object(name: str) -> Any:
    """The object of a full name; None if it is none."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except (ImportError, ValueError):
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        return found
    return None


@functools.cache
def _words(described: str) -> frozenset[str]:
    """The words in the code around an object: of its module, its class's bases, and what these import of ours."""
    around = [_object(described), _object(described.rpartition(".")[0])]
    around += [kind for owner in around if isinstance(owner, type) for kind in owner.__mro__]
    modules = {module.__name__ for module in map(inspect.getmodule, around) if module and _is_ours(module.__name__)}
    nodes = [node for module in modules for node in ast.walk(_code(module))]
    imported = {module for node in nodes if isinstance(node, ast.ImportFrom) for module in _sources(node)}
    nodes += [node for module in filter(_is_ours, imported) for node in ast.walk(_code(module))]
    return frozenset(word for node in nodes for word in _words_of(node))


def _sources(node: ast.ImportFrom) -> Iterator[str]:
    """The modules that define what a line imports, whatever door it comes through."""
    if node.module and _is_ours(node.module):
        yield node.module
        room = importlib.import_module(node.module)
        for name in node.names:
            if source := getattr(getattr(room, name.name, None), "__module__", None):
                yield source


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "context_module"


@functools.cache
def _code(module: str) -> ast.AST:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


def _words_of(node: ast.AST) -> Iterator[str]:
    for field in ("id", "arg", "attr", "name", "module", "value"):
        if isinstance(value := getattr(node, field, None), str) and len(value) < 80:
            yield value.rpartition(".")[2] if field == "module" else value
