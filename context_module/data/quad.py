"""The quad data of "Intervening to Learn and Compose Causally Disentangled Representations" (CLeaR 2026).

A picture has four quadrants with a hue each and a centred shape with a size, hue, kind and orientation. Six of these
eight latents are concepts; the shape's hue and kind are never intervened on. In the `dependent` version the latents
follow a linear Gaussian structural equation model, in the `independent` version they are independent. Everything is
made here, from a seed: nothing is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.context_data import ContextData
from context_module.data.simulated import simulate
from context_module.data.simulator import Simulator
from context_module.errors import DataError, ShapeError

__all__ = [
    "CONCEPTS",
    "INDEPENDENT_RANGES",
    "LATENTS",
    "PAIRS",
    "QuadSimulator",
    "quad",
    "render",
    "scm_moments",
    "to_unit",
]

VERSIONS = ("independent", "dependent")
LATENTS = ("quad1", "quad2", "quad3", "quad4", "size", "color", "shape", "orientation")
CONCEPTS = Concepts(["quad1", "quad2", "quad3", "quad4", "size", "orientation"])
#: The held-out pairs the paper scores composition on.
PAIRS = (
    *("quad1+quad2", "quad1+quad3", "quad1+quad4", "quad1+size", "quad1+orientation"),
    *("quad2+quad3", "quad2+quad4", "quad2+size", "quad2+orientation"),
)

# The dependent version: x_j = sum_i _WEIGHTS[i, j] x_i + noise_j, all Gaussian, noise of mean 0.
_EDGES = {
    ("quad2", "quad1"): -1.23,
    ("quad3", "quad2"): 1.56,
    ("quad4", "quad1"): 1.34,
    ("quad4", "quad3"): -0.72,
    ("color", "quad1"): -0.95,
    ("color", "size"): 1.67,
    ("shape", "quad2"): 0.58,
    ("shape", "color"): -1.34,
    ("orientation", "quad1"): 1.12,
    ("orientation", "size"): -0.81,
    ("orientation", "shape"): 1.45,
}
_WEIGHTS = np.array([[_EDGES.get((cause, effect), 0.0) for effect in LATENTS] for cause in LATENTS])
_NOISE_VARIANCE = np.array([1.3855493, 1.16426732, 1.00502177, 1.95646855, 1.27482347, 1.42, 1.31, 1.18])
# do(j) replaces x_j by a Gaussian of this mean and variance.
_DO_MEAN = np.array([1.16920556, 1.47496736, -1.60596209, -1.96578519, 1.0117071, -0.85, 1.23, -0.67])
_DO_VARIANCE = np.array([1.94878138, 1.35886756, 1.57343313, 1.1021785, 1.30511067, 1.52, 1.41, 1.26])

Range = tuple[float, float]
_ORANGE_TO_GREEN, _BLUE_TO_MAGENTA = (0.1, 0.4), (0.8, 1.0)
#: The independent version: per latent the (observational, interventional) range of its unit value u, uniform in each.
#: The paper publishes no numbers; these are ours. Orientations stay within a quarter turn and the two ranges apart
#: modulo one, else an intervention on the orientation of a square or an ellipse could not be seen.
INDEPENDENT_RANGES: Mapping[str, tuple[Range, Range]] = {
    "quad1": (_ORANGE_TO_GREEN, _BLUE_TO_MAGENTA),
    "quad2": (_ORANGE_TO_GREEN, _BLUE_TO_MAGENTA),
    "quad3": (_ORANGE_TO_GREEN, _BLUE_TO_MAGENTA),
    "quad4": (_ORANGE_TO_GREEN, _BLUE_TO_MAGENTA),
    "size": ((0.2, 0.5), (0.7, 1.0)),
    "color": ((0.0, 1.0), (0.0, 1.0)),
    "shape": ((0.0, 1.0), (0.0, 1.0)),
    "orientation": ((0.0, 0.1), (0.125, 0.225)),
}

_HUES = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]], dtype=torch.float32)
_CHUNK = 128  # images rendered at a time, so that intermediate values stay in the processor's cache


def quad(
    version: str = "independent",
    *,
    resolution: int = 64,
    samples_per_context: int = 10_000,
    held_out_samples: int = 2_000,
    test_samples: int = 0,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    ranges: Mapping[str, tuple[Range, Range]] | None = None,
) -> ContextData:
    """The quad data: images of the observational and the six single-concept contexts, and of nine held-out pairs.

    The paper trains on 50,000 images a context and holds 10,000 out, 64 pixels wide: 5.4 GB in all, a case for
    `cache_dir`.

    Args:
        version: ``"independent"`` or ``"dependent"`` latents.
        resolution: height and width in pixels.
        samples_per_context, held_out_samples, test_samples, seed, cache_dir: see `simulate`.
        ranges: independent version only: replaces entries of `INDEPENDENT_RANGES`.

    Returns:
        ContextData whose factors (N, 8) are the latents, in the order of `LATENTS`; see `QuadSimulator.sample`.

    Raises:
        DataError: for an unknown version, a bad count or bad ranges.
        ShapeError: for a resolution below 8 pixels.
    """
    return simulate(
        QuadSimulator(version, resolution, ranges),
        samples_per_context=samples_per_context,
        held_out_samples=held_out_samples,
        test_samples=test_samples,
        seed=seed,
        cache_dir=cache_dir,
    )


independent, dependent = partial(quad, version="independent"), partial(quad, version="dependent")


class QuadSimulator(Simulator):
    """Draws, renders and intervenes on the latents of quad pictures; arguments and errors as for `quad`."""

    name = "quad"
    concepts = CONCEPTS
    factor_names = LATENTS
    compositions = PAIRS

    def __init__(
        self,
        version: str = "independent",
        resolution: int = 64,
        ranges: Mapping[str, tuple[Range, Range]] | None = None,
    ) -> None:
        if version not in VERSIONS:
            raise DataError(
                f"unknown version {version!r} of the quad data: expected {' or '.join(map(repr, VERSIONS))}"
            )
        if version == "dependent" and ranges is not None:
            raise DataError("ranges belong to the independent version; the dependent one is fixed: leave them out")
        self.version, self.image_shape = version, (3, resolution, resolution)
        self.ranges = _checked_ranges(ranges) if version == "independent" else None
        if version == "dependent":
            self.graph = tuple(edge for edge in _EDGES if set(edge) <= set(CONCEPTS))

    def settings(self) -> dict[str, Any]:
        return {"version": self.version, "ranges": self.ranges}

    def sample(self, n: int, context: str, rng: np.random.Generator, test: bool = False) -> Tensor:
        """Latents: unit values in [0, 1] (independent), or the variables of the structural model (dependent)."""
        intervened = _intervened(context)
        if self.ranges is not None:
            low, high = np.array(self.ranges)[np.arange(len(LATENTS)), intervened.astype(int)].T
            latents = rng.uniform(low, high, (n, len(LATENTS)))
        else:
            mean, variance, mix = _scm(intervened)
            noise = rng.normal(mean, np.sqrt(variance), (n, len(LATENTS)))
            latents = np.einsum("ni,ij->nj", noise, mix)  # unlike @, the same bits for a row whatever n is
        return torch.from_numpy(latents).float()

    def render(self, factors: Tensor) -> Tensor:
        units = factors if self.version == "independent" else to_unit(factors)
        return render(units, self.image_shape[-1])

    def counterfactual(self, factors: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        if self.version == "independent":
            return super().counterfactual(factors, values)
        weights = torch.from_numpy(_WEIGHTS)
        noise = factors.double() @ (torch.eye(len(LATENTS), dtype=torch.float64) - weights)
        changed = factors.double()
        for _ in LATENTS:  # no path through the graph is longer
            changed = changed @ weights + noise
            for name, value in values.items():
                changed[:, LATENTS.index(name)] = value.double()
        return changed.float()


def scm_moments(context: str | Iterable[str] = "obs") -> tuple[Tensor, Tensor]:
    """The exact mean (8,) and covariance (8, 8) of the dependent version's latents in a context, float64."""
    mean, variance, mix = _scm(_intervened(context))
    return torch.from_numpy(mean @ mix), torch.from_numpy(mix.T @ np.diag(variance) @ mix)


