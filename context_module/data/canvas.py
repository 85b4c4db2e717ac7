"""Drawing for the simulators: soft-edged shapes on a square canvas, a batch of pictures at a time.

A canvas is 1 wide and 1 high, y upwards. Everything is elementwise in float64, so that a picture comes out the same
whatever batch it is drawn in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from context_module.errors import ShapeError

__all__ = ["Canvas", "box", "disc", "draw", "hue"]

_CHUNK = 32  # pictures drawn at a time, so that intermediate values stay in the processor's cache
_LEAST = 16  # pixels
_HUES = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]], dtype=torch.float64)


class Canvas:
    """Pictures to paint on, layer over layer.

    Args:
        n: number of pictures.
        resolution: height and width in pixels.

    Attributes:
        x, y: of the pixels' centres, (R) and (R, 1), float64 in [0, 1].
        picture: (n, 3, R, R), float64 in [0, 1]; black at first.
    """

    def __init__(self, n: int, resolution: int) -> None:
        centres = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution
        self.x, self.y, self._pixel = centres, 1 - centres[:, None], 1 / resolution
        self.picture = torch.zeros(n, 3, resolution, resolution, dtype=torch.float64)

    def paint(self, distance: Tensor, colour: Tensor | Sequence[float], where: Tensor | None = None) -> None:
        """Paint the inside of an edge over what is there; the edge is one pixel soft.

        Args:
            distance: signed, negative inside, (n, R, R) or what broadcasts to it.
            colour: (3,) or (n, 3), in [0, 1].
            where: opacity in [0, 1], (n,): 0 for pictures that are left alone.
        """
        covered = (0.5 - distance / self._pixel).clamp(0, 1)
        if where is not None:
            covered = covered * where.double()[:, None, None]
        covered = covered.expand(len(self.picture), *self.picture.shape[2:])[:, None]
        colour = torch.as_tensor(colour, dtype=torch.float64).expand(len(self.picture), 3)[..., None, None]
        self.picture = self.picture * (1 - covered) + covered * colour


def disc(canvas: Canvas, x: Tensor | float, y: Tensor | float, radius: Tensor | float) -> Tensor:
    """Signed distance to a disc's edge, (n, R, R); its centre and radius are numbers, or (n,)."""
    return torch.hypot(canvas.x - _each(x), canvas.y - _each(y)) - _each(radius)


def box(
    canvas: Canvas, x: Tensor | float, y: Tensor | float, half_width: Tensor | float, half_height: Tensor | float
) -> Tensor:
    """Signed distance to the edge of a rectangle around (x, y), (n, R, R), in the maximum norm."""
    across, up = (canvas.x - _each(x)).abs() - _each(half_width), (canvas.y - _each(y)).abs() - _each(half_height)
    return torch.maximum(across, up)


def hue(value: Tensor, whiteness: float = 0.0) -> Tensor:
    """Colours (n, 3) of hues (n,) in [0, 1], along red, yellow, green, cyan, blue and magenta, mixed with white."""
    position = value.double().clamp(0, 1) * (len(_HUES) - 1)
    segment = position.long().clamp(max=len(_HUES) - 2)
    colours = torch.lerp(_HUES[segment], _HUES[segment + 1], (position - segment)[:, None])
    return colours * (1 - whiteness) + whiteness


def draw(
    paint: Callable[[Canvas, dict[str, Tensor]], None], factors: Tensor, names: Sequence[str], resolution: int
) -> Tensor:
    """Pictures of factors: uint8 (n, 3, R, R).

    Args:
        paint: paints the pictures of factors (n,), given by name in float64.
        factors: (n, D), in the order of `names`.
        names: of the factors.
        resolution: height and width in pixels.

    Raises:
        ShapeError: for factors of another width, or that are not finite; for fewer than 16 pixels.
    """
    check_resolution(resolution)
    if factors.ndim != 2 or factors.shape[1] != len(names):
        raise ShapeError(f"factors must have shape (n, {len(names)}) for {', '.join(names)}: {tuple(factors.shape)}")
    if not factors.isfinite().all():
        raise ShapeError("factors must be finite to be drawn, some are NaN or infinite")
    images = torch.empty(len(factors), 3, resolution, resolution, dtype=torch.uint8)
    for out, chunk in zip(images.split(_CHUNK), factors.split(_CHUNK), strict=True):
        canvas = Canvas(len(chunk), resolution)
        paint(canvas, dict(zip(names, chunk.double().T, strict=True)))
        out.copy_(canvas.picture.clamp(0, 1).mul(255).round())
    return images


def check_resolution(resolution: int) -> None:
    """ShapeError for pictures too small to show what is in them."""
    if resolution < _LEAST:
        raise ShapeError(f"resolution must be at least {_LEAST} pixels to show what is in a picture, got {resolution}")


def _each(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)[..., None, None]
