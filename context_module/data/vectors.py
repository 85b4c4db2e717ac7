"""Vectors in contexts: rows of numbers with named columns, such as counts of transcripts in cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from context_module.contexts import Kind
from context_module.data.dataset import ContextDataset, joined_arguments
from context_module.errors import DataError, ShapeError

__all__ = ["TARGET_SUM", "VectorContextDataset", "VectorRows", "check_counts", "log_normalised"]

TARGET_SUM = 1e4  # counts of a row after normalisation, as in scanpy
_CHUNK = 4096


class VectorRows(Protocol):
    """Where rows come from: a tensor, or what reads only those that are asked for."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, G)."""

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The rows of these numbers, int64 (n,): (n, G)."""


def log_normalised(counts: Tensor) -> Tensor:
    """log(1 + 10,000 c / sum of c) of every row of counts (B, G): what distances between rows of counts go by.

    These are ``normalize_total`` and ``log1p`` of scanpy. A row without counts stays zero.

    >>> log_normalised(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))[1].tolist()
    [0.0, 0.0]
    """
    return (TARGET_SUM * counts / counts.sum(1, keepdim=True).clamp_min(1e-12)).log1p()


def check_counts(values: Tensor, what: str) -> None:
    """Raise DataError for values that are negative, fractional or not finite, and so no counts; names the first."""
    wrong = ~values.isfinite() | (values < 0) | (values != values.round())
    if wrong.any():
        raise DataError(
            f"{what} must be counts, whole numbers of at least 0, got {values[wrong][0].item():g}: take raw "
            "counts (of an AnnData often layer=counts), not normalised ones"
        )


class VectorContextDataset(ContextDataset):
    """A `ContextDataset` of vectors. Item i is ``{"x": float32 (G + C,), "mask": bool (K,)}``.

    Args:
        rows: (N, G + C), float or integer: a tensor or an array, or `VectorRows`.
        labels, context_names, concepts, factors, factor_names: see `ContextDataset`.
        columns: names of the first G numbers; ``x1``, ``x2``, ... without.
        covariates: names of the other C, one-hot, such as ``batch=2``: what a base may take into account, and neither
            generates nor is scored by.
        of_counts: whether the first G are counts; by default where they are integers.

    Raises:
        ShapeError: for rows that are no table, or of another number of columns.
        DataError: for columns of one name; for values that are not finite, or no counts where these are expected; for
            a row without any count.
    """

    kind: ClassVar[Kind] = "vectors"

    def __init__(
        self,
        rows: VectorRows,
        labels: Tensor | Sequence[int],
        context_names: Iterable[str],
        concepts: Iterable[str],
        factors: Tensor | None = None,
        factor_names: Iterable[str] = (),
        columns: Iterable[str] = (),
        covariates: Iterable[str] = (),
        of_counts: bool | None = None,
    ) -> None:
        super().__init__(concepts, context_names, labels, factors, factor_names)
        in_memory = isinstance(rows, Tensor) or type(rows).__module__ == "numpy"
        self._table: VectorRows = torch.as_tensor(rows) if in_memory else rows
        shape = tuple(self._table.shape)
        if len(shape) != 2 or shape[0] != len(self):
            raise ShapeError(f"vectors must be ({len(self)}, columns), a row for each label, got {shape}")
        self.covariates = tuple(covariates)
        self.columns = tuple(columns) or tuple(f"x{number + 1}" for number in range(shape[1] - len(self.covariates)))
        if len(self.columns) + len(self.covariates) != shape[1]:
            raise ShapeError(f"{shape[1]} numbers a row for {len(self.columns) + len(self.covariates)} names of them")
        if repeated := sorted({name for name in self.columns if self.columns.count(name) > 1}):
            raise DataError(f"columns named more than once: {', '.join(repeated[:5])}: make their names unique")
        whole = isinstance(self._table, Tensor) and not self._table.is_floating_point()
        self.of_counts = whole if of_counts is None else of_counts
        if in_memory:
            self._check_values()

    def _check_values(self) -> None:
        for rows in torch.arange(len(self)).split(_CHUNK):
            values = self.read(rows)[:, : len(self.columns)]
            if self.of_counts:
                check_counts(values, "the vectors")
                if len(empty := (values.sum(1) == 0).nonzero()):
                    raise DataError(f"row {int(rows[empty[0]])} has no count at all: leave empty rows out")
            elif not values.isfinite().all():
                raise DataError("the vectors hold values that are not finite: leave these rows out")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        raise DataError(
            "this data holds vectors, which have no image shape: use a base, or a method, of vectors (--base "
            "vector_vae; --method svae_plus)"
        )

    def read(self, rows: Tensor) -> Tensor:
        """The vectors of these numbers, float32 (n, G + C)."""
        return self._table[rows].float()

    def joined(self, other: ContextDataset) -> VectorContextDataset:
        if not isinstance(other, VectorContextDataset):
            raise DataError(f"vectors cannot be joined with {other.kind}")
        if (self.columns, self.covariates) != (other.columns, other.covariates):
            raise DataError("vectors of other columns cannot be joined: give both the same names in the same order")
        names: dict[str, Any] = {"columns": self.columns, "covariates": self.covariates, "of_counts": self.of_counts}
        return VectorContextDataset(_Both(self, other), **joined_arguments(self, other), **names)


class _Both:
    """The rows of one data set and, after them, those of another."""

    def __init__(self, *parts: VectorContextDataset) -> None:
        self._parts, self._size = parts, len(parts[0])
        self.shape = sum(map(len, parts)), len(parts[0].columns) + len(parts[0].covariates)

    def __getitem__(self, rows: Tensor) -> Tensor:
        found, first = torch.empty(len(rows), self.shape[1]), rows < self._size
        for part, chosen, start in zip(self._parts, (first, ~first), (0, self._size), strict=True):
            if chosen.any():
                found[chosen] = part.read(part._rows[rows[chosen] - start])
        return found
