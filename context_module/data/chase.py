"""A chase: a hare runs, a fox follows the hare, a hound follows the fox, and a crow looks on from the air.

Positions cause positions: what moves is where things are, which decoders of small autoencoders draw by a very curved
map. The crow's height is a cause of nothing; how large the hare is and the hour of the day are never intervened on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.canvas import Canvas, box, disc, draw
from context_module.data.context_data import ContextData
from context_module.data.mechanisms import AdditiveSimulator, Range
from context_module.data.simulated import simulate

__all__ = ["ChaseSimulator", "chase"]

_LANES = {"hare": 0.42, "fox": 0.27, "hound": 0.1}  # how high each runs
_COLOURS = {"hare": (0.95, 0.93, 0.88), "fox": (0.9, 0.4, 0.1), "hound": (0.25, 0.2, 0.45)}


def chase(
    *,
    resolution: int = 64,
    samples_per_context: int = 10_000,
    held_out_samples: int = 2_000,
    test_samples: int = 0,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> ContextData:
    """The chase, with the causal chain hare -> fox -> hound; all pairs of the four concepts are held out.

    Args:
        resolution: height and width in pixels.
        samples_per_context, held_out_samples, test_samples, seed, cache_dir: see `simulate`.

    Returns:
        ContextData whose factors (N, 6) are those of `ChaseSimulator`.

    Raises:
        DataError: for a bad count.
        ShapeError: for a resolution below 16 pixels.
    """
    return simulate(
        ChaseSimulator(resolution),
        samples_per_context=samples_per_context,
        held_out_samples=held_out_samples,
        test_samples=test_samples,
        seed=seed,
        cache_dir=cache_dir,
    )


class ChaseSimulator(AdditiveSimulator):
    """Draws, renders and intervenes on the factors of the chase; arguments and errors as for `chase`.

    Factors: how far right hare, fox and hound are and how high the crow is, all in widths of the picture; the hare's
    size; the hour, from 0 (night) to 1 (day).
    """

    name = "chase"
    concepts = Concepts(["hare", "fox", "hound", "crow"])
    factor_names = ("hare", "fox", "hound", "crow", "size", "hour")
    compositions = tuple("+".join(pair) for pair in itertools.combinations(concepts, 2))
    graph = (("hare", "fox"), ("fox", "hound"))
    ranges: ClassVar[Mapping[str, tuple[Range, Range | None]]] = {
        "hare": ((0.25, 0.6), (0.55, 0.9)),
        "fox": ((-0.05, 0.1), (0.55, 0.9)),
        "hound": ((0.0, 0.15), (0.6, 0.9)),
        "crow": ((0.6, 0.75), (0.72, 0.92)),
        "size": ((0.05, 0.09), None),
        "hour": ((0.3, 1.0), None),
    }

    def caused(self, name: str, factors: Mapping[str, Tensor]) -> Tensor | float:
        if name == "fox":
            return 0.9 * factors["hare"] - 0.05
        return 0.8 * factors["fox"] if name == "hound" else 0.0

    def render(self, factors: Tensor) -> Tensor:
        return draw(_paint, factors, self.factor_names, self.image_shape[-1])


def _paint(canvas: Canvas, factors: dict[str, Tensor]) -> None:
    hour = factors["hour"].clamp(0, 1)[:, None]
    sky = hour * hour.new_tensor([0.55, 0.8, 1.0])
    canvas.paint(box(canvas, 0.5, 0.5, 1.0, 1.0), sky)
    canvas.paint(
        box(canvas, 0.5, 0.0, 1.0, 0.52),
        hour.new_tensor([0.35, 0.3, 0.2]) + hour * hour.new_tensor([0.05, 0.25, 0.08]),
    )
    crow = factors["crow"]
    canvas.paint(box(canvas, 0.5, crow, 0.1, 0.02), (0.05, 0.05, 0.05))
    canvas.paint(disc(canvas, 0.5, crow, 0.045), (0.05, 0.05, 0.05))
    for name, lane in _LANES.items():
        size = factors["size"] if name == "hare" else 0.075
        canvas.paint(disc(canvas, factors[name], lane, size), _COLOURS[name])
        canvas.paint(disc(canvas, factors[name] + 0.06, lane + 0.05, 0.03), _COLOURS[name])
