"""Penalties on the edges that a module learns: how strong they are, and how far from acyclic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from context_module.training.objectives.terms import LatentStep, Term

__all__ = ["Acyclicity", "Sparsity", "acyclicity"]


class EdgeTerm(Term):
    """A penalty on edges, as long as the graph is looked for: where it is given there is none."""

    def values(self, step: LatentStep) -> Iterator[tuple[str, float, Tensor]]:
        if step.module.config.graph is None:
            yield from super().values(step)


class Sparsity(EdgeTerm):
    """The sum of the intervention layer's edges: see `relative_norms`."""

    name = "sparsity"
    weight = 0.3
    help: ClassVar[str] = "the norms of the learned edges between blocks"

    def forward(self, step: LatentStep) -> Tensor:
        return step.edge_norms.sum()


class Acyclicity(EdgeTerm):
    """Zero if the edges make up an acyclic graph: see `acyclicity`.

    Around a cycle two concepts can carry one another's part of the picture, and an intervention on one cuts it.
    """

    name = "acyclicity"
    weight = 100.0
    help: ClassVar[str] = "a penalty on cycles of these edges (NOTEARS)"

    def forward(self, step: LatentStep) -> Tensor:
        return acyclicity(step.edge_norms)


def acyclicity(norms: Tensor) -> Tensor:
    """tr exp(N * N) - K of the norms N (K, K) of edges: zero for an acyclic graph, more for stronger cycles.

    Source: Zheng, Aragam, Ravikumar and Xing, 'DAGs with NO TEARS' (NeurIPS 2018).

    >>> acyclicity(torch.tensor([[0.0, 0.0], [2.0, 0.0]])).item()  # however strong, one edge is no cycle
    0.0
    >>> acyclicity(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).item() > 1
    True
    """
    with torch.autocast(norms.device.type, enabled=False):  # its matrix products are not for half precision
        return torch.matrix_exp(norms.float().square()).trace() - len(norms)
