"""A teapot on a floor under a coloured spotlight: ten factors, three hues of which are intervened on.

After 3DIdent (Zimmermann et al., ICML 2021; von Kügelgen et al., NeurIPS 2021): where camera, spotlight and object
are, and what the factors mean, is theirs; the solid is one of signed distances and drawn here, from a seed. The
original's pictures are read from a folder, and a Blender scene, such as the original's, is rendered.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.blender import COLOURED, BlenderScene
from context_module.data.context_data import ContextData
from context_module.data.ident_images import ident_images
from context_module.data.mechanisms import AdditiveSimulator, Range
from context_module.data.simulated import simulate
from context_module.data.sphere_tracing import Camera, Light, Solid, trace

__all__ = ["FACTORS", "IdentSimulator", "ident"]

CONCEPTS = Concepts(["bg", "obj", "sl"])
#: Where the object is, its angles, that of the spotlight, and the hues of background, object and spotlight.
FACTORS = ("x", "y", "z", "alpha", "beta", "gamma", "angle", *CONCEPTS)
# half of a sensor 36 mm wide, behind 35 mm; it looks at the middle of where the object may be
_CAMERA = Camera(eye=(8.0, 0.0, 8.0), target=(0.0, 0.0, 1.5), reach=18 / 35)
_CIRCLE, _HEIGHT = 4.0, 6.0  # of the spotlight
_CONE = (math.cos(math.radians(22.0)), math.cos(math.radians(35.0)))
_SIZE = 1.3  # of the teapot, whose body has radius 1
_LIFT = 1.2  # of its centre above the floor at z = 0
_SATURATION = 0.75
_CHUNK = 8  # pictures traced at a time, so that intermediate values stay in the processor's cache

#: Hues go round from red at 0 to red at 1. Those of the paper are not published: ours do not overlap.
_OBSERVED, _INTERVENED = (0.05, 0.45), (0.55, 0.95)
_ROUND = (-math.pi, math.pi)


def ident(
    *,
    resolution: int = 64,
    samples_per_context: int = 10_000,
    held_out_samples: int = 2_000,
    test_samples: int = 0,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    version: Literal["independent", "causal"] = "independent",
    root: str | Path | None = None,
    scene: str | Path | None = None,
) -> ContextData:
    """Teapots; the three pairs of hues and the triple are held out.

    Args:
        resolution: height and width in pixels.
        samples_per_context, held_out_samples, test_samples, seed, cache_dir: see `simulate`.
        version: ``causal``: the background's hue is a cause of the object's, and that of the spotlight's.
        root: read the original's pictures from this folder, see `ident_images`; counts and seed then say nothing.
        scene: render this .blend file with Blender instead, see `BlenderScene`; a few pictures a second.

    Returns:
        ContextData whose factors (N, 10) are those of `FACTORS`: x and y in [-3, 3], z in [0, 3], angles in radians,
        hues in [0, 1].

    Raises:
        DataError: for a bad count, or files of the original that do not fit, or a scene without what is moved.
        ImportError: for a scene without bpy.
        ShapeError: for a resolution below 16 pixels.
        ValueError: for another version; for both a folder and a scene.
    """
    if root is not None:
        if scene is not None:
            raise ValueError(f"root={root} is of pictures there are and scene={scene} of new ones: give one of them")
        return ident_images(Path(root), CONCEPTS, FACTORS, _OBSERVED, _INTERVENED, resolution)
    return simulate(
        IdentSimulator(resolution, version, scene),
        samples_per_context=samples_per_context,
        held_out_samples=held_out_samples,
        test_samples=test_samples,
        seed=seed,
        cache_dir=cache_dir,
    )


class IdentSimulator(AdditiveSimulator):
    """Draws, renders and intervenes on the factors of teapots; arguments and errors as for `ident`."""

    name = "ident"
    concepts = CONCEPTS
    factor_names = FACTORS
    compositions = (*("+".join(pair) for pair in itertools.combinations(CONCEPTS, 2)), "+".join(CONCEPTS))
    ranges: ClassVar[Mapping[str, tuple[Range, Range | None]]] = {
        **dict.fromkeys(("x", "y"), ((-3.0, 3.0), None)),
        "z": ((0.0, 3.0), None),
        **dict.fromkeys(("alpha", "beta", "gamma", "angle"), (_ROUND, None)),
        **dict.fromkeys(CONCEPTS, (_OBSERVED, _INTERVENED)),
    }

    def __init__(self, resolution: int = 64, version: str = "independent", scene: str | Path | None = None) -> None:
        super().__init__(resolution)
        if version not in ("independent", "causal"):
            raise ValueError(f"version must be 'independent' or 'causal', got {version!r}")
        self.version = version
        self.graph = (("bg", "obj"), ("obj", "sl")) if version == "causal" else ()
        self.scene = None if scene is None else BlenderScene(scene, resolution)

    def settings(self) -> dict[str, Any]:
        return {"version": self.version, **({"scene": self.scene.digest} if self.scene else {})}

    def caused(self, name: str, factors: Mapping[str, Tensor]) -> Tensor | float:
        cause = {"obj": "bg", "sl": "obj"}.get(name)
        if self.version != "causal" or cause is None:
            return 0.0
        return 0.5 * (factors[cause] - 0.25)

    def render(self, factors: Tensor) -> Tensor:
        if self.scene is not None:
            return torch.stack([_photograph(self.scene, row) for row in factors])
        resolution = self.image_shape[-1]
        images = torch.empty(len(factors), *self.image_shape, dtype=torch.uint8)
        for out, chunk in zip(images.split(_CHUNK), factors.split(_CHUNK), strict=True):
            out.copy_(_pictures(chunk, resolution))
        return images


def _photograph(scene: BlenderScene, factors: Tensor) -> Tensor:
    place, angles, angle, hues = factors.float().split([3, 3, 1, 3])
    colours = dict(zip(COLOURED, _colour(hues).T.tolist(), strict=True))  # in the order of the concepts
    return scene.render(place.tolist(), angles.tolist(), _spotlight(angle)[:, 0].tolist(), colours)


def _spotlight(angle: Tensor) -> Tensor:
    """Where it is, (3, n)."""
    return torch.stack([_CIRCLE * angle.cos(), _CIRCLE * angle.sin(), torch.full_like(angle, _HEIGHT)])


def _pictures(factors: Tensor, resolution: int) -> Tensor:
    x, y, z, alpha, beta, gamma, angle, background, own, spot = factors.float().T
    centre = torch.stack([x, y, z + _LIFT])
    solid = Solid(_teapot, 1.95 * _SIZE, centre, _rotation(alpha, beta, gamma), _colour(own))
    light = Light(_spotlight(angle), centre, 0.35 + 0.65 * _colour(spot), _CONE)
    return (trace(_CAMERA, solid, light, _colour(background), resolution) * 255).round().to(torch.uint8)


def _teapot(points: Tensor) -> Tensor:
    """A body with a lid and its knob, a spout and a handle."""
    x, y, z = points / _SIZE
    body = _ellipsoid(x, y, z + 0.1, 0.95, 0.78)
    lid = _ellipsoid(x, y, z - 0.62, 0.5, 0.16)
    knob = (x * x + y * y + (z - 0.86) ** 2).sqrt() - 0.16
    spout = _capsule(x, y, z, (0.75, -0.25), (1.55, 0.55), 0.24, 0.11)
    ring = ((((x + 1.05) ** 2 + (z - 0.05) ** 2).sqrt() - 0.48) ** 2 + y * y).sqrt() - 0.11
    pot = _joined(_joined(body, spout, 0.12), ring, 0.08)
    return _SIZE * 0.9 * torch.minimum(_joined(pot, lid, 0.05), knob)


def _ellipsoid(x: Tensor, y: Tensor, z: Tensor, radius: float, height: float) -> Tensor:
    """About the distance to a flattened ball, never more than it by much."""
    near = ((x * x + y * y) / radius**2 + z * z / height**2).sqrt()
    steep = ((x * x + y * y) / radius**4 + z * z / height**4).sqrt()
    return near * (near - 1) / steep.clamp(min=1e-6)


def _capsule(
    x: Tensor, y: Tensor, z: Tensor, start: tuple[float, float], end: tuple[float, float], wide: float, narrow: float
) -> Tensor:
    """A rod in the plane y = 0, from one radius to another."""
    dx, dz = end[0] - start[0], end[1] - start[1]
    share = (((x - start[0]) * dx + (z - start[1]) * dz) / (dx * dx + dz * dz)).clamp(0, 1)
    away = ((x - start[0] - share * dx) ** 2 + y * y + (z - start[1] - share * dz) ** 2).sqrt()
    return away - (wide + share * (narrow - wide))


def _joined(one: Tensor, other: Tensor, width: float) -> Tensor:
    """The union of two solids with the seam between them filled."""
    share = (0.5 + 0.5 * (other - one) / width).clamp(0, 1)
    return other + (one - other) * share - width * share * (1 - share)


def _rotation(alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    """(3, 3, n), from the world to the object: turns about x, y and z, one after the other."""
    (ca, sa), (cb, sb), (cc, sc) = ((angle.cos(), angle.sin()) for angle in (alpha, beta, gamma))
    rows = (
        (cb * cc, cb * sc, -sb),
        (sa * sb * cc - ca * sc, sa * sb * sc + ca * cc, sa * cb),
        (ca * sb * cc + sa * sc, ca * sb * sc - sa * cc, ca * cb),
    )
    return torch.stack([torch.stack(row) for row in rows])


def _colour(hue: Tensor) -> Tensor:
    """RGB (3, n) of hues."""
    around = (hue % 1) * 6
    rgb = torch.stack([(around - 3).abs() - 1, 2 - (around - 2).abs(), 2 - (around - 4).abs()]).clamp(0, 1)
    return 1 - _SATURATION * (1 - rgb)
