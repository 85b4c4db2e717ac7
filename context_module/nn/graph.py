"""The learned causal graph among concepts: how strong each edge is, and how far it is from the true one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from context_module.errors import ConceptError, ShapeError
from context_module.nn.config import Edge
from context_module.normal import draw_normal

if TYPE_CHECKING:
    import networkx

    from context_module.nn.module import ContextModule

__all__ = ["CausalGraph", "learned_graph"]

_NEGLIGIBLE = 0.01  # of standard deviations
_PROJECTIONS = 100
_FEW = 32  # concepts of which every possible edge is looked at
_LIKELY = 16  # of more, so many for each concept


@dataclass(frozen=True, eq=False)
class CausalGraph:
    """A weighted directed graph of concepts.

    Where a method takes a `threshold`, an edge counts if it is at least this share, in [0, 1], of the strongest one;
    below a strength of 0.01 it never does: the strongest may be nothing itself.

    Attributes:
        concepts: the K names.
        strengths: (K, K), float, 0 or more; entry [i, j] is how strongly concept j acts on concept i (see
            `learned_graph`). The diagonal is not read.
        undecided: (cause, effect) pairs that the data neither support nor rule out; they are no edges. None where
            edges count by their share of the strongest one's strength.

    Raises:
        ShapeError: for strengths of another shape.

    >>> strengths = torch.tensor([[0.0, 0.9, 0.0], [0.3, 0.0, 0.0], [0.5, 0.0, 0.0]])  # effects in rows
    >>> graph = CausalGraph(("a", "b", "c"), strengths)
    >>> graph.edges()
    (('b', 'a'), ('a', 'c'), ('a', 'b'))
    >>> graph.acyclic_edges()  # without a -> b, the weaker of the two between a and b
    (('b', 'a'), ('a', 'c'))
    >>> graph.structural_hamming_distance([("b", "a"), ("c", "a")])  # a -> b is too many, c -> a the wrong way round
    2
    """

    concepts: tuple[str, ...]
    strengths: Tensor
    undecided: tuple[Edge, ...] | None = None

    def __post_init__(self) -> None:
        size = len(self.concepts)
        if tuple(self.strengths.shape) != (size, size):
            raise ShapeError(f"strengths must have shape ({size}, {size}), got {tuple(self.strengths.shape)}")

    def edges(self, threshold: float = 0.2) -> tuple[Edge, ...]:
        """(cause, effect) pairs, the strongest first; none if no concept acts on another.

        Raises:
            ValueError: for a threshold outside [0, 1].
        """
        return tuple(edge for edge, _ in self._weighted(threshold))

    def acyclic_edges(self, threshold: float = 0.2) -> tuple[Edge, ...]:
        """The same edges without those that would close a cycle of stronger ones.

        Raises:
            ValueError: for a threshold outside [0, 1].
        """
        kept: list[Edge] = []
        ancestors = {name: {name} for name in self.concepts}
        for cause, effect in self.edges(threshold):
            if effect in ancestors[cause]:
                continue
            kept.append((cause, effect))
            for known in ancestors.values():
                if effect in known:
                    known |= ancestors[cause]
        return tuple(kept)

    def to_networkx(self, threshold: float = 0.2) -> networkx.DiGraph:
        """The graph with all K concepts as nodes, and its edges with their ``strength``.

        Raises:
            ImportError: if networkx is not installed; torch depends on it.
        """
        try:
            import networkx
        except ModuleNotFoundError as error:
            if error.name != "networkx":
                raise
            raise ImportError(
                "this needs networkx, which torch depends on and is missing here: pip install networkx"
            ) from None
        graph = networkx.DiGraph()
        graph.add_nodes_from(self.concepts)
        graph.add_weighted_edges_from(
            ((*edge, strength) for edge, strength in self._weighted(threshold)), weight="strength"
        )
        return graph

    def differences(self, true_edges: Iterable[Edge], threshold: float = 0.2) -> dict[str, tuple[Edge, ...]]:
        """What separates this graph from the true one.

        Args:
            true_edges: (cause, effect) pairs.
            threshold: see the class.

        Returns:
            The edges ``missing`` here, those that are ``extra`` here, and those that are ``reversed`` here, as they
            are in truth; an edge counts as one of these only.

        Raises:
            ConceptError: for an edge between unknown concepts.
        """
        true, learned = dict.fromkeys(true_edges), self.edges(threshold)
        if unknown := sorted({name for edge in true for name in edge} - set(self.concepts)):
            raise ConceptError(
                f"unknown concepts in the true edges: {', '.join(unknown)}; the graph's are {', '.join(self.concepts)}"
            )
        reverse = [edge for edge in true if edge not in learned and edge[::-1] in learned and edge[::-1] not in true]
        missing = [edge for edge in true if edge not in learned and edge not in reverse]
        extra = [edge for edge in learned if edge not in true and edge[::-1] not in reverse]
        return {"missing": tuple(missing), "extra": tuple(extra), "reversed": tuple(reverse)}

    def structural_hamming_distance(self, true_edges: Iterable[Edge], threshold: float = 0.2) -> int:
        """The number of edges to add, to take away or to turn round to reach the true graph; see `differences`."""
        return sum(map(len, self.differences(true_edges, threshold).values()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``strengths`` has a row for each effect and a column for each cause."""
        found: dict[str, Any] = {"concepts": list(self.concepts), "strengths": self.strengths.tolist()}
        return found if self.undecided is None else found | {"undecided": list(self.undecided)}

    def _weighted(self, threshold: float) -> list[tuple[Edge, float]]:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a share of the strongest edge: it must lie in [0, 1], got {threshold}")
        strengths, names = self.strengths.tolist(), self.concepts
        found = [
            ((cause, effect), strengths[i][j])
            for i, effect in enumerate(names)
            for j, cause in enumerate(names)
            if i != j and strengths[i][j] >= _NEGLIGIBLE
        ]
        found.sort(key=lambda item: -item[1])
        if self.undecided is not None:  # each has been weighed by itself
            return found
        return [item for item in found if item[1] >= threshold * found[0][1]]


