"""A Sphinx extension: the flags of a command are words of their own, so that lines wrap between them, not in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pygments.lexers.shell import BashLexer
from pygments.token import Name, Text, _TokenType
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_lexer("bash", CommandLexer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class CommandLexer(BashLexer):
    """Bash, in which ``--flag`` is a token; site.css keeps it on one line."""

    def get_tokens_unprocessed(self, text: str, *stack: Any) -> Iterator[tuple[int, _TokenType, str]]:
        for start, kind, value in super().get_tokens_unprocessed(text, *stack):
            if kind is not Text:
                yield start, kind, value
                continue
            for part in re.split(r"(?<!\S)(--?\w[\w-]*)", value):
                if part:
                    yield start, Name.Attribute if part.startswith("-") and part.strip("-") else Text, part
                    start += len(part)