def to_unit(latents: Tensor) -> Tensor:
    """Unit values in [0, 1] of the dependent version's latents (n, 8): standardised, then through the normal CDF.

    The paper standardises by the observational sample's mean and standard deviation. We use those of the model itself,
    to which a sample's converge, so that a picture does not depend on which others were drawn.
    """
    mean, covariance = scm_moments("obs")
    return torch.special.ndtr((latents - mean.float()) / covariance.diagonal().sqrt().float())


def render(units: Tensor, resolution: int = 64) -> Tensor:
    """Draws pictures from unit values.

    A hue u runs along red-yellow-green-cyan-blue-magenta. The shape is a disc, square, triangle or ellipse,
    kind = round(3u), of extent 48 (0.2 + 0.8u) pixels of 64, turned anticlockwise by 2 pi u about
    the centre. The triangle is as high as it is wide and the ellipse half as high, so that only the disc and the
    square look the same after less than half a turn. Edges are one pixel soft at any resolution.

    Args:
        units: (n, 8) in [0, 1], in the order of `LATENTS`.
        resolution: height and width in pixels.

    Returns:
        uint8 (n, 3, resolution, resolution).

    Raises:
        ShapeError: for another shape, values outside [0, 1], or a resolution below 8 pixels.
    """
    if units.ndim != 2 or units.shape[1] != len(LATENTS):
        raise ShapeError(
            f"units must have shape (n, {len(LATENTS)}) for {', '.join(LATENTS)}, got {tuple(units.shape)}"
        )
    if not ((units >= 0) & (units <= 1)).all():
        raise ShapeError("units must lie in [0, 1]: use to_unit() on the dependent version's latents first")
    if resolution < 8:
        raise ShapeError(f"resolution must be at least 8 pixels to show the shape, got {resolution}")
    across = torch.arange(resolution) + 0.5 - resolution / 2
    x, y = across.repeat(resolution), -across.repeat_interleave(resolution)  # pixel centres, y upwards
    left, bottom = _coverage(x), _coverage(y)
    quadrants = torch.stack([left * bottom, (1 - left) * bottom, left * (1 - bottom), (1 - left) * (1 - bottom)])

    images = torch.empty(len(units), 3, resolution, resolution, dtype=torch.uint8)
    for out, u in zip(images.split(_CHUNK), units.float().split(_CHUNK), strict=True):
        picture = _rgb(u[:, :4]).mT @ quadrants
        shape = _coverage(_signed_distance(u, x, y, resolution))
        picture.lerp_(_rgb(u[:, 5:6]).mT, shape[:, None])
        out.copy_(picture.mul_(255).round_().view(out.shape))
    return images


