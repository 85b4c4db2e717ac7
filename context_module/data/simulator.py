"""Where data that is made here comes from: a simulator draws the true factors of a context and renders them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from context_module.contexts import Concepts

if TYPE_CHECKING:
    from context_module.data.dataset import ContextDataset

__all__ = ["Simulator"]


class Simulator(ABC):
    """Where images come from, as far as it is known: a distribution of factors in every context, and a renderer.

    A subclass sets the attributes and writes `settings`, `sample` and `render`; `counterfactual` too, where factors
    act on each other.

    Attributes:
        name: of the data set.
        concepts: the factors that contexts intervene on; each is also one of `factor_names`.
        factor_names: of the D columns of a table of factors.
        contexts: the training contexts, as names; None for all of the concepts'.
        compositions: the held-out contexts, as names.
        image_shape: (C, H, W).
        graph: (cause, effect) pairs of concepts: the direct edges among them; None where it is not known.
        discrete: the factors whose values stand for themselves, however many, and are not to be cut into bins; None
            for those that take few values.
        target, spurious: names of two binary factors for the metrics of `context_module.metrics.downstream`: what is
            to be predicted, and what only correlates with it; None for data without such a task.
    """

    name: str
    concepts: Concepts
    factor_names: tuple[str, ...]
    contexts: tuple[str, ...] | None = None
    compositions: tuple[str, ...]
    image_shape: tuple[int, int, int]
    graph: tuple[tuple[str, str], ...] | None = ()
    discrete: frozenset[str] | None = None
    target: str | None = None
    spurious: str | None = None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that the images depend on besides the seed, as plain values for JSON: the cache's key."""

    @abstractmethod
    def sample(self, n: int, context: str, rng: np.random.Generator, test: bool = False) -> Tensor:
        """Factors of n images of a context, float32 (n, D).

        The first rows must not depend on n. `test` tells data that has a test part of its own which one to draw from.
        """

    def draw(self, n: int, context: str | Iterable[str] = "obs", *, seed: int = 0, test: bool = False) -> Tensor:
        """Factors of n images of a context, float32 (n, D), each context and part from a random stream of its own."""
        names = self.concepts.parse(context)
        number = sum(1 << self.factor_names.index(name) for name in names)
        stream = np.random.SeedSequence(seed, spawn_key=(number, 1) if test else (number,))
        return self.sample(n, self.concepts.name(names), np.random.default_rng(stream), test)

    @abstractmethod
    def render(self, factors: Tensor) -> Tensor:
        """Images of factors (n, D): uint8 (n, *image_shape), a function of the factors alone."""

    def counterfactual(self, factors: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The factors (n, D) of the same images had the concepts in `values` been set to these values (n,).

        What does not descend from them stays; what does follows its mechanism, with its own noise as it was. Here:
        factors that do not act on each other.
        """
        changed = factors.clone()
        for name, value in values.items():
            changed[:, self.factor_names.index(name)] = value.to(changed)
        return changed

    def shifted(self, n_train: int, n_test: int, *, seed: int = 0) -> tuple[ContextDataset, ContextDataset] | None:
        """Observational images to train and to test on in which `target` and `spurious` are correlated differently.

        None, as here, where the data itself has that task.
        """
        return None
