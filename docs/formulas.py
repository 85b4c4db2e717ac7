"""A Sphinx extension: formulas as MathML, which browsers draw by themselves, where MathJax would be fetched."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

#: alphabets that browsers know by their characters alone, and their names in Unicode
_ALPHABETS = {"double-struck": "DOUBLE-STRUCK", "script": "SCRIPT"}
_logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mathml(latex: str, display: str = "inline") -> str:
    """A formula of LaTeX's as MathML.

    Raises:
        ValueError: if the formula has a command that the converter does not know.
    """
    text = re.sub(r'<mi mathvariant="([a-z-]+)">([A-Z])</mi>', _letter, convert(latex, display=display))
    text = text.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")  # the relation, which has room on both sides
    text = re.sub(r"(<mi>(?:exp|log)</mi>)(?=<mi>)", r'\1<mspace width="0.167em" />', text)
    if unknown := re.search(r"\\\w+", text):
        raise ValueError(f"{unknown[0]} in {latex!r} would be shown as it is: write the formula without it")
    return text


def _letter(found: re.Match[str]) -> str:
    alphabet, letter = _ALPHABETS.get(found[1]), found[2]
    if alphabet is None:
        return found[0]
    for name in (f"{alphabet} CAPITAL {letter}", f"MATHEMATICAL {alphabet} CAPITAL {letter}"):
        try:
            return f"<mi>{unicodedata.lookup(name)}</mi>"
        except KeyError:
            continue
    raise AssertionError(found[0])


def _inline(translator: Any, node: Any) -> None:
    translator.body.append(_converted(node))
    _skip()


def _display(translator: Any, node: Any) -> None:
    """A formula on lines of its own; its number, if it has one, stands at the right."""
    tag = re.search(r"\\tag\{(\w+)\}", node.astext())
    number = f'<span class="eqno">({tag[1]})</span>' if tag else ""
    latex = node.astext().replace(tag[0], "") if tag else node.astext()
    translator.body.append(f'<div class="math">{number}{_converted(node, latex, "block")}</div>\n')
    _skip()


def _converted(node: Any, latex: str | None = None, display: str = "inline") -> str:
    latex = node.astext() if latex is None else latex
    try:
        return mathml(latex, display)
    except ValueError as error:
        _logger.warning("%s", error, location=node)
        return ""


def _skip() -> None:
    from docutils.nodes import SkipNode

    raise SkipNode
