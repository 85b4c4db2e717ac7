"""What an evaluation found: every figure with its interval, by context and in summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from context_module.metrics import CounterfactualConsistency, Estimate, average
from context_module.nn import CausalGraph, Edge

__all__ = ["ContextScores", "Evaluation", "Scores"]

# metric -> column -> figure; the columns are model, base and floor (concept accuracy: model and real)
Scores = dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class ContextScores:
    """Generated against real images of one context.

    Attributes:
        held_out: whether it is a composition that was never trained on.
        scores: of each metric, the figure of the ``model``; of the ``base``, which knows no contexts; and the
            ``floor``: of other real images of the same context. For concept accuracy ``real`` is the real images' own.
    """

    held_out: bool
    scores: Scores


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; None and ``{}`` stand for what was not asked for or does not apply.

    Attributes:
        samples: images compared per context, real and generated alike.
        seed: of the generated images and of the metrics.
        contexts: scores by the context's name.
        graph: what the model has learned of how concepts act on each other.
        true_edges: (cause, effect) pairs of the data's own graph, if that is known and `graph` was asked for.
        reconstruction: the negative ELBO as ``bits_per_pixel`` and ``bits_per_dimension``.
        counterfactual: how consistent counterfactuals are with the data's simulator.
        disentanglement: of the posterior means.
        downstream: what the posterior means are good for.
        skipped: metric -> why it does not apply here.
    """

    samples: int
    seed: int
    contexts: dict[str, ContextScores]
    graph: CausalGraph | None = None
    true_edges: tuple[Edge, ...] | None = None
    reconstruction: dict[str, Estimate] | None = None
    counterfactual: CounterfactualConsistency | None = None
    disentanglement: dict[str, Estimate] | None = None
    downstream: dict[str, Any] | None = None
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Scores]:
        """Means over contexts: ``concept`` over obs and single concepts, ``composition`` over what was held out."""
        parts = {
            name: [context.scores for context in self.contexts.values() if context.held_out == held_out]
            for name, held_out in (("concept", False), ("composition", True))
        }
        return {name: _mean(part) for name, part in parts.items() if part}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an estimate is ``{"value", "low", "high", "samples"}``."""
        return {
            "samples": self.samples,
            "seed": self.seed,
            "contexts": {
                name: {"held_out": context.held_out, **_plain(context.scores)}
                for name, context in self.contexts.items()
            },
            "summary": _plain(self.summary),
            "graph": self._plain_graph(),
            "reconstruction": _plain(self.reconstruction),
            "counterfactual": _plain(self.counterfactual),
            "disentanglement": _plain(self.disentanglement),
            "downstream": _plain(self.downstream),
            "skipped": self.skipped,
        }

    def _plain_graph(self) -> dict[str, Any] | None:
        """The learned graph, its edges, and where the true ones are known what separates the two."""
        if self.graph is None:
            return None
        found = {**self.graph.to_dict(), "edges": self.graph.edges()}
        if self.true_edges is not None:
            distance = self.graph.structural_hamming_distance(self.true_edges)
            found |= {"true_edges": self.true_edges, "structural_hamming_distance": distance}
            found |= self.graph.differences(self.true_edges)
        return found


def _mean(parts: list[Scores]) -> Scores:
    return {
        metric: {column: average([part[metric][column] for part in parts]) for column in columns}
        for metric, columns in parts[0].items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.to_dict() if hasattr(value, "to_dict") else value
