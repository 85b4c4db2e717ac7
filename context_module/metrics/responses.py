"""Vectors as distances see them, and answers to combinations that take no training: what a model has to beat.

All are of real observational rows c, of counts after ``log_normalised``, and of the mean changes d_k that single
perturbations made to them: *additive* is c + sum of d_k (Ahlmann-Eltze et al. 2025, "Deep-learning-based gene
perturbation effect prediction does not yet outperform simple linear baselines"); *linear* is that of changes of low
rank, shrunk towards their mean; the *mean response* is the same for every combination, c plus the mean of all d_k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.data import ContextDataset, log_normalised
from context_module.errors import DataError

__all__ = ["Responses", "expression"]

_PER_CONTEXT = 5000
_RANK, _RIDGE = 10, 0.1  # of the linear answer; the ridge in units of the mean squared weight


def expression(x: Tensor, data: ContextDataset) -> Tensor:
    """Rows (n, G) or (n, G + C) of vectors as distances see them, (n, G) float32 on the CPU."""
    values = x[:, : len(data.columns)].detach().float().cpu()  # type: ignore[attr-defined]
    return log_normalised(values.clamp_min(0)) if data.of_counts else values  # type: ignore[attr-defined]


class Responses:
    """Answers to perturbations that take no training, on the same data.

    Args:
        data: what was trained on; its observational context and those of single perturbations count.
        seed: of the observational rows that are changed.

    Raises:
        DataError: for data without observational rows, or of another kind.
    """

    def __init__(self, data: ContextDataset, seed: int = 0) -> None:
        if data.kind != "vectors":
            raise DataError(f"responses are of vectors, this data holds {data.kind}")
        names = data.context_names
        if OBSERVATIONAL not in names:
            raise DataError(f"no {OBSERVATIONAL!r} rows, the control, to compare perturbations with")
        self.concepts: Concepts = data.concepts
        self._seed = seed
        self.control = self._rows(data, OBSERVATIONAL)
        center = self.control.mean(0)
        self._changes = {name: self._rows(data, name).mean(0) - center for name in self.concepts if name in names}
        if not self._changes:
            raise DataError("no rows of single perturbations to add up")
        every = torch.stack(list(self._changes.values()))
        self._mean = every.mean(0)
        self._fitted = dict(zip(self._changes, _low_rank(every), strict=True))

    @staticmethod
    def _rows(data: ContextDataset, context: str) -> Tensor:
        return expression(data.batch(data.places(context, _PER_CONTEXT))["x"], data)

    def unchanged(self, n: int) -> Tensor:
        """n observational rows (n, G), drawn with replacement."""
        chosen = torch.randint(len(self.control), (n,), generator=torch.Generator().manual_seed(self._seed))
        return self.control[chosen]

    def additive(self, context: str, n: int) -> Tensor:
        """Observational rows plus the changes of all perturbations of a context."""
        return self.unchanged(n) + self._sum(self._changes, context)

    def linear(self, context: str, n: int) -> Tensor:
        """The same by changes of low rank, shrunk towards their mean."""
        names = self.concepts.parse(context)
        return self.unchanged(n) + (self._mean if names else 0) + self._sum(self._fitted, context)

    def mean_response(self, context: str, n: int) -> Tensor:
        """Observational rows plus the mean change of all perturbations."""
        return self.unchanged(n) + (self._mean if self.concepts.parse(context) else 0)

    def columns(self, context: str, n: int) -> dict[str, Tensor]:
        """All of them by name, n rows each."""
        return {name: getattr(self, name)(context, n) for name in ("additive", "linear", "mean_response")}

    def _sum(self, changes: dict[str, Tensor], context: str) -> Tensor:
        found = [changes[name] for name in self.concepts.parse(context) if name in changes]
        return torch.stack(found).sum(0) if found else torch.zeros_like(self._mean)


def _low_rank(changes: Tensor) -> Tensor:
    """Deviations (K, G) of changes from their mean, along their leading directions, as a ridge regression has them."""
    centred = changes - changes.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    rank = min(_RANK, len(s))
    return (u[:, :rank] * s[:rank]) @ v[:rank] / (1 + _RIDGE)
