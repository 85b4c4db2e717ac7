"""Rows of counts where they lie: in an AnnData, dense or sparse, or in an h5ad file, read as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from context_module.errors import DataError
from context_module.io import progress_bar

__all__ = ["CellRows", "CountMatrix", "FileMatrix", "GeneMoments", "variable_genes"]

_CHUNK = 2048
_BINS = 20
_TARGET = 1e4


class CountMatrix:
    """Counts of cells in memory, a dense array or a sparse matrix of scipy."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix.tocsr() if hasattr(matrix, "tocsr") else np.asarray(matrix)
        self.shape: tuple[int, int] = tuple(matrix.shape)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The counts (n, G) of these cells, dense."""
        found = self._matrix[rows]
        return found.toarray() if hasattr(found, "toarray") else found


class FileMatrix:
    """Counts in an h5ad file, dense or sparse; every process opens it for itself.

    Rows are read as they are asked for; a matrix that is sparse by columns, of which none can be read alone, is taken
    into memory.

    Args:
        path: the file.
        key: of the matrix in it, ``X`` or ``layers/NAME``.

    Raises:
        DataError: for a file without it.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self._opened: Any = None
        self.shape: tuple[int, int] = tuple(self._matrix.shape)

    @property
    def _matrix(self) -> Any:
        if self._opened is None:
            import h5py

            file = h5py.File(self.path, "r")
            if self.key not in file:
                layers = ", ".join(file["layers"]) if "layers" in file else ""
                raise DataError(f"{self.path} has no {self.key}; its layers: {layers or 'none'}")
            found = file[self.key]
            self._opened = _opened_sparse(found) if isinstance(found, h5py.Group) else found
        return self._opened

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The counts (n, G) of these cells, dense: each is read once, in the order of the file."""
        wanted, places = np.unique(rows, return_inverse=True)
        if not len(wanted):
            return np.zeros((0, self.shape[1]))
        # neighbours in one piece: a list of places is slow in HDF5
        whole = wanted[-1] - wanted[0] + 1 == len(wanted)
        found = self._matrix[slice(wanted[0], wanted[-1] + 1) if whole else wanted]
        dense: NDArray[Any] = found.toarray() if hasattr(found, "toarray") else np.asarray(found)
        return dense[places]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def _opened_sparse(group: Any) -> Any:
    """A sparse matrix of an h5ad file: what gives its rows, or in memory if it lies by columns."""
    shape = tuple(group.attrs.get("shape", group.attrs.get("h5sparse_shape")))
    by_columns = "csc" in str(group.attrs.get("encoding-type", group.attrs.get("h5sparse_format")))
    if not by_columns:
        return _RowsOfFile(group, shape)
    from scipy.sparse import csc_matrix

    return csc_matrix((group["data"][:], group["indices"][:], group["indptr"][:]), shape=shape).tocsr()


class _RowsOfFile:
    """The rows of a sparse matrix in a file, dense as they are read."""

    def __init__(self, group: Any, shape: tuple[int, ...]) -> None:
        self.shape, self._group, self._starts = shape, group, group["indptr"][:]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        found = np.zeros((len(numbers), self.shape[1]))
        # runs of neighbours are read in one piece each
        ends = np.flatnonzero(np.diff(numbers, append=numbers[-1] + 2) != 1) + 1
        for first, end in zip([0, *ends[:-1]], ends, strict=True):
            start, stop = self._starts[numbers[first]], self._starts[numbers[end - 1] + 1]
            counts = np.diff(self._starts[numbers[first] : numbers[end - 1] + 2])
            places = np.repeat(np.arange(first, end), counts)
            found[places, self._group["indices"][start:stop]] = self._group["data"][start:stop]
        return found


class CellRows:
    """Some cells of one matrix or several, and some of its genes, with covariates behind them: `VectorRows`.

    Args:
        matrices: one after the other, of the same genes.
        cells: int64 (N,), numbers of cells over all matrices.
        genes: for each matrix the places (G,) of the genes in it.
        covariates: (N, C), one-hot.
    """

    def __init__(
        self,
        matrices: Sequence[CountMatrix | FileMatrix],
        cells: NDArray[np.int64],
        genes: Sequence[NDArray[np.int64]],
        covariates: Tensor,
    ) -> None:
        self._matrices, self._cells, self._genes, self._covariates = tuple(matrices), cells, tuple(genes), covariates
        self._starts = np.cumsum([0, *(matrix.shape[0] for matrix in matrices)])
        self.shape = len(cells), len(genes[0]) + covariates.shape[1]

    def __getitem__(self, rows: Tensor) -> Tensor:
        cells = self._cells[rows.numpy()]
        found = np.empty((len(cells), len(self._genes[0])), np.float32)
        part = np.searchsorted(self._starts, cells, side="right") - 1
        for number in np.unique(part):
            chosen = part == number
            counts = self._matrices[number].read(cells[chosen] - self._starts[number])
            found[chosen] = counts[:, self._genes[number]]
        return torch.cat([torch.from_numpy(found), self._covariates[rows]], dim=1)


class GeneMoments:
    """What one pass over the counts tells: of every gene, and of every cell.

    Attributes:
        totals: (N,), counts of cells.
        sums: (G,), counts of genes.
        mean, variance: (G,), of counts after normalisation to 10,000 a cell.
    """

    def __init__(self, matrices: Sequence[CountMatrix | FileMatrix], genes: Sequence[NDArray[np.int64]]) -> None:
        count, width = sum(matrix.shape[0] for matrix in matrices), len(genes[0])
        self.totals, self.sums = np.zeros(count), np.zeros(width)
        first, second, done = np.zeros(width), np.zeros(width), 0
        for counts in _chunks(matrices, genes):
            totals = counts.sum(1)
            self.totals[done : done + len(counts)] = totals
            self.sums += counts.sum(0)
            normalised = counts * (_TARGET / np.maximum(totals, 1))[:, None]
            first += normalised.sum(0)
            second += np.square(normalised).sum(0)
            done += len(counts)
        full = max((self.totals > 0).sum(), 2)
        self.mean = first / full
        self.variance = np.maximum(second - full * np.square(self.mean), 0) / (full - 1)


def _chunks(
    matrices: Sequence[CountMatrix | FileMatrix], genes: Sequence[NDArray[np.int64]]
) -> Iterator[NDArray[np.float64]]:
    """The counts of all cells in order, so many at a time; DataError for what is no count."""
    total = sum(matrix.shape[0] for matrix in matrices)
    with progress_bar(total=total, desc="reading counts", unit="cell", disable=total <= _CHUNK) as bar:
        for matrix, places in zip(matrices, genes, strict=True):
            for start in range(0, matrix.shape[0], _CHUNK):
                counts = matrix.read(np.arange(start, min(start + _CHUNK, matrix.shape[0]))).astype(np.float64)
                wrong = ~np.isfinite(counts) | (counts < 0) | (counts != np.round(counts))
                if wrong.any():
                    raise DataError(
                        f"counts must be whole numbers of at least 0, got {counts[wrong][0]:g}: name the layer that "
                        "holds raw counts, layer=counts, or take a file that has them"
                    )
                yield counts[:, places]
                bar.update(len(counts))


def variable_genes(moments: GeneMoments, n: int) -> NDArray[np.int64]:
    """The n genes of the largest normalised dispersion, ascending: scanpy's ``highly_variable_genes``, flavor seurat.

    That is the logarithm of variance over mean, standardised among genes of a similar mean, in 20 bins of log(1 +
    mean). Genes without a count are never among them.
    """
    seen = np.flatnonzero(moments.sums > 0)
    mean, variance = moments.mean[seen], moments.variance[seen]
    dispersion = np.log(np.maximum(variance, 1e-12) / np.maximum(mean, 1e-12))
    level = np.log1p(mean)
    edges = np.linspace(level.min(), level.max(), _BINS + 1)[1:-1]
    bins, score = np.digitize(level, edges), np.empty(len(seen))
    for number in np.unique(bins):
        inside = bins == number
        center, spread = dispersion[inside].mean(), dispersion[inside].std(ddof=1) if inside.sum() > 1 else 0.0
        # a gene alone in its bin has a score of one, as in scanpy
        score[inside] = (dispersion[inside] - center) / spread if spread > 0 else 1.0
    order = np.argsort(-score, kind="stable")[:n]
    return np.sort(seen[order])
