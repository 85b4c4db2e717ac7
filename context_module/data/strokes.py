"""Perturbations of a digit's strokes: how `morpho_mnist` makes them thinner, thicker, swollen, moved and so on.

A digit of 28 pixels is drawn on a canvas four times as fine (cubic interpolation, made binary at half of its range),
perturbed there, and sampled down (cubic, antialiased). After Morpho-MNIST (Castro et al., JMLR 2019); scaling, shear
and shift are ours.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.morphology import skeletonize
from skimage.transform import resize

__all__ = ["perturb", "sample_down", "to_strokes"]

_SIDE, _FINE = 28, 4  # pixels of a digit's side; pixels of the fine canvas per pixel
_SIZE = _SIDE * _FINE
_CENTRE = (_SIZE - 1) / 2
_GRID = np.indices((_SIZE, _SIZE))

# lengths in pixels of the digit
_SWEL_RADIUS = 3.5  # times the square root of the thickness
_CUTS, _CUT_WIDTH, _CUT_MARGIN, _CUT_CLEARANCE = 3, 1.5, 0.5, 2.0  # the last one from tips and forks of the strokes


def perturb(
    strokes: np.ndarray, intervened: Collection[str], rng: np.random.Generator, strengths: Mapping[str, float]
) -> np.ndarray:
    """Strokes after perturbations, which are applied in this order, whatever the order of `intervened`.

    - ``thin`` erodes by a disc of this share of half the stroke's mean thickness, rounded down to a quarter of a
      pixel. The skeleton stays, 3/4 of a pixel wide, so that weak strokes do not break;
    - ``thic`` dilates by a disc of this share of half the mean thickness, rounded likewise: 1 nearly doubles it;
    - ``swel`` swells the strokes around a random point of their skeleton: at distance r from it the new digit shows
      the old one at R (r / R) ** strength, up to a radius R of 3.5 times the square root of the thickness;
    - ``fracture`` makes three cuts 1.5 pixels wide across the strokes, away from tips and forks where there is room;
    - ``scaled`` scales by this factor about the canvas's centre;
    - ``shear`` slants by this angle in radians, the upper half to the right (negative: to the left);
    - ``shift`` moves by this many pixels in a random direction, or in the nearest one that cuts off least.

    Thickness, skeleton and random choices are those of the strokes as given, so that a perturbation does the same in
    any composition; only a fracture cuts what is there by then. What scaling or shear would push over the edge is
    moved back onto the canvas.

    Args:
        strokes: bool (112, 112), the fine canvas.
        intervened: names of perturbations.
        rng: decides where to swell, to cut and to shift to.
        strengths: of all perturbations but the fracture, whose strength is fixed.

    Returns:
        float32 (112, 112) in [0, 1].
    """
    angle, spot = 2 * np.pi * rng.random(), rng.random()
    if not strokes.any():
        return strokes.astype(np.float32)
    if not {"thin", "thic", "swel"}.isdisjoint(intervened):
        points = np.argwhere(skeletonize(strokes))
        distance = ndimage.distance_transform_edt(strokes)
        half = distance[tuple(points.T)].mean()  # of the thickness, on the fine canvas
        if "thin" in intervened:
            core = ndimage.binary_dilation(_drawn(points), np.ones((3, 3)))
            strokes = (distance > int(strengths["thin"] * half)) | (core & strokes)
        if "thic" in intervened:
            strokes = ndimage.distance_transform_edt(~strokes) <= int(strengths["thic"] * half)
        if "swel" in intervened:
            radius = _FINE * _SWEL_RADIUS * np.sqrt(2 * half / _FINE)
            strokes = _swollen(strokes, points[int(spot * len(points))], radius, strengths["swel"])
    if "fracture" in intervened:
        strokes = _fractured(strokes, rng)
    if {"scaled", "shear", "shift"}.isdisjoint(intervened) or not strokes.any():  # a fracture may cut a dot away
        return strokes.astype(np.float32)
    neutral = {"scaled": 1.0, "shear": 0.0, "shift": 0.0}
    moved = {name: strengths[name] if name in intervened else at_rest for name, at_rest in neutral.items()}
    return _moved(strokes, **moved, angle=angle)


def to_strokes(image: np.ndarray) -> np.ndarray:
    """The strokes, bool (112, 112), of a digit, uint8 (28, 28)."""
    up = _upsampling()
    fine = up @ image.astype(np.float32) @ up.T
    return fine > (fine.min() + fine.max()) / 2


def sample_down(fine: np.ndarray, resolution: int) -> np.ndarray:
    """The picture, uint8 (resolution, resolution), of a fine canvas, float32 (112, 112) in [0, 1].

    A resolution of 32 pads the picture of 28 pixels with black; all others show the same field of view as 28.
    """
    if resolution == 32:
        return np.pad(sample_down(fine, _SIDE), 2)
    down = _downsampling(resolution)
    return (255 * (down @ fine @ down.T)).round().clip(0, 255).astype(np.uint8)  # cubic sampling may overshoot


def _swollen(strokes: np.ndarray, centre: np.ndarray, radius: float, strength: float) -> np.ndarray:
    offset = _GRID - centre[:, None, None]
    distance = np.hypot(*offset)
    near = distance < radius
    shown = centre[:, None] + offset[:, near] * (distance[near] / radius) ** (strength - 1)
    swollen = strokes.copy()
    swollen[near] = ndimage.map_coordinates(strokes.astype(np.float32), shown, order=1) > 0.5
    return swollen


def _fractured(strokes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    points = np.argwhere(skeletonize(strokes))
    distance = ndimage.distance_transform_edt(strokes)
    neighbours = ndimage.convolve(_drawn(points).astype(int), np.ones((3, 3), int), mode="constant") - 1
    ends = points[neighbours[tuple(points.T)] != 2]  # tips have one neighbour, forks three or more
    places = points[(cdist(points, ends) > _CUT_CLEARANCE * _FINE).all(1)]
    places = places if len(places) else points
    fractured = strokes.copy()
    for _ in range(_CUTS):
        if not len(places):
            break
        place = rng.choice(places)
        nearby = points[cdist(points, place[None])[:, 0] <= _CUT_WIDTH * _FINE] - place
        across, along = np.linalg.eigh(nearby.T @ nearby)[1].T  # the stroke runs along the major axis
        offset = np.moveaxis(_GRID, 0, -1) - place
        outside = np.abs(offset @ along) > _CUT_WIDTH * _FINE / 2
        beyond = np.abs(offset @ across) > distance[tuple(place)] + _CUT_MARGIN * _FINE
        fractured &= outside | beyond
        places = places[cdist(places, place[None])[:, 0] > 2 * _CUT_WIDTH * _FINE]  # several gaps, not one wide gap
    return fractured


def _moved(strokes: np.ndarray, scaled: float, shear: float, shift: float, angle: float) -> np.ndarray:
    matrix = scaled * np.array([[1, 0], [-np.tan(shear), 1]])  # acts on (row, column), rows run downwards
    ink = matrix @ (np.argwhere(strokes) - _CENTRE).T
    low, high = ink.min(1), ink.max(1)
    inside = np.clip(0, -_CENTRE - low, _CENTRE - high)
    move = np.where(high - low <= 2 * _CENTRE, inside, -(low + high) / 2)  # too large a digit is centred
    if shift:
        steps = np.arange(1, 33)
        turns = np.pi / 32 * np.concatenate([[0], np.column_stack([steps, -steps]).ravel()])  # smallest turns first
        moves = move + shift * _FINE * np.column_stack([np.sin(angle + turns), np.cos(angle + turns)])
        over = np.maximum(high + moves - _CENTRE, 0) + np.maximum(-_CENTRE - low - moves, 0)
        move = moves[over.sum(1).argmin()]
    inverse = np.linalg.inv(matrix)
    return ndimage.affine_transform(
        strokes.astype(np.float32), inverse, offset=_CENTRE - inverse @ (_CENTRE + move), order=1
    )


def _drawn(points: np.ndarray) -> np.ndarray:
    """bool (112, 112), true at the points (P, 2)."""
    canvas = np.zeros((_SIZE, _SIZE), bool)
    canvas[tuple(points.T)] = True
    return canvas


# Cubic interpolation and antialiasing are linear in the pixels: a matrix per dimension, found from the unit vectors.


@functools.cache
def _upsampling() -> np.ndarray:
    """float32 (112, 28)."""
    return ndimage.zoom(np.eye(_SIDE, dtype=np.float32), (_FINE, 1), order=3, grid_mode=True, mode="grid-constant")


@functools.cache
def _downsampling(resolution: int) -> np.ndarray:
    """float32 (resolution, 112)."""
    unit = np.eye(_SIZE, dtype=np.float32)
    shape, coarser = (resolution, _SIZE), resolution < _SIZE
    sigma = (_SIZE / resolution / 3, 0) if coarser else None  # as for image pyramids
    return resize(unit, shape, order=3, mode="constant", clip=False, anti_aliasing=coarser, anti_aliasing_sigma=sigma)
