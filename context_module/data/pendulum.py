"""The pendulum data: a pendulum and a light, and the shadow's length and position that follow from both.

The geometry is that of CausalVAE (Yang et al., CVPR 2021); angles, corrupted shadows and the blue background are those
of DEAR (Shen et al., JMLR 23(241), 2022). A shadow is at least 2 long, as in DEAR's labels; CausalVAE's generator
draws 3. How DEAR's shadows were corrupted is not published: the ranges here have the moments of its labels. Everything
is drawn here, from a seed: nothing is downloaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.data.context_data import ContextData
from context_module.data.dataset import ArrayContextDataset
from context_module.data.simulated import simulate
from context_module.data.simulator import Simulator
from context_module.errors import DataError, ShapeError

__all__ = [
    "CONCEPTS",
    "CORRUPTED_RANGES",
    "FACTORS",
    "PAIRS",
    "RANGES",
    "PendulumSimulator",
    "pendulum",
    "render",
    "shadow",
    "shift_environments",
]

CONCEPTS = Concepts(["pendulum", "light", "length", "position"])
FACTORS = (*CONCEPTS, "corrupted", "background")
#: The held-out contexts: all pairs.
PAIRS = tuple("+".join(pair) for pair in itertools.combinations(CONCEPTS, 2))

Range = tuple[float, float]
#: Per concept its (observational, interventional) range. Angles are in degrees, in steps of 0.5, lengths and positions
#: in units of the canvas, which is 20 wide. The observational shadow follows from the angles; its length then lies in
#: [2, 12.67] and its position in [4.37, 12.89]. The interventional ranges are ours: the pendulum swings to the other
#: side, the light comes from it, the shadow is shorter than it ever is, or further right than light from the right
#: throws it. With any two angles of these ranges the whole shadow that follows is in the picture.
RANGES: Mapping[str, tuple[Range | None, Range]] = {
    "pendulum": ((0.0, 40.5), (-30.0, -5.0)),
    "light": ((48.0, 88.5), (100.0, 125.0)),
    "length": (None, (0.5, 1.5)),
    "position": (None, (14.0, 16.0)),
}
#: A corrupted shadow's, uniform and independent; fitted to the moments that DEAR's labels have.
CORRUPTED_RANGES: Mapping[str, Range] = {"length": (2.0, 15.0), "position": (2.0, 14.5)}

_STEP = 0.5  # degrees
# The canvas, in its own units, y upwards.
_WIDTH, _BOTTOM, _TOP = 20.0, -1.0, 21.0
_PIVOT_X, _PIVOT_Y, _ROD, _BALL_RADIUS = 10.0, 10.5, 8.0, 1.5
_SUN_Y, _SUN_RADIUS, _GROUND, _SHORTEST, _LINE = 20.5, 3.0, -0.5, 2.0, 0.8
_WHITE, _BLUE, _BLACK = (255.0, 255.0, 255.0), (100.0, 150.0, 255.0), (0.0, 0.0, 0.0)
_FIREBRICK, _ORANGE = (178.0, 34.0, 34.0), (255.0, 165.0, 0.0)
_CHUNK = 32  # images rendered at a time, so that intermediate values stay in the processor's cache


def pendulum(
    *,
    resolution: int = 64,
    samples_per_context: int = 10_000,
    held_out_samples: int = 2_000,
    test_samples: int = 0,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    corruption: float = 0.0,
    background_correlation: float | None = None,
) -> ContextData:
    """The pendulum data: an intervention replaces its concept by a draw from a range that is never observed.

    When an angle is intervened on, the shadow follows. `shift_environments` makes DEAR's task of worst-case accuracy.

    Args:
        resolution: height and width in pixels.
        samples_per_context, held_out_samples, test_samples, seed, cache_dir: see `simulate`.
        corruption: the share of images whose shadow's length and position follow from nothing but
            `CORRUPTED_RANGES`; an intervention on one of them still sets it. DEAR's images have 0.2.
        background_correlation: P(blue | corrupted) = P(white | not corrupted). Default: all are white.

    Returns:
        ContextData whose factors (N, 6) are those of `FACTORS`: degrees and canvas units; corrupted 0 or 1; background
        0 (white) or 1 (blue).

    Raises:
        DataError: for a bad count, or probabilities outside [0, 1].
        ShapeError: for a resolution below 16 pixels.
    """
    return simulate(
        PendulumSimulator(resolution, corruption, background_correlation),
        samples_per_context=samples_per_context,
        held_out_samples=held_out_samples,
        test_samples=test_samples,
        seed=seed,
        cache_dir=cache_dir,
    )


def shift_environments(
    n_train: int,
    n_test: int,
    *,
    rho: float = 0.8,
    test_rho: float = 0.5,
    corruption: float = 0.2,
    resolution: int = 64,
    seed: int = 0,
) -> tuple[ArrayContextDataset, ArrayContextDataset]:
    """Observational images to train and to test on that differ in how well the background tells corrupted shadows.

    The task of DEAR: predict `corrupted`, ignore `background`, and score the average accuracy and the
    worst one of the four groups they make. Its shadows are corrupted in one image of five, so calling none corrupted
    is right on average in four, and always wrong in the worst group; ``corruption=0.5`` balances the classes.

    Args:
        n_train, n_test: images of each.
        rho, test_rho: P(blue | corrupted) = P(white | not corrupted) in each; 0.5 is no correlation.
        corruption: P(corrupted) in both.
        resolution: height and width in pixels.
        seed: as for `pendulum`; the two parts are drawn from streams of their own.

    Returns:
        ``(train, test)``, each with the factors (n, 6) of `FACTORS`, of which `corrupted` and `background` are the
        labels.

    Raises:
        DataError: for a count below 1, or probabilities outside [0, 1].
        ShapeError: for a resolution below 16 pixels.
    """
    if n_train < 1 or n_test < 1:
        raise DataError(f"n_train and n_test must be at least 1, got {n_train} and {n_test}")

    def part(n: int, correlation: float, test: bool) -> ArrayContextDataset:
        simulator = PendulumSimulator(resolution, corruption, correlation)
        factors = simulator.draw(n, seed=seed, test=test)
        labels = torch.zeros(n, dtype=torch.int64)
        return ArrayContextDataset(
            simulator.render(factors), labels, [OBSERVATIONAL], CONCEPTS, factors, simulator.factor_names
        )

    return part(n_train, rho, False), part(n_test, test_rho, True)


class PendulumSimulator(Simulator):
    """Draws, renders and intervenes on the factors of pendulum pictures; arguments and errors as for `pendulum`."""

    name = "pendulum"
    concepts = CONCEPTS
    factor_names = FACTORS
    compositions = PAIRS
    graph = tuple(itertools.product(("pendulum", "light"), ("length", "position")))
    target, spurious = "corrupted", "background"

    def __init__(
        self, resolution: int = 64, corruption: float = 0.0, background_correlation: float | None = None
    ) -> None:
        _check_resolution(resolution)
        for name, value in (("corruption", corruption), ("background_correlation", background_correlation)):
            if value is not None and not 0 <= value <= 1:
                raise DataError(f"{name} must be a probability in [0, 1], got {value}")
        self.image_shape = (3, resolution, resolution)
        self.corruption, self.background_correlation = corruption, background_correlation

    def settings(self) -> dict[str, Any]:
        return {"corruption": self.corruption, "background_correlation": self.background_correlation}

    def shifted(self, n_train: int, n_test: int, *, seed: int = 0) -> tuple[ArrayContextDataset, ArrayContextDataset]:
        own = {"corruption": self.corruption} if self.corruption else {}  # without it there is nothing to predict
        if self.background_correlation is not None:
            own["rho"] = self.background_correlation
        return shift_environments(n_train, n_test, resolution=self.image_shape[-1], seed=seed, **own)

    def sample(self, n: int, context: str, rng: np.random.Generator, test: bool = False) -> Tensor:
        intervened = CONCEPTS.parse(context)
        uniform = dict(zip(FACTORS, rng.random((n, len(FACTORS))).T, strict=True))
        angles = []
        for name in ("pendulum", "light"):
            low, high = RANGES[name][name in intervened]  # type: ignore[misc]  # None is not the angles'
            steps = np.floor(uniform[name] * ((high - low) / _STEP + 1))
            angles.append(torch.from_numpy(low + _STEP * steps).float())
        corrupted = uniform["corrupted"] < self.corruption
        ends = []
        for name, physical in zip(("length", "position"), shadow(*angles), strict=True):
            low, high = RANGES[name][1] if name in intervened else CORRUPTED_RANGES[name]
            free = torch.from_numpy(low + (high - low) * uniform[name]).float()
            ends.append(free if name in intervened else torch.where(torch.from_numpy(corrupted), free, physical))
        rho = self.background_correlation
        blue = np.zeros(n, bool) if rho is None else uniform["background"] < np.where(corrupted, rho, 1 - rho)
        return torch.stack([*angles, *ends, *(torch.from_numpy(flag).float() for flag in (corrupted, blue))], dim=1)

    def render(self, factors: Tensor) -> Tensor:
        return render(factors, self.image_shape[-1])

    def counterfactual(self, factors: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The factors (n, 6) of the same images had the concepts in `values` been set to these values (n,).

        The shadow follows new angles, unless its mechanism is cut: a corrupted one stays as it is, and so does a
        length or position that an intervention has set, known from not being what the angles give.
        """
        changed = super().counterfactual(factors, values)
        old, new = shadow(*factors.T[:2]), shadow(*changed.T[:2])
        for name, before, after in zip(("length", "position"), old, new, strict=True):
            column = FACTORS.index(name)
            follows = (factors[:, FACTORS.index("corrupted")] == 0) & (factors[:, column] - before).abs().lt(1e-3)
            if name not in values:
                changed[:, column] = torch.where(follows, after, factors[:, column])
        return changed


