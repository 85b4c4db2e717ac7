"""Still lifes: a vase, the flowers in it and the petals that fall from them, a causal chain under a light.

The taller the vase, the more flowers; the more flowers, the more petals on the table. The number of flowers is a whole
number, everything else is continuous. The light shades the whole picture; the cloth's hue is a cause of nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.canvas import Canvas, box, disc, draw, hue
from context_module.data.context_data import ContextData
from context_module.data.mechanisms import AdditiveSimulator, Range
from context_module.data.simulated import simulate

__all__ = ["StillLifeSimulator", "still_life"]

_TABLE = 0.3  # how high the table reaches
#: Where flowers stand, from the vase's middle, in the order in which they come.
_STEMS = (0.0, -0.13, 0.13, -0.25, 0.25)
_RISE = (0.16, 0.12, 0.12, 0.03, 0.03)
_WALL, _VASE, _STEM = (0.85, 0.82, 0.75), (0.25, 0.35, 0.6), (0.2, 0.5, 0.2)


def still_life(
    *,
    resolution: int = 64,
    samples_per_context: int = 10_000,
    held_out_samples: int = 2_000,
    test_samples: int = 0,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> ContextData:
    """Still lifes, with the causal chain vase -> flowers -> petals; all pairs of the five concepts are held out.

    Args:
        resolution: height and width in pixels.
        samples_per_context, held_out_samples, test_samples, seed, cache_dir: see `simulate`.

    Returns:
        ContextData whose factors (N, 7) are those of `StillLifeSimulator`.

    Raises:
        DataError: for a bad count.
        ShapeError: for a resolution below 16 pixels.
    """
    return simulate(
        StillLifeSimulator(resolution),
        samples_per_context=samples_per_context,
        held_out_samples=held_out_samples,
        test_samples=test_samples,
        seed=seed,
        cache_dir=cache_dir,
    )


class StillLifeSimulator(AdditiveSimulator):
    """Draws, renders and intervenes on the factors of still lifes; arguments and errors as for `still_life`.

    Factors: the light's strength in [0, 1], the cloth's hue, where the vase stands and the flowers' hue (neither is
    ever intervened on), the vase's height, the number of flowers (0 to 5), the amount of petals.
    """

    name = "still_life"
    concepts = Concepts(["light", "cloth", "vase", "flowers", "petals"])
    factor_names = ("light", "cloth", "place", "bloom", "vase", "flowers", "petals")
    compositions = tuple("+".join(pair) for pair in itertools.combinations(concepts, 2))
    graph = (("vase", "flowers"), ("flowers", "petals"))
    discrete = frozenset({"flowers"})
    ranges: ClassVar[Mapping[str, tuple[Range, Range | None]]] = {
        "light": ((0.65, 1.0), (0.3, 0.7)),
        "cloth": ((0.0, 0.45), (0.4, 0.9)),
        "place": ((-0.12, 0.12), None),
        "bloom": ((0.0, 1.0), None),
        "vase": ((0.12, 0.28), (0.22, 0.42)),
        "flowers": ((-1, 1), (0, 5)),
        "petals": ((0.0, 0.25), (0.5, 1.0)),
    }

    def caused(self, name: str, factors: Mapping[str, Tensor]) -> Tensor | float:
        if name == "flowers":
            return 1 + ((factors["vase"] - 0.12) / 0.3 * 4).floor().clamp(0, 3)
        return 0.1 * factors["flowers"] if name == "petals" else 0.0

    def render(self, factors: Tensor) -> Tensor:
        return draw(_paint, factors, self.factor_names, self.image_shape[-1])


def _paint(canvas: Canvas, factors: dict[str, Tensor]) -> None:
    middle, top = 0.42 + factors["place"], 0.18 + factors["vase"]
    bloom = hue(factors["bloom"], whiteness=0.25)
    canvas.paint(box(canvas, 0.5, 0.5, 1.0, 1.0), _WALL)
    canvas.paint(box(canvas, 0.5, 0.0, 1.0, _TABLE), hue(factors["cloth"], whiteness=0.1))
    for number, (aside, rise) in enumerate(zip(_STEMS, _RISE, strict=True)):
        there = (factors["flowers"] - number).clamp(0, 1)
        canvas.paint(box(canvas, middle + aside / 2, top + rise / 2, 0.012, 0.08), _STEM, there)
        canvas.paint(disc(canvas, middle + aside, top + rise + 0.03, 0.075), bloom, there)
        canvas.paint(disc(canvas, middle + aside, top + rise + 0.03, 0.025), (1.0, 0.9, 0.3), there)
    canvas.paint(box(canvas, middle, 0.15 + (top - 0.15) / 2, 0.1, (top - 0.15) / 2), _VASE)
    canvas.paint(disc(canvas, 0.84, 0.16, 0.02 + 0.11 * factors["petals"].clamp(0, 1.2)), bloom * 0.8)
    canvas.picture = canvas.picture * factors["light"].clamp(0, 1)[:, None, None, None]
