"""How the changes of several concepts go together: which leads which, and what is taken out of one for another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from context_module.nn.config import Edge, ancestors_of
from context_module.nn.graph import CausalGraph

__all__ = ["EditComposition"]

_HALF = 0.5  # of what is taken out of an ancestor that is undecided,
_TWICE = 2.0  # where its edge has so many times the support of the reverse one


@dataclass(frozen=True)
class EditComposition:
    """What is known of pairs of K concepts, by their numbers. Of a pair one of the two holds, or neither.

    Attributes:
        leaders: of a concept those whose changes it starts from, without circles.
        cuts: of a concept the ones along whose directions a share of its change is taken out.
    """

    leaders: Mapping[int, frozenset[int]]
    cuts: Mapping[int, Mapping[int, float]]

    @classmethod
    def of(cls, names: Sequence[str], edges: Sequence[Edge], undecided: Tensor, order: Tensor) -> EditComposition:
        """From edges, undecided ones and orders, (K, K) with what follows in rows, both on the CPU."""
        leaders: dict[int, set[int]] = {}
        for first, then in CausalGraph(tuple(names), order, ()).acyclic_edges() if order.any() else ():
            leaders.setdefault(names.index(then), set()).add(names.index(first))
        causes, cuts = ancestors_of(edges, names), {}
        for j, cause in enumerate(names):
            open_ = (undecided[:, j] > 0) & (undecided[:, j] >= _TWICE * undecided[j])
            shares = dict.fromkeys(open_.nonzero().flatten().tolist(), _HALF)
            shares |= {k: 1.0 for k, effect in enumerate(names) if cause in causes[effect]}
            ordered = leaders.get(j, set()) | {k for k in shares if j in leaders.get(k, ())}
            cuts[j] = {k: share for k, share in shares.items() if k not in ordered}
        return cls({k: frozenset(found) for k, found in leaders.items()}, cuts)

    def levels(self, present: set[int]) -> list[list[int]]:
        """Concepts, those that none of the others leads at first."""
        levels = []
        while present:
            levels.append(sorted(k for k in present if not self.leaders.get(k, frozenset()) & present))
            present = present.difference(levels[-1])
        return levels

    def changes(
        self,
        edit: Callable[[Tensor, Tensor], Tensor],
        coordinates: Tensor,
        limit: Tensor,
        strengths: Tensor,
        rows: Tensor,
        concepts: Tensor,
    ) -> Tensor:
        """Changes (E, r) of concepts (E,) in rows (E,), each from where those that lead it have come to.

        Args:
            edit: the changes (E, r) from coordinates (E, r) of concepts (E,).
            coordinates: (B, r), observational ones.
            limit: (B, r), how far from zero changes lead, at most.
            strengths: (B, K), by which leading changes are multiplied.
        """
        start = coordinates[rows]
        if len(levels := self.levels(set(concepts.unique().tolist()))) == 1:
            return edit(start, concepts)
        places = concepts.new_full(strengths.shape, -1)
        places[rows, concepts] = torch.arange(len(rows), device=rows.device)
        result = torch.zeros_like(start)
        for here, level in enumerate(levels):
            now = torch.isin(concepts, concepts.new_tensor(level)).nonzero().flatten()
            within = torch.maximum(torch.minimum(start[now], limit[rows[now]]), -limit[rows[now]])
            result = result.index_copy(0, now, edit(within, concepts[now]).to(result.dtype))
            for j, k in itertools.product(level, itertools.chain(*levels[here + 1 :])):
                if j in self.leaders.get(k, ()):
                    both = ((places[:, j] >= 0) & (places[:, k] >= 0)).nonzero().flatten()
                    led = strengths[both, j, None] * result[places[both, j]]
                    start = start.index_add(0, places[both, k], led)
        return result

    def cut(
        self, change: Tensor, strengths: Tensor, rows: Tensor, concepts: Tensor, readers: Tensor, writers: Tensor
    ) -> Tensor:
        """Changes (E, r) of concepts (E,) in rows (E,), less what of them follows from others of a row.

        Args:
            strengths: (B, K); an intervention of strength 0.5 takes out half as much.
            readers, writers: (K, r, w_c) and (K, w_c, r), the concepts' directions.
        """
        present = concepts.unique().tolist()
        for j in present:
            for k, share in self.cuts[j].items():
                if k not in present:
                    continue
                cut = share * strengths[rows, k].clamp(0, 1) * (concepts == j)
                at = cut.nonzero().flatten()
                lost = cut[at, None] * (change[at] @ readers[k]) @ writers[k]
                change = change.index_add(0, at, -lost.to(change.dtype))
        return change
