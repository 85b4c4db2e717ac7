"""A renderer for one solid on a floor under a spotlight: sphere tracing of a signed distance, with torch alone.

Rays march to where the distance to the solid is zero (Hart 1996, "Sphere tracing"). Everything is elementwise over
rays, so that a picture comes out the same whatever batch it is drawn in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Camera", "Light", "Solid", "trace"]

_STEPS, _SHADOW_STEPS = 28, 14
_NEAR = 1e-3
_SOFTNESS = 12.0  # of shadows: the larger, the harder their edges
_AMBIENT, _SHINE = 0.22, 24.0


@dataclass(frozen=True)
class Camera:
    """A pinhole, with z upwards.

    Attributes:
        eye: where it is.
        target: what it looks at.
        reach: half the width of what it sees, at distance 1.
    """

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    reach: float

    def rays(self, resolution: int) -> Tensor:
        """Unit directions (3, R R) of the pixels, row by row."""
        forward = torch.tensor(self.target) - torch.tensor(self.eye)
        forward = forward / forward.norm()
        right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]))
        right = right / right.norm()
        up = torch.linalg.cross(right, forward)
        cells = (2 * (torch.arange(resolution) + 0.5) / resolution - 1) * self.reach
        x, y = cells.repeat(resolution), -cells.repeat_interleave(resolution)
        rays = forward[:, None] + right[:, None] * x + up[:, None] * y
        return rays / rays.norm(dim=0)


@dataclass(frozen=True)
class Solid:
    """What is drawn: one solid in n poses.

    Attributes:
        distance: signed, of points (3, m) in the solid's own frame: (m,), never more than the true one.
        radius: of a ball around its own origin that holds it.
        centre: (3, n), where it is.
        turned: (3, 3, n), the rotation from the world to its frame.
        colour: (3, n) in [0, 1].
    """

    distance: Callable[[Tensor], Tensor]
    radius: float
    centre: Tensor
    turned: Tensor
    colour: Tensor

    def at(self, points: Tensor, picture: Tensor) -> Tensor:
        """The distance (m,) of points (3, m) of the world, each in the picture of that number."""
        local = points - self.centre[:, picture]
        return self.distance(_product(self.turned[:, :, picture], local))

    def normal(self, points: Tensor, picture: Tensor) -> Tensor:
        """Unit normals (3, m) of the surface near points, from differences at the corners of a tetrahedron."""
        found = torch.zeros_like(points)
        for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
            offset = torch.tensor(corner, dtype=points.dtype)[:, None]
            found = found + offset * self.at(points + 2e-3 * offset, picture)
        return found / _length(found).clamp(min=1e-9)


@dataclass(frozen=True)
class Light:
    """A spotlight in n places.

    Attributes:
        place: (3, n).
        target: (3, n), what it shines on.
        colour: (3, n) in [0, 1].
        cone: cosines of the angles from its axis at which it begins to fade, and is gone.
    """

    place: Tensor
    target: Tensor
    colour: Tensor
    cone: tuple[float, float]


def trace(camera: Camera, solid: Solid, light: Light, floor: Tensor, resolution: int) -> Tensor:
    """Pictures (n, 3, R, R) in [0, 1]; the floor is z = 0, of colours (3, n), and seen by every ray that misses."""
    rays, eye = camera.rays(resolution), torch.tensor(camera.eye)
    pictures, pixels = floor.shape[1], rays.shape[1]
    picture, ray = torch.arange(pictures).repeat_interleave(pixels), torch.arange(pixels).repeat(pictures)
    down = -eye[2] / rays[2]  # how far the floor is; rays that do not meet it look at it from far away
    down = torch.where(rays[2] < -1e-3, down, 1e3)
    ground = eye[:, None] + rays[:, ray] * down[ray]
    ground[2] = 0.0
    up = torch.zeros_like(ground)
    up[2] = 1.0
    colours = _shaded(ground, up, floor[:, picture], rays[:, ray], picture, solid, light)

    near, far = _ball(eye[:, None], rays[:, ray], solid.centre[:, picture], solid.radius)
    some = (far > near).nonzero().flatten()
    picture, ray = picture[some], ray[some]
    travelled, closest = _march(eye[:, None].expand(3, len(some)), rays[:, ray], near[some], far[some], picture, solid)
    pixel = 2 * camera.reach / resolution
    covered = (1 - closest / pixel).clamp(0, 1)  # edges are a pixel soft
    seen = covered > 0
    some, picture, ray = some[seen], picture[seen], ray[seen]
    points = eye[:, None] + rays[:, ray] * travelled[seen]
    normals = solid.normal(points, picture)
    lit = _shaded(points, normals, solid.colour[:, picture], rays[:, ray], picture, solid, light)
    colours[:, some] = colours[:, some].lerp(lit, covered[seen])
    return colours.clamp(0, 1).view(3, pictures, resolution, resolution).transpose(0, 1).contiguous()


def _march(
    start: Tensor, rays: Tensor, near: Tensor, far: Tensor, picture: Tensor, solid: Solid
) -> tuple[Tensor, Tensor]:
    """How far each ray (3, m) goes to the solid, or to where it comes closest; that closeness, as an angle (m,)."""
    travelled, best = near.clone(), near.clone()
    closest = torch.full_like(near, torch.inf)
    going = torch.arange(len(near))
    for _ in range(_STEPS):
        distance = solid.at(start[:, going] + rays[:, going] * travelled[going], picture[going])
        angle = distance / travelled[going]
        nearer = angle < closest[going]
        closest[going] = torch.where(nearer, angle, closest[going])
        best[going] = torch.where(nearer, travelled[going], best[going])
        travelled[going] = travelled[going] + distance
        going = going[(distance > _NEAR) & (travelled[going] < far[going])]
        if not len(going):
            break
    return best, closest.clamp(min=0)


def _shaded(
    points: Tensor, normals: Tensor, colour: Tensor, rays: Tensor, picture: Tensor, solid: Solid, light: Light
) -> Tensor:
    """Colours (3, m) of a surface: ambient light, and the spotlight's diffuse and specular, where it gets to."""
    place = light.place[:, picture]
    to_light = place - points
    far = _length(to_light)
    to_light = to_light / far
    axis = (light.place - light.target)[:, picture]
    axis = axis / _length(axis)
    inside = (_dot(to_light, axis) - light.cone[1]) / (light.cone[0] - light.cone[1])
    inside = inside.clamp(0, 1)
    bright = inside * inside * (3 - 2 * inside)
    facing = _dot(to_light, normals).clamp(min=0)
    shiny = (to_light - rays) / _length(to_light - rays).clamp(min=1e-9)
    gloss = 0.3 * _dot(shiny, normals).clamp(min=0) ** _SHINE
    reached = torch.zeros_like(bright)
    some = (bright * facing > 0).nonzero().flatten()
    reached[some] = _unshadowed(
        points[:, some] + 1e-2 * normals[:, some], to_light[:, some], far[some], picture[some], solid
    )
    strength = bright * reached
    spot = light.colour[:, picture]
    return colour * (_AMBIENT + strength * facing * spot) + strength * gloss * spot


