"""dSprites-like data: a white sprite on black, with the factors and grids of dSprites, drawn here, not downloaded.

The pictures are close to, but not, those of the archive: https://github.com/google-deepmind/dsprites-dataset.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.data.context_data import ContextData
from context_module.data.dsprites_archive import DSpritesArchive
from context_module.data.simulated import simulate
from context_module.data.simulator import Simulator
from context_module.errors import DataError, ShapeError

__all__ = [
    "CONCEPTS",
    "GRIDS",
    "GRID_RANGES",
    "PAIRS",
    "SHAPES",
    "DSpritesGrid",
    "DSpritesSimulator",
    "dsprites",
    "dsprites_grid",
    "grid_factors",
    "grid_index",
    "orientation_period",
    "render",
]

SHAPES = ("square", "ellipse", "heart")
CONCEPTS = Concepts(["shape", "scale", "orientation", "x", "y"])
#: The held-out contexts: all pairs.
PAIRS = tuple("+".join(pair) for pair in itertools.combinations(CONCEPTS, 2))
#: The values each factor takes, as in dSprites: shape 1, 2, 3 (in the order of `SHAPES`), scale, orientation in
#: radians (a full turn is there twice, as 0 and as 2 pi), and place from left to right and from top to bottom.
GRIDS: Mapping[str, np.ndarray] = {
    "shape": np.arange(1, 4, dtype=np.float32),
    "scale": np.linspace(0.5, 1, 6, dtype=np.float32),
    "orientation": np.linspace(0, 2 * math.pi, 40, dtype=np.float32),
    "x": np.linspace(0, 1, 32, dtype=np.float32),
    "y": np.linspace(0, 1, 32, dtype=np.float32),
}
_SIZES = tuple(len(grid) for grid in GRIDS.values())

Range = tuple[int, int]
#: Per factor the parts of its grid that the (observational, interventional) values are drawn from, each the (first,
#: last) of a run of indices. The parts are disjoint, with a gap where the grid is fine. Orientations stay in the first
#: quarter turn, the parts 18 degrees apart and 16 from its end, where a square looks as at its start.
GRID_RANGES: Mapping[str, tuple[Range, Range]] = {
    "shape": ((0, 1), (2, 2)),
    "scale": ((0, 2), (4, 5)),
    "orientation": ((0, 3), (5, 8)),
    "x": ((0, 13), (18, 31)),
    "y": ((0, 13), (18, 31)),
}

_PERIODS = torch.tensor([math.pi / 2, math.pi, 2 * math.pi])
# At scale 1 all shapes have the area of a square of this side, in image widths. It gives the mean pixel of the whole
# data set that is known of dSprites, 0.0425.
_SIDE = 0.268
_ELLIPSE = math.sqrt(2 / math.pi)  # its long semi-axis, in sides
_RADIUS = _ELLIPSE * _SIDE  # nothing reaches further from the centre
_HEART_AREA, _HEART_CENTROID = 3.66197, 0.29348  # of the curve (u^2 + v^2 - 1)^3 = u^2 v^3
_SUPERSAMPLE = 3  # odd: no pixel is just half inside, which would have to count as one side's
_CHUNK = 32  # images rendered at a time, so that intermediate values stay in the processor's cache


def dsprites(
    *,
    resolution: int = 64,
    samples_per_context: int = 10_000,
    held_out_samples: int = 2_000,
    test_samples: int = 0,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    ranges: Mapping[str, tuple[Range, Range]] | None = None,
    archive: str | Path | None = None,
) -> ContextData:
    """dSprites-like data: an intervention draws its factor from a part of the grid that is never observed otherwise.

    The factors are independent. After dSprites (Matthey et al., 2017; Higgins et al., ICLR 2017).

    Args:
        resolution: height and width in pixels.
        samples_per_context, held_out_samples, test_samples, seed, cache_dir: see `simulate`.
        ranges: replaces entries of `GRID_RANGES`. Mind that turned squares and ellipses look the same after
            `orientation_period`.
        archive: path of the original dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz: its pictures instead of ours.

    Returns:
        ContextData whose factors (N, 5) are values from `GRIDS`.

    Raises:
        DataError: for a bad count, ranges that overlap or do not fit the grids, or a file that is not the archive.
        ShapeError: for a resolution below 16 pixels, or, of the archive, other than 64.
    """
    return simulate(
        DSpritesSimulator(resolution, ranges, archive),
        samples_per_context=samples_per_context,
        held_out_samples=held_out_samples,
        test_samples=test_samples,
        seed=seed,
        cache_dir=cache_dir,
    )


def dsprites_grid(
    *,
    resolution: int = 64,
    samples_per_context: int = 50_000,
    test_samples: int = 0,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    archive: str | Path | None = None,
) -> ContextData:
    """Sprites drawn evenly from the whole grid of 737,280, in one context: what the literature trains and scores on.

    Arguments and errors as for `dsprites`.
    """
    return simulate(
        DSpritesGrid(resolution, archive=archive),
        samples_per_context=samples_per_context,
        test_samples=test_samples,
        seed=seed,
        cache_dir=cache_dir,
    )


class DSpritesSimulator(Simulator):
    """Draws and renders the factors of sprites; arguments and errors as for `dsprites`."""

    name = "dsprites"
    concepts = CONCEPTS
    factor_names = tuple(GRIDS)
    compositions = PAIRS
    discrete = frozenset(GRIDS)

    def __init__(
        self,
        resolution: int = 64,
        ranges: Mapping[str, tuple[Range, Range]] | None = None,
        archive: str | Path | None = None,
    ) -> None:
        _check_resolution(resolution)
        self.image_shape = (1, resolution, resolution)
        self.ranges = _checked_ranges(ranges)
        self.archive = None if archive is None else DSpritesArchive(archive)
        if self.archive is not None and resolution != 64:
            raise ShapeError(f"the pictures of the dSprites archive are of 64x64 pixels, got resolution {resolution}")

    def settings(self) -> dict[str, Any]:
        return {"ranges": self.ranges} | ({} if self.archive is None else {"archive": True})

    def sample(self, n: int, context: str, rng: np.random.Generator, test: bool = False) -> Tensor:
        intervened = [int(name in CONCEPTS.parse(context)) for name in GRIDS]
        first, last = np.array([self.ranges[name][which] for name, which in zip(GRIDS, intervened, strict=True)]).T
        indices = (first + rng.random((n, len(GRIDS))) * (last - first + 1)).astype(int)
        return _values(indices.T)

    def render(self, factors: Tensor) -> Tensor:
        if self.archive is not None:
            return self.archive.read(grid_index(factors))
        return render(factors, self.image_shape[-1])


class DSpritesGrid(DSpritesSimulator):
    """Draws from the whole grid, in the observational context alone."""

    name = "dsprites_grid"
    contexts = (OBSERVATIONAL,)
    compositions = ()

    def sample(self, n: int, context: str, rng: np.random.Generator, test: bool = False) -> Tensor:
        return grid_factors(torch.from_numpy(rng.integers(math.prod(_SIZES), size=n)))


def grid_index(factors: Tensor) -> Tensor:
    """Where factors (n, 5) stand in the order of dSprites, int64 (n,): shape slowest, y fastest.

    Raises:
        ShapeError: for another shape, or values that are not on the grids.
    """
    _check_columns(factors)
    indices = []
    for (name, grid), column in zip(GRIDS.items(), factors.T, strict=True):
        distance = (column[:, None] - torch.from_numpy(grid)).abs()
        nearest, index = distance.min(1)
        if not (nearest < 1e-4).all():
            raise ShapeError(f"{name} {column[~(nearest < 1e-4)][0].item()} is not on its grid: see GRIDS[{name!r}]")
        indices.append(index.numpy())
    return torch.from_numpy(np.ravel_multi_index(indices, _SIZES))


def grid_factors(index: Tensor) -> Tensor:
    """The factors, float32 (n, 5), at places (n,) from 0 to 737,279 in the order of dSprites.

    Raises:
        ShapeError: for other places.
    """
    if index.ndim != 1 or index.is_floating_point() or not ((index >= 0) & (index < math.prod(_SIZES))).all():
        raise ShapeError(f"places in the order of dSprites are integers (n,) from 0 to {math.prod(_SIZES) - 1}")
    return _values(np.unravel_index(index.numpy(), _SIZES))


def orientation_period(shape: Tensor) -> Tensor:
    """After which turn, in radians, shapes (values 1, 2, 3) look the same: a quarter, a half and a full one."""
    return _PERIODS[shape.long() - 1]


def render(factors: Tensor, resolution: int = 64) -> Tensor:
    """Draws sprites.

    At equal scale all shapes have the same area. The ellipse is twice as long as high, the heart the inside of
    (u^2 + v^2 - 1)^3 = u^2 v^3. A shape is turned anticlockwise about its centre of mass, which moves over the middle
    half of the image. A pixel is white if most of 3 x 3 points in it lie inside.

    Args:
        factors: (n, 5), in the order of `GRIDS`; scale, orientation and places may lie between the grids' values.
        resolution: height and width in pixels.

    Returns:
        uint8 (n, 1, resolution, resolution), 0 or 255.

    Raises:
        ShapeError: for another shape of factors, values beyond the grids, or a resolution below 16 pixels.
    """
    _check_columns(factors)
    _check_resolution(resolution)
    for (name, grid), column in zip(GRIDS.items(), factors.T, strict=True):
        inside = (column >= grid[0]) & (column <= grid[-1])
        if not (inside & (column == column.round()) if name == "shape" else inside).all():
            expected = "1, 2 or 3" if name == "shape" else f"values from {grid[0]:g} to {grid[-1]:g}"
            raise ShapeError(f"{name} must be {expected} to be drawn")
    images = torch.zeros(len(factors), 1, resolution, resolution, dtype=torch.uint8)
    for number, shape in enumerate((_square, _ellipse, _heart), start=1):
        for rows in (factors[:, 0] == number).nonzero().flatten().split(_CHUNK):
            _draw(images, rows, factors[rows], shape)
    return images


def _draw(images: Tensor, rows: Tensor, factors: Tensor, shape: Any) -> None:
    """Draw one kind of shape into these rows of the images, in a window that holds the whole sprite."""
    resolution = images.shape[-1]
    _, scale, angle, x, y = factors.double().T[:, :, None]
    window = min(2 * math.ceil(_RADIUS * resolution) + 2, resolution)
    points = (torch.arange(window * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE
    places, offsets = [], []
    for centre in (resolution * (0.25 + 0.5 * x), resolution * (0.25 + 0.5 * y)):
        start = (centre - window / 2).floor().clamp(0, resolution - window)
        places.append(start.long() + torch.arange(window))
        offsets.append((start + points - centre) / (_SIDE * resolution * scale))  # in sides of the square
    right, up = offsets[0], -offsets[1]
    u = (angle.cos() * right).float()[:, None] + (angle.sin() * up).float()[:, :, None]
    v = (angle.cos() * up).float()[:, :, None] - (angle.sin() * right).float()[:, None]
    coverage = F.avg_pool2d(shape(u, v).float()[:, None], _SUPERSAMPLE)[:, 0]
    images[rows[:, None, None], 0, places[1][:, :, None], places[0][:, None]] = (coverage > 0.5).byte() * 255


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) <= 0.5


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    return u * u + 4 * v * v <= _ELLIPSE**2


def _heart(u: Tensor, v: Tensor) -> Tensor:
    u, v = u * math.sqrt(_HEART_AREA), v * math.sqrt(_HEART_AREA) + _HEART_CENTROID
    uu, vv = u * u, v * v
    ring = uu + vv - 1
    return ring * ring * ring <= uu * vv * v


def _values(indices: Any) -> Tensor:
    """Factors (n, 5) from indices into the five grids, each (n,)."""
    columns = [grid[index] for grid, index in zip(GRIDS.values(), indices, strict=True)]
    return torch.from_numpy(np.stack(columns, axis=1))


def _check_columns(factors: Tensor) -> None:
    if factors.ndim != 2 or factors.shape[1] != len(GRIDS):
        raise ShapeError(
            f"factors must have shape (n, {len(GRIDS)}) for {', '.join(GRIDS)}, got {tuple(factors.shape)}"
        )


def _check_resolution(resolution: int) -> None:
    if resolution < 16:
        raise ShapeError(f"resolution must be at least 16 pixels to tell the shapes apart, got {resolution}")


def _checked_ranges(ranges: Mapping[str, tuple[Range, Range]] | None) -> dict[str, tuple[Range, Range]]:
    merged = {**GRID_RANGES, **(ranges or {})}
    for name, both in merged.items():
        if name not in GRIDS:
            raise DataError(f"no factor {name!r} to set a range of; factors: {', '.join(GRIDS)}")
        last = len(GRIDS[name]) - 1
        if len(both) != 2 or any(len(one) != 2 or not 0 <= one[0] <= one[1] <= last for one in both):
            raise DataError(
                f"ranges of {name!r} must be two (first, last) pairs of indices from 0 to {last}, observational and "
                f"interventional, got {both!r}"
            )
        (first, end), (do_first, do_end) = both
        if first <= do_end and do_first <= end:
            raise DataError(f"ranges of {name!r} overlap, so its intervention could not always be seen: got {both!r}")
    return merged