@torch.no_grad()
def learned_graph(module: ContextModule, samples: int = 1000, seed: int = 0) -> CausalGraph:
    """The graph that a context module has learned, by how far interventions reach along its edges.

    The strength of j -> i is a distance between decoder inputs under do(j): those in which what i gets from j is drawn
    as under do(j), and those in which it is drawn as without an intervention, independently of all else (as for the
    edges that Janzing et al. 2013, 'Quantifying causal influences', cut). It is the sliced Wasserstein distance, in
    standard deviations of observational decoder inputs (the root sum over the latent's elements), and does not depend
    on the scale of concept values. What an edge carries whether or not there is an intervention does not count: it
    says how blocks share observational noise, not what causes what.

    Of more than 32 concepts only the likeliest edges are measured, 16 times as many as concepts, by how far they reach
    through the linear part of the inversion layer; the others count as none.

    Args:
        module: in eval mode; its weights stay as they are.
        samples: draws of noise; each possible edge takes two passes of so many through the inversion layer.
        seed: of the noise.

    Raises:
        ValueError: for fewer than two samples.
    """
    if samples < 2:
        raise ValueError(f"a graph's strengths are distances between samples: at least 2 are needed, got {samples}")
    names, generator = tuple(module.config.concepts), torch.Generator().manual_seed(seed)
    noise, other = (module.sample_noise(samples, generator=generator) for _ in range(2))
    mask = torch.zeros(samples, len(names), dtype=torch.bool, device=noise.device)
    observed = module(noise, mask).flatten(1).float()
    directions = draw_normal(observed.new_empty(observed.shape[1], _PROJECTIONS), generator)
    # the reduced form's effects are total ones, of exogenous values
    values = module.exogenous if module.config.form == "reduced" else module.concepts
    unforced = values(other, mask)

    def changes(j: int) -> tuple[Tensor, Tensor]:
        """Of all blocks under do(j), (B, K+F, w_c), with what j sends drawn as under it and as without."""
        intervened = mask.clone()
        intervened[:, j] = True
        sent = _sent(module, values(noise, intervened), j, intervened=True)
        # the same noise behind both: an edge that an intervention does not change has a strength of exactly zero
        return (
            _sent(module, values(other, intervened), j, intervened=True) - sent,
            _sent(module, unforced, j, intervened=False) - sent,
        )

    likely = ~torch.eye(len(names), dtype=torch.bool)
    if len(names) > _FEW:
        reach = torch.stack([_reach(module, *changes(j)) for j in range(len(names))], dim=1) * likely
        likely = (reach >= reach.flatten().topk(_LIKELY * len(names)).values[-1]) & (reach > 0)
    distances = torch.zeros(len(names), len(names))
    for j in range(len(names)):
        effects = likely[:, j].nonzero().flatten().tolist()
        if not effects:
            continue
        intervened = mask.clone()
        intervened[:, j] = True
        concepts, both = module.concepts(noise, intervened), changes(j)
        for i in effects:
            forced, usual = (_sorted_along(directions, module, concepts, i, change[:, i]) for change in both)
            distances[i, j] = (forced - usual).square().mean()
    total = observed.var(0, correction=0).sum().cpu().clamp_min(torch.finfo(torch.float32).tiny)
    return CausalGraph(names, (distances / total).sqrt())


def _reach(module: ContextModule, forced: Tensor, usual: Tensor) -> Tensor:
    """How far two changes of all blocks, (B, K+F, w_c) each, are apart in decoder inputs: (K,), of each concept alone.

    As the linear map sees it, draw by draw: a distance between samples is at most that.
    """
    width, count = module.config.concept_width, len(module.config.concepts)
    apart = (forced - usual)[:, :count].float()
    weight = module.inversion.linear.weight.float().unflatten(1, (-1, width))[:, :count]
    gram = torch.einsum("dkw,dkv->kwv", weight, weight)
    return torch.einsum("bkw,kwv,bkv->k", apart, gram, apart).cpu() / len(apart)


def _sent(module: ContextModule, values: Tensor, cause: int, *, intervened: bool) -> Tensor:
    """What block `cause` of values (B, K+F, w_c) adds to all blocks: (B, K+F, w_c)."""
    effects = module.intervention.effects_of(cause, intervened=intervened)
    return (values[:, cause] @ effects).unflatten(1, (-1, module.config.concept_width))


def _sorted_along(directions: Tensor, module: ContextModule, concepts: Tensor, block: int, change: Tensor) -> Tensor:
    """Decoder inputs along each direction (B, P), in order, where the values of one block are changed."""
    concepts = concepts.clone()
    concepts[:, block] += change
    return (module.inversion(concepts.flatten(1)).flatten(1).float() @ directions).sort(0).values
