"""What a module's card says beyond what the module knows of itself."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from context_module.saving.layout import GRID_NAME

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CardDetails"]


@dataclass
class CardDetails:
    """What a card says beyond what the module knows of itself. It is saved with the module, and loaded with it.

    After training a loaded module further, set new ones: what was measured no longer holds.

    Attributes:
        data: name of the data it was trained on.
        metrics: what was measured, as Markdown.
        grid: a picture of every context, PNG.
    """

    data: str | None = None
    metrics: str | None = None
    grid: bytes | None = None

    @classmethod
    def of(cls, data: str | None = None, metrics: str | None = None, grid: Image | None = None) -> CardDetails:
        """The same with the picture as a `PIL.Image.Image`."""
        if grid is None:
            return cls(data, metrics)
        buffer = io.BytesIO()
        grid.save(buffer, format="PNG")
        return cls(data, metrics, buffer.getvalue())

    def to_dict(self) -> dict[str, str]:
        """What goes into the configuration: all but the picture, which is a file."""
        return {name: text for name in ("data", "metrics") if (text := getattr(self, name))}

    @classmethod
    def read(cls, content: object, folder: Path) -> CardDetails:
        """Those of a saved module: a card is no reason to refuse one, so what cannot be read is left out."""
        fields = content if isinstance(content, Mapping) else {}
        texts = {name: text for name in ("data", "metrics") if isinstance(text := fields.get(name), str)}
        grid = folder / GRID_NAME
        return cls(**texts, grid=grid.read_bytes() if texts and grid.is_file() else None)