def shadow(pendulum: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
    """Length and position (of the middle) of the shadow, from the angles in degrees; float32, elementwise.

    The pendulum hangs down at 0 and swings right; the light comes from the right below 90, from the left above. The
    shadow reaches from that of the pivot to that of the ball's lower end and is at least 2 long.
    """
    theta, phi = torch.deg2rad(pendulum.double()), torch.deg2rad(light.double())
    slope = phi.cos() / phi.sin()  # how far to the left a shadow falls per height of what throws it
    tip = _ROD + _BALL_RADIUS
    of_pivot = _PIVOT_X - (_PIVOT_Y - _GROUND) * slope
    of_tip = _PIVOT_X + tip * theta.sin() - (_PIVOT_Y - tip * theta.cos() - _GROUND) * slope
    return (of_pivot - of_tip).abs().clamp(min=_SHORTEST).float(), ((of_pivot + of_tip) / 2).float()


def render(factors: Tensor, resolution: int = 64) -> Tensor:
    """Draws pictures: sun, pendulum and shadow, with edges one pixel soft.

    The canvas, x from 0 to 20 and y from -1 to 21, fills the image; what lies beyond is cut off.

    Args:
        factors: (n, 6), in the order of `FACTORS`; light strictly between 0 and 180 degrees.
        resolution: height and width in pixels.

    Returns:
        uint8 (n, 3, resolution, resolution).

    Raises:
        ShapeError: for another shape of factors, values that cannot be drawn, or a resolution below 16 pixels.
    """
    if factors.ndim != 2 or factors.shape[1] != len(FACTORS):
        raise ShapeError(
            f"factors must have shape (n, {len(FACTORS)}) for {', '.join(FACTORS)}, got {tuple(factors.shape)}"
        )
    light, background = factors[:, 1], factors[:, 5]
    if not (factors.isfinite().all() and ((light > 0) & (light < 180) & (background >= 0) & (background <= 1)).all()):
        raise ShapeError(
            "factors must be finite to be drawn, light strictly between 0 and 180 degrees, background 0 to 1"
        )
    _check_resolution(resolution)
    images = torch.empty(len(factors), 3, resolution, resolution, dtype=torch.uint8)
    for out, chunk in zip(images.split(_CHUNK), factors.split(_CHUNK), strict=True):
        out.copy_(_picture(chunk, resolution))
    return images


def _picture(factors: Tensor, resolution: int) -> Tensor:
    """Float (n, 3, R, R) in 0..255; only operations that round the same whatever the batch."""
    theta, phi, length, position, _, background = factors.double().T[:, :, None, None]
    theta, phi = torch.deg2rad(theta), torch.deg2rad(phi)
    height = _TOP - _BOTTOM
    cells = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution
    x, y = _WIDTH * cells, _TOP - height * cells[:, None]
    pixel = (_WIDTH + height) / 2 / resolution
    sun_x = _PIVOT_X + (_SUN_Y - _PIVOT_Y) * phi.cos() / phi.sin()
    # from the pivot: how far along the rod, and how far off it
    along = (theta.sin() * (x - _PIVOT_X)).float() - (theta.cos() * (y - _PIVOT_Y)).float()
    across = (theta.cos() * (x - _PIVOT_X)).float() + (theta.sin() * (y - _PIVOT_Y)).float()
    beyond = along - along.clamp(0, _ROD)
    sun = _coverage(((x - sun_x).square().float() + (y - _SUN_Y).square().float()).sqrt() - _SUN_RADIUS, pixel)
    rod = _coverage((beyond * beyond + across * across).sqrt() - _LINE / 2, pixel)
    ball = _coverage(((along - _ROD) * (along - _ROD) + across * across).sqrt() - _BALL_RADIUS, pixel)
    ground = torch.tensor(_GROUND, dtype=torch.float64)
    on_ground = _overlap(x, _WIDTH / resolution, position, length) * _overlap(y, height / resolution, ground, _LINE)

    picture = _colour(_WHITE) + background[:, None].float() * (_colour(_BLUE) - _colour(_WHITE))
    for layer, colour in ((sun, _ORANGE), (on_ground.float(), _BLACK), (rod, _BLACK), (ball, _FIREBRICK)):
        covered = layer[:, None]
        picture = picture * (1 - covered) + covered * _colour(colour)
    return picture.round()


def _coverage(distance: Tensor, pixel: float) -> Tensor:
    """How much of a pixel lies inside an edge whose signed distance (negative inside) is given."""
    return (0.5 - distance / pixel).clamp(0, 1)


def _overlap(centres: Tensor, pixel: float, middle: Tensor, extent: Tensor | float) -> Tensor:
    """How much of each pixel, along one axis, a bar of this middle and extent covers."""
    upper = torch.minimum(centres + pixel / 2, middle + extent / 2)
    lower = torch.maximum(centres - pixel / 2, middle - extent / 2)
    return ((upper - lower) / pixel).clamp(0, 1)


def _colour(rgb: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rgb)[:, None, None]


def _check_resolution(resolution: int) -> None:
    if resolution < 16:
        raise ShapeError(f"resolution must be at least 16 pixels to show the shadow, got {resolution}")
