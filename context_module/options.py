"""Fields of dataclasses that say what they are for: command lines are made from them."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["argument"]


def argument(default: Any = dataclasses.MISSING, *, help: str) -> Any:
    """A dataclass field with a help text; without a default the flag is required."""
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})