def _unshadowed(points: Tensor, to_light: Tensor, far: Tensor, picture: Tensor, solid: Solid) -> Tensor:
    """The share (m,) of the light that the solid lets through; shadows are softer the further they fall."""
    share = torch.ones_like(far)
    near, beyond = _ball(points, to_light, solid.centre[:, picture], solid.radius)
    travelled = near.clamp(min=1e-2)
    going = ((beyond > near) & (beyond > 0)).nonzero().flatten()
    for _ in range(_SHADOW_STEPS):
        if not len(going):
            break
        distance = solid.at(points[:, going] + to_light[:, going] * travelled[going], picture[going])
        share[going] = torch.minimum(share[going], (_SOFTNESS * distance / travelled[going]).clamp(0, 1))
        travelled[going] = travelled[going] + distance.clamp(min=2e-2)
        going = going[(distance > _NEAR) & (travelled[going] < torch.minimum(beyond, far)[going])]
    return share


def _ball(start: Tensor, rays: Tensor, centre: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Where rays (3, m) enter and leave a ball, not before their start; the first is the larger where they miss."""
    offset = start - centre
    along = _dot(offset, rays)
    inside = along * along - _dot(offset, offset) + radius * radius
    half = inside.clamp(min=0).sqrt()
    far = torch.where(inside > 0, -along + half, -1.0)
    return (-along - half).clamp(min=0), far


def _product(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Of (3, 3, m) and (3, m), one by one: sums in one order, whatever the batch."""
    return matrices[:, 0] * vectors[0] + matrices[:, 1] * vectors[1] + matrices[:, 2] * vectors[2]


def _dot(some: Tensor, others: Tensor) -> Tensor:
    return some[0] * others[0] + some[1] * others[1] + some[2] * others[2]


def _length(vectors: Tensor) -> Tensor:
    return _dot(vectors, vectors).sqrt()
