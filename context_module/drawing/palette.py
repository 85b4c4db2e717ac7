"""The colours of figures, on light pages and on dark ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Palette", "palette"]


@dataclass(frozen=True)
class Palette:
    """Colours as in CSS; those of the report's page.

    Attributes:
        ink: of text and lines.
        accent: of what matters most.
        muted: of what is in the background.
        paper: behind everything.
        void: where there is no value.
        scale: of values, from none to the largest.
    """

    ink: str
    accent: str
    muted: str
    paper: str
    void: str
    scale: tuple[str, ...]

    @property
    def style(self) -> Any:
        """Settings of matplotlib, by name."""
        inked = ("axes.labelcolor", "text.color", "xtick.color", "ytick.color")
        papers = ("figure.facecolor", "axes.facecolor")
        return {
            "font.size": 9,
            "axes.edgecolor": self.muted,
            **dict.fromkeys(inked, self.ink),
            **dict.fromkeys(papers, self.paper),
        }


_LIGHT = Palette("#1f2933", "#b3401f", "#8795a1", "#ffffff", "#eef1f4", ("#f7fbff", "#6baed6", "#08306b"))
_DARK = Palette("#e4e9ee", "#ff9d76", "#8795a1", "#14191f", "#222a33", ("#182430", "#2f74a8", "#b8dcf5"))


def palette(dark: bool) -> Palette:
    """The colours for a dark page, or for a light one."""
    return _DARK if dark else _LIGHT
