"""Cartoon faces with attributes that hide each other, and that a hidden cause makes come together.

A hat hides hair, glasses hide eyes, a beard hides the mouth. Older people wear all three more often; age itself is
not to be seen and never known: a confounder. No concept is a cause of another.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.canvas import Canvas, box, check_resolution, disc, draw, hue
from context_module.data.context_data import ContextData
from context_module.data.simulated import simulate
from context_module.data.simulator import Simulator

__all__ = ["CartoonSimulator", "cartoon"]

_ATTRIBUTES = ("hat", "glasses", "beard")
#: Of the other concepts, the observational and the interventional range; of factors never intervened on, the range.
_RANGES = {
    "hair": ((0.0, 0.4), (0.4, 0.9)),
    "smile": ((-0.6, 0.3), (0.2, 1.0)),
    "skin": ((0.0, 1.0), None),
    "backdrop": ((0.0, 1.0), None),
}
_LIGHT_SKIN, _DARK_SKIN = torch.tensor([[1.0, 0.86, 0.74], [0.55, 0.36, 0.25]], dtype=torch.float64)


def cartoon(
    *,
    resolution: int = 64,
    samples_per_context: int = 10_000,
    held_out_samples: int = 2_000,
    test_samples: int = 0,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> ContextData:
    """Cartoon faces, confounded and without edges; all pairs of the five concepts are held out.

    Args:
        resolution: height and width in pixels.
        samples_per_context, held_out_samples, test_samples, seed, cache_dir: see `simulate`.

    Returns:
        ContextData whose factors (N, 7) are those of `CartoonSimulator`.

    Raises:
        DataError: for a bad count.
        ShapeError: for a resolution below 16 pixels.
    """
    return simulate(
        CartoonSimulator(resolution),
        samples_per_context=samples_per_context,
        held_out_samples=held_out_samples,
        test_samples=test_samples,
        seed=seed,
        cache_dir=cache_dir,
    )


class CartoonSimulator(Simulator):
    """Draws, renders and intervenes on the factors of cartoon faces; arguments and errors as for `cartoon`.

    Factors: hat, glasses and beard, 0 or 1; the hair's hue; the mouth's bend, from -1 (sad) to 1; how dark the skin
    is, and the backdrop's hue, on both of which nothing ever intervenes. An intervention puts an attribute on.
    """

    name = "cartoon"
    concepts = Concepts(["hat", "glasses", "beard", "hair", "smile"])
    factor_names = ("hat", "glasses", "beard", "hair", "smile", "skin", "backdrop")
    compositions = tuple("+".join(pair) for pair in itertools.combinations(concepts, 2))

    def __init__(self, resolution: int = 64) -> None:
        check_resolution(resolution)
        self.image_shape = (3, resolution, resolution)

    def settings(self) -> dict[str, Any]:
        return {}

    def sample(self, n: int, context: str, rng: np.random.Generator, test: bool = False) -> Tensor:
        intervened = self.concepts.parse(context)
        uniform = rng.random((n, 1 + len(self.factor_names)))
        age, own = uniform[:, 0], dict(zip(self.factor_names, uniform.T[1:], strict=True))
        factors = {}
        for name in _ATTRIBUTES:  # from one in ten of the youngest to seven in ten of the oldest
            worn = own[name] < 0.1 + 0.6 * age
            factors[name] = np.ones(n) if name in intervened else worn.astype(float)
        for name, (usual, forced) in _RANGES.items():
            low, high = forced if name in intervened and forced else usual
            factors[name] = low + (high - low) * own[name]
        return torch.from_numpy(np.stack([factors[name] for name in self.factor_names], axis=1)).float()

    def render(self, factors: Tensor) -> Tensor:
        return draw(_paint, factors, self.factor_names, self.image_shape[-1])


def _paint(canvas: Canvas, factors: dict[str, Tensor]) -> None:
    skin = torch.lerp(_LIGHT_SKIN, _DARK_SKIN, factors["skin"].clamp(0, 1)[:, None])
    hair = hue(factors["hair"]) * 0.75
    canvas.paint(box(canvas, 0.5, 0.5, 1.0, 1.0), hue(factors["backdrop"], whiteness=0.6))
    canvas.paint(disc(canvas, 0.5, 0.52, 0.37), hair)
    canvas.paint(disc(canvas, 0.5, 0.44, 0.32), skin)
    for side in (0.37, 0.63):
        canvas.paint(disc(canvas, side, 0.5, 0.055), (1.0, 1.0, 1.0))
        canvas.paint(disc(canvas, side, 0.5, 0.028), (0.1, 0.1, 0.15))
    # a parabola: its ends move up and down with the smile, and its middle the other way
    across = (canvas.x - 0.5) / 0.15
    bend = factors["smile"][:, None, None] * 0.07
    mouth = (canvas.y - 0.27 - bend * (across.square() - 0.5)).abs() - 0.025
    canvas.paint(torch.maximum(mouth, (canvas.x - 0.5).abs() - 0.15), (0.7, 0.1, 0.15))
    beard = torch.maximum(disc(canvas, 0.5, 0.44, 0.34), canvas.y - 0.24)
    canvas.paint(beard, hair * 0.8, factors["beard"].clamp(0, 1))
    for side in (0.37, 0.63):
        canvas.paint(box(canvas, side, 0.5, 0.1, 0.075), (0.12, 0.12, 0.16), factors["glasses"].clamp(0, 1))
    canvas.paint(box(canvas, 0.5, 0.52, 0.33, 0.015), (0.12, 0.12, 0.16), factors["glasses"].clamp(0, 1))
    canvas.paint(box(canvas, 0.5, 0.7, 0.42, 0.04), (0.45, 0.1, 0.5), factors["hat"].clamp(0, 1))
    canvas.paint(box(canvas, 0.5, 0.82, 0.25, 0.12), (0.45, 0.1, 0.5), factors["hat"].clamp(0, 1))
