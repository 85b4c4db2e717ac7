"""A Sphinx extension: the pages load nothing from another host, so they are whole without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import SphinxError

_HOST = r"(?:https?:)?//[^\"'\s)]+"
#: what a browser fetches for a page: scripts, pictures, frames, style sheets and fonts; not links to click on
_FETCHED = (
    rf"<(?:script|img|iframe|source|audio|video|embed)\b[^>]*?\ssrc=[\"']({_HOST})",
    rf"<link\b[^>]*?\shref=[\"']({_HOST})",
    rf"@import\s+(?:url\()?[\"']?({_HOST})",
    rf"url\([\"']?({_HOST})",
)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def fetched(text: str) -> Iterator[str]:
    """The addresses on other hosts that a browser would fetch for a page or a style sheet."""
    for pattern in _FETCHED:
        yield from re.findall(pattern, text)


def _check(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    files = [path for path in Path(app.outdir).rglob("*") if path.suffix in (".html", ".css")]
    found = {address: path for path in files for address in fetched(path.read_text(encoding="utf-8"))}
    if found:
        raise SphinxError("fetched from another host: " + ", ".join(f"{a} in {path}" for a, path in found.items()))