def _coverage(distance: Tensor) -> Tensor:
    """How much of a pixel lies inside an edge whose signed distance (in pixels, negative inside) is given."""
    return (0.5 - distance).clamp_(0, 1)


def _signed_distance(u: Tensor, x: Tensor, y: Tensor, resolution: int) -> Tensor:
    """Signed distance (n, P) in pixels of the pixel centres x, y (P,) to the edge of the shape."""
    half = 24 * (0.2 + 0.8 * u[:, 4:5]) * resolution / 64
    kind = (3 * u[:, 6]).round()
    angle = 2 * math.pi * u[:, 7:8]
    distance = u.new_empty(len(u), len(x))
    for number, to_edge in enumerate((_disc, _square, _triangle, _ellipse)):
        of_kind = kind == number
        cos, sin = angle[of_kind].cos(), angle[of_kind].sin()
        distance[of_kind] = to_edge(cos * x + sin * y, cos * y - sin * x, half[of_kind])
    return distance


def _disc(x: Tensor, y: Tensor, half: Tensor) -> Tensor:
    return torch.hypot(x, y) - half


def _square(x: Tensor, y: Tensor, half: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - half


def _triangle(x: Tensor, y: Tensor, half: Tensor) -> Tensor:
    return torch.maximum(-y - half, (2 * x.abs() + y - half) / math.sqrt(5))


def _ellipse(x: Tensor, y: Tensor, half: Tensor) -> Tensor:
    # To first order: the level of (x/a)^2 + (y/b)^2 over the length of its gradient, exact at the edge itself.
    level = torch.hypot(x / half, 2 * y / half)
    slope = torch.hypot(x / half**2, 4 * y / half**2).clamp_(min=1e-12)
    return level * (level - 1) / slope


def _rgb(hue: Tensor) -> Tensor:
    """RGB (..., 3) in [0, 1] of hues in [0, 1]."""
    position = hue * (len(_HUES) - 1)
    segment = position.long().clamp_(max=len(_HUES) - 2)
    return torch.lerp(_HUES[segment], _HUES[segment + 1], (position - segment)[..., None])


def _intervened(context: str | Iterable[str]) -> np.ndarray:
    names = CONCEPTS.parse(context)
    return np.array([latent in names for latent in LATENTS])


def _scm(intervened: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and variance (8,) of the noise of a context, and the matrix (8, 8) with latents = noise @ matrix."""
    weights = np.where(intervened, 0.0, _WEIGHTS)  # an intervention cuts its target's incoming edges: a column
    mix = np.linalg.inv(np.eye(len(LATENTS)) - weights)
    return np.where(intervened, _DO_MEAN, 0.0), np.where(intervened, _DO_VARIANCE, _NOISE_VARIANCE), mix


def _checked_ranges(ranges: Mapping[str, tuple[Range, Range]] | None) -> list[tuple[Range, Range]]:
    merged = {**INDEPENDENT_RANGES, **(ranges or {})}
    for name, both in merged.items():
        if name not in LATENTS:
            raise DataError(f"no latent {name!r} to set a range of; latents: {', '.join(LATENTS)}")
        if len(both) != 2 or any(len(one) != 2 or not 0 <= one[0] <= one[1] <= 1 for one in both):
            raise DataError(
                f"ranges of {name!r} must be two (low, high) pairs in [0, 1], observational and interventional, "
                f"got {both!r}"
            )
    return [merged[name] for name in LATENTS]
