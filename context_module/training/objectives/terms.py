"""Terms of the latent objective: what one is, and what it sees of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, cast

from torch import Tensor, nn

from context_module.nn import ContextModule, EditModule
from context_module.training.encodings import EncodedDataset
from context_module.training.objectives.directions import Directions
from context_module.training.objectives.norms import relative_norms

if TYPE_CHECKING:
    from context_module.training.objectives.embedding import EmbeddingObjective

__all__ = ["LatentStep", "Term"]


@dataclass
class LatentStep:
    """A batch as the terms of the latent objective see it.

    Attributes:
        module: the context module.
        directions: of the latent space, as pictures show it.
        spread: (D,), what standardised embeddings are in units of.
        target: the batch's embeddings, standardised (B, D).
        generated: as many in the same contexts, from fresh noise, standardised (B, D).
        mask: the contexts, bool (B, K).
        training: whether weights are trained on it.
        change: of edits, what they changed of decoder inputs (B, D).
    """

    module: ContextModule | EditModule
    directions: Directions
    spread: Tensor
    target: Tensor
    generated: Tensor
    mask: Tensor
    training: bool
    change: Tensor | None = None

    @property
    def samples(self) -> int:
        """How many draws terms take that are of the module alone."""
        return max(2, len(self.mask) // 4)

    @property
    def context_module(self) -> ContextModule:
        """The module, for terms of one with blocks of noise."""
        return cast("ContextModule", self.module)

    @cached_property
    def edge_norms(self) -> Tensor:
        """The relative norms of the module's edges, (K+F, K+F), on one draw for all terms."""
        return relative_norms(self.context_module, self.samples)

    def along(self, standardised: Tensor) -> Tensor:
        """Coordinates (B, P) of standardised embeddings (B, D) along the directions."""
        return self.directions.along(standardised * self.spread)


class Term(nn.Module):
    """A weighted term of the latent objective.

    Args:
        weight: factor on its value; default: that of the class.

    Attributes:
        name: of its value in the log, and of the flag of its weight.
        weight: the default.
        help: what it asks for, for the flag.
        of_interventions: whether it is of interventional values, of which observational data alone say nothing.
    """

    name: ClassVar[str]
    weight: float
    help: ClassVar[str]
    of_interventions: ClassVar[bool] = False

    def __init__(self, weight: float | None = None) -> None:
        super().__init__()
        if weight is not None:
            self.weight = weight

    def prepare(self, objective: EmbeddingObjective, encodings: EncodedDataset) -> bool:
        """Make what the term trains, if anything; false if there is nothing for it to do, so that it is left out."""
        return encodings.intervened or not self.of_interventions

    def forward(self, step: LatentStep) -> Tensor:
        """Its value for a batch, a scalar or (B,), float32, differentiable."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(step)")

    def values(self, step: LatentStep) -> Iterator[tuple[str, float, Tensor]]:
        """(name, weight, value) of what is added to the loss of a batch."""
        yield self.name, self.weight, self(step)
