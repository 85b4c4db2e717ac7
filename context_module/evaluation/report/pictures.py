"""Pictures inside the page: strips of images, films of strengths, and figures in light and in dark."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.drawing import DPI, edge_map, filmstrip, mosaic, png
from context_module.nn import CausalGraph, Edge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawing", "Film", "drawing", "film", "graph_drawing", "strip"]

_LARGEST = 128  # pixels of an image in the page, whose size is to stay sensible
_LARGEST_IN_FILM = 64


@dataclass(frozen=True)
class Drawing:
    """A figure for light pages and for dark ones, at the size it was drawn for: 96 of CSS's pixels an inch."""

    light: str
    dark: str
    width: int


@dataclass(frozen=True)
class Film:
    """Rows of images, one below the other, at even steps of strength; width and height of all of it, in pixels."""

    picture: str
    strengths: list[float]
    width: int
    height: int

    @property
    def step(self) -> float:
        """Between two strengths."""
        return round((self.strengths[-1] - self.strengths[0]) / (len(self.strengths) - 1), 6)


def strip(images: Tensor, columns: int = 4) -> str:
    """Images (n, C, H, W) in rows."""
    return _inlined(png(mosaic(_shrunk(images, _LARGEST), columns)))


def film(frames: Mapping[float, Tensor]) -> Film:
    """The images (n, C, H, W) of every strength."""
    picture = filmstrip(torch.stack([_shrunk(images, _LARGEST_IN_FILM) for images in frames.values()]))
    return Film(_inlined(png(picture)), list(frames), *picture.size)


def drawing(light: Figure, dark: Figure) -> Drawing:
    """One figure, drawn in both inks."""
    picture = png(light)
    pixels = int.from_bytes(picture[16:20], "big")  # a PNG begins with its width
    return Drawing(_inlined(picture), _inlined(png(dark)), round(96 * pixels / DPI))


def graph_drawing(graph: CausalGraph, truth: Iterable[Edge] | None) -> Drawing:
    """The learned graph beside the true one."""
    return drawing(edge_map(graph, truth), edge_map(graph, truth, dark=True))


def _shrunk(images: Tensor, most: int) -> Tensor:
    """Images of at most so many pixels a side."""
    largest = max(images.shape[-2:])
    if largest <= most:
        return images
    size = [max(1, round(side * most / largest)) for side in images.shape[-2:]]
    return F.interpolate(images.detach().float().cpu(), size, mode="area")


def _inlined(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
