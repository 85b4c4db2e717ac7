"""Fields of dataclasses that say what they are for, as command lines are made from them, and paths as users write."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

__all__ = ["argument", "expanded"]


def argument(default: Any = dataclasses.MISSING, *, help: str) -> Any:
    """A dataclass field with a help text; without a default the flag is required."""
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


def expanded(text: str) -> str:
    """A text that begins with ``~/`` as a path below the user's home, which no shell saw to; any other as it is."""
    return os.path.expanduser(text) if text.startswith("~/") else text
