"""What a recipe is handed: data to train on, that held out, and what else is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.dataset import ContextDataset
from context_module.data.labellers import Labeller
from context_module.data.simulator import Simulator
from context_module.errors import DataError

__all__ = ["ContextData"]

_NAMED = 20  # contexts that a description names


@dataclass(frozen=True)
class ContextData:
    """What a recipe trains and scores on.

    Attributes:
        train: the observational context and the contexts with one intervention, then compositions, if any were chosen
            by `training_on`.
        held_out: pairs and larger sets of interventions, never trained on; None if there are none.
        test: further images of the training contexts, never trained on, to score on; None if there are none.
        graph: (cause, effect) pairs of concepts, where the causal graph among them is known.
        targets: bool (K, D), which factors each concept shifts, where that is known.
        simulator: what made the images, where that is known.
        parser: from a text to its factors (D,), as the parts have them, or None if it has none; where there is one.
        left_out: what loading did not read, in words, such as the names of folders.
        target, spurious: names of two binary factors for the metrics of `context_module.metrics.downstream`: what is
            to be predicted, and what only correlates with it; None for data without such a task.
        labellers: who said which concepts an image shows, by concept; empty where nobody need say it.
    """

    train: ContextDataset
    held_out: ContextDataset | None = None
    test: ContextDataset | None = None
    graph: tuple[tuple[str, str], ...] | None = None
    simulator: Simulator | None = None
    parser: Callable[[str], Tensor | None] | None = None
    left_out: tuple[str, ...] = ()
    targets: Tensor | None = None
    labellers: Mapping[str, Labeller] = field(default_factory=dict)
    target: str | None = None
    spurious: str | None = None

    @property
    def concepts(self) -> Concepts:
        """The concepts, the same for all parts."""
        return self.train.concepts

    @property
    def context_names(self) -> tuple[str, ...]:
        """The contexts trained on, then those held out."""
        return (*self.train.context_names, *(self.held_out.context_names if self.held_out else ()))

    def of_concepts(self, concepts: Iterable[str]) -> ContextData:
        """The same data of fewer concepts: the images of contexts that intervene on others are left out."""
        names = set(self.concepts.parse(concepts))

        def part(images: ContextDataset | None) -> ContextDataset | None:
            fits = images and any(names.issuperset(self.concepts.parse(context)) for context in images.context_names)
            return images.of_concepts(names) if images and fits else None

        graph = self.graph and tuple(edge for edge in self.graph if names.issuperset(edge))
        train = self.train.of_concepts(names)
        labellers = {name: labeller for name, labeller in self.labellers.items() if name in names}
        held_out, test = part(self.held_out), part(self.test)
        kept = torch.tensor([name in names for name in self.concepts])
        targets = None if self.targets is None else self.targets[kept]
        return replace(
            self, train=train, held_out=held_out, test=test, graph=graph, labellers=labellers, targets=targets
        )

    def training_on(self, compositions: Iterable[str]) -> ContextData:
        """The same data with these compositions trained on, too; the others stay held out.

        They come after the observational and the single contexts, in the order of `held_out`.

        Args:
            compositions: names of held-out contexts, ``["smile+glasses"]``.

        Raises:
            ConceptError: for an unknown concept.
            DataError: for a context that is not among those held out.
        """
        chosen = {self.concepts.name(context) for context in compositions}
        held_out = self.held_out.context_names if self.held_out else ()
        if missing := sorted(chosen.difference(held_out)):
            raise DataError(
                f"no held-out {self.train.kind} of {', '.join(missing)} to train on; held out: "
                f"{', '.join(held_out) or 'none'}"
            )
        if not chosen or self.held_out is None:
            return self
        rest = [name for name in held_out if name not in chosen]
        return replace(
            self,
            train=self.train.joined(self.held_out.only([name for name in held_out if name in chosen])),
            held_out=self.held_out.only(rest) if rest else None,
        )

    def describe(self) -> str:
        """One line: how many there are of every context, to train on, held out and to test on; what was left out.

        For instance ``contexts: obs (3,000), smile (2,900); held out: glasses+smile (20); left out: @eaDir``.
        """
        parts = {"contexts": self.train, "held out": self.held_out, "test": self.test}
        said = [f"{what}: {_counts(part)}" for what, part in parts.items() if part is not None]
        return "; ".join([*said, f"left out: {', '.join(self.left_out)}"] if self.left_out else said)


def _counts(part: ContextDataset) -> str:
    named = [f"{name} ({count:,})" for name, count in part.counts.items()]
    rest = list(part.counts.values())[_NAMED:]
    return ", ".join(named[:_NAMED]) + (f", and {len(rest)} more ({sum(rest):,})" if rest else "")
