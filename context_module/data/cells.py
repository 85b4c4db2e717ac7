"""Screens of perturbed cells, `--data cells`: an AnnData or h5ad files, a context for every perturbation."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL, SEPARATOR, Concepts
from context_module.data.cell_rows import CellRows, CountMatrix, FileMatrix, GeneMoments, variable_genes
from context_module.data.context_data import ContextData
from context_module.data.folders import split_names
from context_module.data.vectors import VectorContextDataset
from context_module.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["cells", "to_anndata"]

_SHOWN = 8


def cells(
    path: str | Path | Any,
    perturbation: str = "perturbation",
    control: str = "control",
    separator: str = SEPARATOR,
    layer: str | None = None,
    covariates: Iterable[str] = (),
    genes: int = 2000,
    min_cells: int = 10,
    columns: Sequence[str] | None = None,
) -> ContextData:
    """Counts of genes in cells: the control is ``obs``, single perturbations are trained on, combinations held out.

    Files are read as cells are asked for, where their matrix is dense or in rows of a sparse one (CSR). Genes are the
    `variable_genes`; a cell's library, the sum of its counts, is that of these.

    Args:
        path: an h5ad file, or several separated by commas, of the same genes; in Python an AnnData, too.
        perturbation: the column of ``obs`` that names every cell's perturbations.
        control: what it says of cells without any; among others it is passed over (``A+control`` is ``A``).
        separator: between the names of a combination.
        layer: where the raw counts are; ``X`` without.
        covariates: columns of ``obs``, such as a batch, that a base may take into account.
        genes: how many of them, at most.
        min_cells: perturbations and combinations with fewer cells are left out.
        columns: the names that a base has: these genes and covariates, in this order.

    Returns:
        ContextData; `left_out` says which cells, genes and perturbations do not take part.

    Raises:
        ImportError: without anndata.
        DataError: for a file that cannot be read, an unknown column or layer, no control, no perturbation with enough
            cells, values that are no counts, genes that differ between files or from the base's, or two genes of one
            name.
    """
    parts = _opened(path, layer)
    names = _gene_names(parts)
    wanted, known = _of_base(columns, split_names(covariates))
    places = [_places(part.names, wanted or names, part.said, wanted is not None) for part in parts]
    said = np.concatenate([part.column(perturbation) for part in parts])
    contexts = _contexts(said, control, separator)
    _check_control(contexts, said, perturbation, control)
    moments = GeneMoments([part.matrix for part in parts], places)
    left_out: list[str] = []
    if wanted is None:
        chosen = variable_genes(moments, genes)
        places = [place[chosen] for place in places]
        wanted = [names[number] for number in chosen]
        if empty := int((moments.sums == 0).sum()):
            left_out.append(f"{empty:,} genes without a count")
    library = _library(parts, places)
    if empty := int((library == 0).sum()):
        left_out.append(f"{empty:,} cells without a count")
    counts = Counter(name for name, total in zip(contexts, library, strict=True) if name is not None and total)
    kept = _kept(counts, min_cells, left_out)
    if unnamed := sum(name is None for name in contexts):
        left_out.append(f"{unnamed:,} cells of no named perturbation")
    coded, covariate_names = _covariates(parts, split_names(covariates), known)
    concepts = Concepts([name for name in kept if name != OBSERVATIONAL and SEPARATOR not in name])
    matrices = [part.matrix for part in parts]

    def part(some: Sequence[str]) -> VectorContextDataset | None:
        if not some:
            return None
        order = {name: label for label, name in enumerate(some)}
        labels = np.array([order.get(name or "", -1) if total else -1 for name, total in zip(contexts, library)])  # noqa: B905
        rows = np.flatnonzero(labels >= 0)
        table = CellRows(matrices, rows, places, coded[rows])
        return VectorContextDataset(
            table,
            torch.from_numpy(labels[rows]),
            some,
            concepts,
            columns=wanted,
            covariates=covariate_names,
            of_counts=True,
        )

    train = part([OBSERVATIONAL, *concepts])
    assert train is not None
    held_out = part([name for name in kept if SEPARATOR in name])
    return ContextData(train, held_out, left_out=tuple(left_out))


def to_anndata(
    samples: Mapping[str, Tensor], columns: Sequence[str], perturbation: str = "perturbation", control: str = "control"
) -> AnnData:
    """Generated rows as an AnnData, sparse: what was done to each cell stands in a column of ``obs``.

    Args:
        samples: rows (n, G) by context, as of ``{"A+B": model.generate(100, do="A+B")}``.
        columns: names of the genes, ``model.base.columns``.
        perturbation, control: name of the column, and what it says of ``obs``.

    Raises:
        ImportError: without anndata.
        DataError: for rows of another width.
    """
    anndata = _anndata()
    from scipy.sparse import csr_matrix

    for context, rows in samples.items():
        if rows.ndim != 2 or rows.shape[1] != len(columns):
            raise DataError(f"rows of {context!r} must be (n, {len(columns)}), got {tuple(rows.shape)}")
    said = [control if context == OBSERVATIONAL else context for context, rows in samples.items() for _ in rows]
    matrix = csr_matrix(torch.cat([rows.detach().float().cpu() for rows in samples.values()]).numpy())
    found: AnnData = anndata.AnnData(matrix)
    found.obs_names = [f"generated-{number}" for number in range(len(said))]
    found.var_names = list(columns)
    found.obs[perturbation] = said
    return found


class _Part:
    """One AnnData or file."""

    def __init__(self, said: str, table: Any, names: Sequence[str], matrix: CountMatrix | FileMatrix) -> None:
        self.said, self.table, self.names, self.matrix = said, table, [str(name) for name in names], matrix
        if repeated := [name for name, count in Counter(self.names).items() if count > 1]:
            raise DataError(f"{said} has several genes named {repeated[0]}: call var_names_make_unique() first")

    def column(self, name: str) -> np.ndarray:
        """A column of obs, as objects."""
        if name not in self.table:
            raise DataError(f"{self.said} has no column {name!r} in obs; it has {', '.join(self.table) or 'none'}")
        return self.table[name].astype(object).to_numpy()


def _anndata() -> Any:
    try:
        import anndata
    except ImportError as error:
        raise ImportError("data of cells needs anndata: pip install context-module[cells]") from error
    return anndata


def _opened(path: Any, layer: str | None) -> list[_Part]:
    anndata = _anndata()
    if isinstance(path, anndata.AnnData):
        if layer is not None and layer not in path.layers:
            raise DataError(f"the AnnData has no layer {layer!r}; its layers: {', '.join(path.layers) or 'none'}")
        return [_Part("the AnnData", path.obs, path.var_names, CountMatrix(path.layers[layer] if layer else path.X))]
    found = []
    for file in map(Path, str(path).split(",")):
        if not file.is_file():
            raise DataError(f"{file}: no such file; give path= an h5ad file, or several separated by commas")
        try:
            opened = anndata.read_h5ad(file, backed="r")
            table, names = opened.obs, opened.var_names
            opened.file.close()
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{file} cannot be read as an h5ad file: {error}") from None
        found.append(_Part(str(file), table, names, FileMatrix(file, f"layers/{layer}" if layer else "X")))
    return found


def _gene_names(parts: Sequence[_Part]) -> list[str]:
    first = parts[0]
    for other in parts[1:]:
        if differ := sorted(set(first.names) ^ set(other.names)):
            raise DataError(
                f"{first.said} and {other.said} do not have the same genes: {', '.join(differ[:_SHOWN])}, "
                f"{len(differ)} in all, are in one of them alone; take those that they share"
            )
    return first.names


def _of_base(
    columns: Sequence[str] | None, covariates: Sequence[str]
) -> tuple[list[str] | None, dict[str, list[str]] | None]:
    """The genes, and the values of every covariate, among the names that a base has."""
    if columns is None:
        return None, None
    values: dict[str, list[str]] = {name: [] for name in covariates}
    genes = []
    for column in columns:
        name, _, value = column.partition("=")
        if name in values:
            values[name].append(value)
        else:
            genes.append(column)
    return genes, values


def _places(names: Sequence[str], wanted: Sequence[str], said: str, of_base: bool) -> np.ndarray:
    where = {name: place for place, name in enumerate(names)}
    if missing := [name for name in wanted if name not in where]:
        hint = ""
        if of_base:
            hint = " that the base has: take data of its genes"
            hint += f", and give covariates={missing[0].partition('=')[0]}" if "=" in missing[0] else ""
        raise DataError(f"{said} has no {', '.join(missing[:_SHOWN])} ({len(missing)} in all){hint}")
    return np.array([where[name] for name in wanted])


def _contexts(said: np.ndarray, control: str, separator: str) -> list[str | None]:
    """The context of every cell, its concepts sorted; None where nothing is said."""
    known: dict[Any, str | None] = {}
    for value in dict.fromkeys(said.tolist()):
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        text = "" if missing else str(value).strip()
        parts = {word.strip() for word in text.split(separator)} - {control, ""}
        names = sorted(re.sub(r"[+\s/\\]+", "_", word) for word in parts)
        known[value] = None if not text else SEPARATOR.join(names) or OBSERVATIONAL
    return [known[value] for value in said.tolist()]


def _check_control(contexts: Sequence[str | None], said: np.ndarray, column: str, control: str) -> None:
    if OBSERVATIONAL not in contexts:
        common = ", ".join(repr(value) for value, _ in Counter(map(str, said)).most_common(_SHOWN))
        raise DataError(
            f"no cell is a control: the column {column!r} never says {control!r}; give control= one of its values, "
            f"such as {common}"
        )


def _library(parts: Sequence[_Part], places: Sequence[np.ndarray]) -> np.ndarray:
    """Counts (N,) of every cell on the chosen genes."""
    chunks = []
    for part, place in zip(parts, places, strict=True):
        for start in range(0, part.matrix.shape[0], 4096):
            rows = np.arange(start, min(start + 4096, part.matrix.shape[0]))
            chunks.append(part.matrix.read(rows)[:, place].sum(1))
    return np.concatenate(chunks)


def _kept(counts: Mapping[str, int], min_cells: int, left_out: list[str]) -> list[str]:
    """The contexts with enough cells, of perturbations that are seen alone, too."""
    few = {name for name, count in counts.items() if count < max(min_cells, 2)}
    if OBSERVATIONAL in few:
        raise DataError(f"the control has {counts[OBSERVATIONAL]} cells, it takes {max(min_cells, 2)} at least")
    singles = {name for name in counts if name != OBSERVATIONAL and SEPARATOR not in name and name not in few}
    if not singles:
        raise DataError(
            f"no perturbation alone has {max(min_cells, 2)} cells or more: lower min_cells, or give the separator of "
            "combinations"
        )
    unknown = {name for name in counts if SEPARATOR in name and not singles.issuperset(name.split(SEPARATOR))}
    notes = {f"with fewer than {max(min_cells, 2)} cells": few - unknown, "of perturbations never seen alone": unknown}
    for why, names in notes.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            left_out.append(f"{', '.join(sorted(names)[:_SHOWN])}{more} ({why})")
    return sorted(name for name in counts if name not in few | unknown)


def _covariates(
    parts: Sequence[_Part], columns: Sequence[str], known: Mapping[str, Sequence[str]] | None
) -> tuple[Tensor, list[str]]:
    """One-hot columns (N, C) and their names; those of a base, where one is given."""
    tables, names = [torch.zeros(sum(part.matrix.shape[0] for part in parts), 0)], []
    for column in columns:
        said = [str(value) for part in parts for value in part.column(column).tolist()]
        values = list(known[column]) if known is not None else sorted(set(said))
        if unknown := sorted(set(said) - set(values)):
            raise DataError(
                f"the base knows no {column}={unknown[0]}, only {', '.join(values) or 'none'}: leave such cells out"
            )
        numbers = torch.tensor([values.index(value) for value in said])
        tables.append(torch.nn.functional.one_hot(numbers, len(values)).float())
        names += [f"{column}={value}" for value in values]
    return torch.cat(tables, dim=1), names
