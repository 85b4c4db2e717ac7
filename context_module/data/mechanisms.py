"""Simulators whose factors follow from their causes by additive mechanisms: effect = f(causes) + its own noise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from context_module.data.canvas import check_resolution
from context_module.data.simulator import Simulator

__all__ = ["AdditiveSimulator", "Range"]

Range = tuple[float, float]


class AdditiveSimulator(Simulator):
    """A factor is what its causes give it plus noise of its own, or, under an intervention, a draw of its own.

    A subclass sets the attributes, writes `caused` and `render`, and has its factors in causal order.

    Args:
        resolution: height and width in pixels.

    Attributes:
        ranges: of every factor the range of its own noise, uniform, and of a concept the one an intervention draws
            from; of a factor of whole numbers both ends count.
        discrete: factors of whole numbers.
    """

    ranges: ClassVar[Mapping[str, tuple[Range, Range | None]]]
    discrete: frozenset[str] = frozenset()

    def __init__(self, resolution: int = 64) -> None:
        check_resolution(resolution)
        self.image_shape = (3, resolution, resolution)

    @abstractmethod
    def caused(self, name: str, factors: Mapping[str, Tensor]) -> Tensor | float:
        """What its causes, among `factors` (n,) by name, float64, give to a factor; 0 for one without causes."""

    def settings(self) -> dict[str, Any]:
        return {}

    def sample(self, n: int, context: str, rng: np.random.Generator, test: bool = False) -> Tensor:
        intervened = self.concepts.parse(context)
        uniform = torch.from_numpy(rng.random((n, len(self.factor_names))))
        factors: dict[str, Tensor] = {}
        for name, draws in zip(self.factor_names, uniform.T, strict=True):
            own, forced = self.ranges[name]
            low, high = forced if name in intervened and forced else own
            whole = name in self.discrete
            value = low + ((draws * (high - low + 1)).floor() if whole else draws * (high - low))
            factors[name] = value if name in intervened else value + self.caused(name, factors)
        return torch.stack([factors[name] for name in self.factor_names], dim=1).float()

    def counterfactual(self, factors: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """As `Simulator.counterfactual`; the images are taken as observational ones."""
        before = dict(zip(self.factor_names, factors.double().T, strict=True))
        after: dict[str, Tensor] = {}
        for name, given in before.items():
            if name in values:
                after[name] = values[name].to(given)
            else:
                after[name] = given + self.caused(name, after) - self.caused(name, before)
        return torch.stack([after[name] for name in self.factor_names], dim=1).float()
