"""A Sphinx extension: pages are plain Markdown, and what only a site has is added when it is built.

In the repository a page shows nothing but text, code, tables, pictures and formulas. Here it gets its place in the
contents; files that are pages of the site, such as a recipe, are linked as those; and `--flag` or `name` in it leads
to the option or the object of the API that it names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import api
import options
from docutils import nodes
from references import documented
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

#: per page, the captions of the parts of its contents, and the pages in each
CONTENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "index": {
        "Guide": (
            "quickstart",
            "demo",
            "data",
            "cells",
            "base",
            "extending",
            "training",
            "baselines",
            "method",
            "faq",
        ),
        "Results": ("results", "speed", "promises"),
        "Reference": ("recipes", "api"),
        "Project": ("generated/changelog", "generated/contributing"),
    },
    "base": {"": ("examples/third_party_adapter/README",)},
}
#: per page, the pages below it that are made at build time
_MADE = {
    "recipes": tuple(f"generated/options/{name}" for name in options.recipes()),
    "api": tuple(f"generated/api/{name}" for name in api.PAGES),
}


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", _complete)
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write(folder: Path) -> None:
    """Write the pages of the site that are files of the repository's root."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("changelog", "contributing"):
        text = f"```{{include}} ../../{name.upper()}.md\n:relative-docs: docs/\n```\n"
        target = folder / f"{name}.md"
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")


def site_link(link: str) -> str:
    """Where a link out of docs/ leads on the site, if what it names has a page there; else the link."""
    if found := re.fullmatch(r"\.\./(CHANGELOG|CONTRIBUTING)\.md", link):
        return f"generated/{found[1].lower()}.md"
    if found := re.fullmatch(r"\.\./recipes/(\w+)\.py", link):
        return f"generated/options/{found[1]}.md"
    if found := re.fullmatch(r"\.\./(?:context_module/)?(\w+)/__init__\.py", link):
        return f"generated/api/{found[1]}.md"
    return link


def _complete(app: Sphinx, page: str, source: list[str]) -> None:
    if page.startswith("generated/"):
        return
    text = re.sub(r"(?<=\]\()[^)#\s]+", lambda found: site_link(found[0]), source[0])
    source[0] = text + "".join(f"\n```{{toctree}}\n{entries}\n```\n" for entries in _contents(page))


def _contents(page: str) -> Iterator[str]:
    for caption, pages in CONTENTS.get(page, {}).items():
        yield "\n".join((":hidden:", *([f":caption: {caption}"] if caption else []), "", *pages))
    if made := _MADE.get(page):
        yield "\n".join((":hidden:", "", *made))


def _link(app: Sphinx, tree: nodes.document, page: str) -> None:
    if page.startswith("generated/"):
        return
    for node in list(tree.findall(nodes.literal)):
        inside = isinstance(node.parent, nodes.reference | nodes.title | nodes.term)
        if not inside and (place := _place(app.env, node.astext())):
            where, anchor = place
            node.replace_self(make_refnode(app.builder, page, where, anchor, [node.deepcopy()]))


def _place(env: BuildEnvironment, code: str) -> tuple[str, str] | None:
    """The page and the anchor of what a piece of code names: a flag of a recipe, or an object of the API."""
    if code.startswith("--"):
        places = {program: at for (program, name), at in env.domaindata["std"]["progoptions"].items() if name == code}
        return places.get("finetune.py") or next(iter(places.values()), None)
    name = re.fullmatch(r"[A-Za-z_][\w.]+", code) and not re.fullmatch(r"[a-z]+", code)  # `data` may be anything
    if name and (found := documented(env, code)):
        place = env.domaindata["py"]["objects"][found]
        return place.docname, place.node_id
    return None
