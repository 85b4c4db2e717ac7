"""How strongly each concept acts on another, by what a model has learned, beside the true graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from context_module.metrics.case import Case
from context_module.metrics.metric import Figure, WholeMetric
from context_module.nn import CausalGraph, Edge

__all__ = ["METRIC", "GraphScores"]


@dataclass(frozen=True)
class GraphScores:
    """A learned graph, and the true one.

    Attributes:
        graph: what the model has learned of how concepts act on each other.
        true_edges: (cause, effect) pairs of the data's own graph, if that is known.
    """

    graph: CausalGraph
    true_edges: tuple[Edge, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the graph, its edges, and where the true ones are known what separates the two."""
        found = {**self.graph.to_dict(), "edges": self.graph.edges()}
        if self.true_edges is not None:
            distance = self.graph.structural_hamming_distance(self.true_edges)
            found |= {"true_edges": self.true_edges, "structural_hamming_distance": distance}
            found |= self.graph.differences(self.true_edges)
        return found


def _score(case: Case) -> GraphScores:
    graph: CausalGraph = case.subject.graph(seed=case.seed)  # type: ignore[attr-defined]
    if case.data.graph is None:
        return GraphScores(graph)
    # what concept packs add has no edges
    return GraphScores(graph, tuple(edge for edge in case.data.graph if set(graph.concepts).issuperset(edge)))


METRIC = WholeMetric(
    name="graph",
    figure=Figure(
        "Learned graph",
        "",
        "How strongly the context module lets one concept act on another: how far an intervention on the one moves "
        "the decoder inputs through that edge alone, in their own standard deviations. Edges count, and are drawn, "
        "from a fifth of the strongest one's strength, and not below 0.01.",
    ),
    asks=("graph",),
    score=_score,
)
