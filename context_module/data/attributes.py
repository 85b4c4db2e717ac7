"""A folder of images and a table of binary attributes, as CelebA has: the attributes of an image say its context."""

from __future__ import annotations

import csv
import difflib
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TextIO, TypeVar

import numpy as np
import torch

from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.data.context_data import ContextData
from context_module.data.folders import FolderContextDataset, split_names, unified
from context_module.data.pictures import IMAGE_SUFFIXES, ImageReader, Resolution, without_unreadable
from context_module.errors import DataError

__all__ = ["PRESETS", "attributes"]

#: Concepts among CelebA's attributes, and the edges of the causal graph assumed among them: per cause, its effects.
#: From "Weakly Supervised Disentangled Generative Causal Representation Learning" (DEAR, JMLR 2022).
PRESETS: Mapping[str, tuple[tuple[str, ...], Mapping[str, tuple[str, ...]]]] = {
    "smile": (
        ("Smiling", "Male", "High_Cheekbones", "Mouth_Slightly_Open", "Narrow_Eyes", "Chubby"),
        {
            "Smiling": ("High_Cheekbones", "Mouth_Slightly_Open", "Narrow_Eyes", "Chubby"),
            "Male": ("Narrow_Eyes",),
        },
    ),
    "age": (
        ("Young", "Male", "Receding_Hairline", "Heavy_Makeup", "Chubby", "Bags_Under_Eyes"),
        {
            "Young": ("Receding_Hairline", "Heavy_Makeup", "Chubby", "Bags_Under_Eyes"),
            "Male": ("Receding_Hairline", "Heavy_Makeup"),
        },
    ),
}

_LABELS = {"-1": -1, "-1.0": -1, "0": 0, "0.0": 0, "1": 1, "1.0": 1}
_LABELS |= {spell(word): label for word, label in (("false", 0), ("true", 1)) for spell in (str, str.title, str.upper)}
_FIRST_FEW = 3
_MOST_COLUMNS, _LONGEST_COUNT = 10_000, 20

_Images = TypeVar("_Images", bound=Sized)


def attributes(
    root: str | Path,
    table: str | Path,
    *,
    concepts: Iterable[str] | None = None,
    preset: str | None = None,
    observational: bool = False,
    target: str | None = None,
    spurious: str | None = None,
    min_images: int = 2,
    resolution: Resolution | None = None,
    channels: int | None = None,
    skip_corrupt: bool = False,
) -> ContextData:
    """Images on disk, read when needed, each in the context of exactly those concepts that a table says it has.

    An image without any of the concepts is observational, one with one of them is in that concept's context, and one
    with more is in a composition, held out. So a context is a selection: it conditions on the absence of all other
    concepts, where an intervention would leave the others to their mechanisms.

    The table is a CSV with a header, whose first column, whatever its name, holds file names and whose other columns
    are binary attributes; or it is laid out as CelebA's own ``list_attr_celeba.txt``: a count, the names of the
    attributes, then rows separated by white space. Labels are 0 and 1, also written 0.0 and 1.0 or false and true, or
    they are -1 and 1 in the whole table. White space within an attribute's name is read as an underscore.

    Args:
        root: the folder of images; the table may name files in folders below it (``train/0001.png``). Images are
            read, scaled and cropped as by `image_folders`.
        table: the CSV or CelebA file.
        concepts: attributes to intervene on, in order, as a list or separated by commas. Default: all attributes.
        preset: concepts and graph by name, one of `PRESETS`: ``"smile"`` or ``"age"``, for CelebA's table.
        observational: all images are of one context, whatever they have of the concepts: for methods that learn from
            labels, which are the factors, and not from contexts.
        target, spurious: attributes, what is to be predicted and what only goes with it; see
            `context_module.metrics.downstream`.
        min_images: of a context. Compositions with fewer are left out, with a warning.
        resolution, channels, skip_corrupt: see `image_folders`.

    Returns:
        ContextData: the images of a context in the order of the table. Factors (N, D) are all attributes as 0 and 1.

    Raises:
        DataError: for a malformed table (named by line), a concept that is no column, files that are not in the
            folder, an observational or single-concept context of fewer than `min_images`, corrupt or unusable images.
        ConceptError: for an attribute that cannot name a concept.
        ImportError: if there are files other than NPY and pillow is not installed.
    """
    if min_images < 1:
        raise DataError(f"min_images must be at least 1, got {min_images}")
    graph = None
    if preset is not None:
        if preset not in PRESETS or concepts is not None:
            raise DataError(
                f"preset must be {' or '.join(map(repr, PRESETS))}, without concepts, got preset={preset!r} and "
                f"concepts={concepts!r}: give one of the two"
            )
        concepts, effects = PRESETS[preset]
        graph = tuple((cause, effect) for cause in effects for effect in effects[cause])
    root, table = Path(root), Path(table)
    names, columns, labels = _read_table(table)
    known = _concepts_among(columns, concepts, table)
    for name in (target, spurious):
        if name is not None:
            _concepts_among(columns, [name], table)
    _check_files(root, names, table)

    paths = [root / name for name in names]
    has = labels[:, [columns.index(name) for name in known]]
    found = {OBSERVATIONAL: np.arange(len(has))} if observational else _rows_of_contexts(has, known)
    groups = found if observational else _large_enough(found, known, min_images)
    files = {context: [paths[row] for row in rows] for context, rows in groups.items()}
    if skip_corrupt:
        files = without_unreadable(files)
        files = files if observational else _large_enough(files, known, min_images)
    reader = ImageReader.of(files, resolution, channels)
    row_of = {path: row for row, path in enumerate(paths)}

    def part(contexts: Sequence[str]) -> FolderContextDataset:
        of_part = {context: files[context] for context in contexts}
        rows = [row_of[path] for context in contexts for path in files[context]]
        return FolderContextDataset(of_part, known, reader, torch.from_numpy(labels[rows]).float(), columns)

    training = [context for context in files if context in known.training_contexts]
    compositions = [context for context in files if context not in training]
    small = len(found) - len(files)
    return ContextData(
        part(training),
        part(compositions) if compositions else None,
        graph=graph,
        target=target,
        spurious=spurious,
        left_out=(f"{small} compositions of fewer than {min_images} images",) if small else (),
    )


def _read_table(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """The file names (N), the attributes' names (D), and the labels int8 (N, D), 0 or 1."""
    if not path.is_file():
        raise DataError(f"no file {path}: expected a table of attributes, a CSV file or list_attr_celeba.txt")
    line_of: dict[str, int] = {}
    rows: list[np.ndarray] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _cells(file, path)
            line, header = next(lines, (1, []))
            columns = _columns(header, path, line)
            for line, cells in lines:
                if len(cells) != len(header):
                    raise DataError(f"{path}, line {line}: {len(cells)} cells, where the header has {len(header)}")
                if cells[0] in line_of:
                    raise DataError(f"{path}, line {line}: {cells[0]!r} is already on line {line_of[cells[0]]}")
                line_of[cells[0]] = line
                values = list(map(_LABELS.get, cells[1:]))
                if None in values:
                    bad = values.index(None)
                    raise _bad_label(path, line, columns[bad], cells[1 + bad])
                rows.append(np.array(values, dtype=np.int8))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no table of text ({error}): expected a CSV file or list_attr_celeba.txt") from None
    if not rows:
        raise DataError(f"{path}, line {line}: the table ends without a row for any image")
    labels = np.stack(rows)
    if (labels < 0).any():
        if not labels.all():
            row, column = np.argwhere(labels == 0)[0]
            raise _bad_label(path, list(line_of.values())[row], columns[column], "0")
        labels = (labels > 0).astype(np.int8)
    return list(line_of), columns, labels


def _cells(file: TextIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of every line that is not blank, the header first, with its number."""
    first = file.readline()
    if not first.strip().isdecimal() or len(first) > _LONGEST_COUNT:
        reader = csv.reader(itertools.chain([first], file), skipinitialspace=True)
        yield from ((reader.line_num, cells) for cells in reader if cells not in ([], [""]))
        return
    yield 2, ["", *file.readline().split()]  # CelebA's header does not name the column of files
    count = 0
    for line, text in enumerate(file, 3):
        if cells := text.split():
            count += 1
            yield line, cells
    if count != int(first):
        raise DataError(f"{path} has {count} rows, where its first line says {int(first)}: is the file complete?")


def _columns(header: list[str], path: Path, line: int) -> list[str]:
    columns = ["_".join(unified(name).split()) for name in header[1:]]
    if not columns:
        raise DataError(
            f"{path}, line {line}: no attributes: expected a column of file names and one for each attribute, with "
            "commas between"
        )
    if len(columns) > _MOST_COLUMNS:
        raise DataError(f"{path}, line {line}: {len(columns):,d} columns: expected no more than {_MOST_COLUMNS:,d}")
    repeated = sorted(name for name, count in Counter(columns).items() if count > 1)
    if repeated or "" in columns:
        raise DataError(
            f"{path}, line {line}: every attribute needs a name of its own, got "
            f"{f'more than one {repeated[0]!r}' if repeated and repeated[0] else 'one without a name'}"
        )
    return columns


def _bad_label(path: Path, line: int, column: str, cell: str) -> DataError:
    return DataError(
        f"{path}, line {line}, column {column!r}: {cell!r} is no binary label here: expected 0 and 1, or -1 and 1 in "
        "the whole table. Correct it, or remove columns that are no attributes"
    )


def _concepts_among(columns: list[str], concepts: Iterable[str] | None, table: Path) -> Concepts:
    names = columns if concepts is None else ["_".join(name.split()) for name in split_names(concepts)]
    for name in names:
        if name not in columns:
            close = difflib.get_close_matches(name, columns, n=1)
            hint = f". Did you mean {close[0]!r}?" if close else ""
            raise DataError(f"no column {name!r} in {table}; its columns: {', '.join(columns)}{hint}")
    return Concepts(names)


def _check_files(root: Path, names: list[str], table: Path) -> None:
    """Compares the table with what is in the folder, which is listed instead of asked for each of many files."""
    if not root.is_dir():
        raise DataError(f"no folder {root}: expected the one that holds the images of {table}")
    if outside := [name for name in names if os.path.isabs(name) or os.path.normpath(name).startswith("..")]:
        raise DataError(
            f"{table} names files outside {root}, such as {outside[0]!r}: its first column must hold paths in that "
            "folder"
        )
    named = set(names)
    found = set()
    for folder in sorted({"", *map(os.path.dirname, named)}):
        if (root / folder).is_dir():
            with os.scandir(root / folder) as entries:
                visible = [entry.name for entry in entries if entry.name[0] != "." and entry.is_file()]
            found |= {f"{folder}/{name}" if folder else name for name in visible}
    if missing := [name for name in names if name not in found]:
        raise DataError(
            f"{len(missing)} of the {len(names)} files in {table} are not in {root}: "
            f"{', '.join(map(repr, missing[:_FIRST_FEW]))}{', ...' if len(missing) > _FIRST_FEW else ''}; the table's "
            "first column must hold paths from that folder, with their endings"
        )
    if unnamed := [name for name in found - named if name.lower().endswith(IMAGE_SUFFIXES)]:
        warnings.warn(
            f"ignored {len(unnamed)} images in {root} that are not in {table}, the first one {min(unnamed)}",
            stacklevel=3,
        )


def _rows_of_contexts(has: np.ndarray, concepts: Concepts) -> dict[str, np.ndarray]:
    """Per context its rows among the labels (N, K) of the concepts; fewer concepts first, then in their order."""
    kinds, kind_of, counts = np.unique(has, axis=0, return_inverse=True, return_counts=True)
    rows = np.split(np.argsort(kind_of.reshape(-1), kind="stable"), np.cumsum(counts)[:-1])
    order = sorted(range(len(kinds)), key=lambda kind: (kinds[kind].sum(), (-kinds[kind]).tolist()))
    return {concepts.name(torch.from_numpy(kinds[kind])): rows[kind] for kind in order}


def _large_enough(groups: dict[str, _Images], concepts: Concepts, min_images: int) -> dict[str, _Images]:
    """The contexts of at least `min_images`; all that are to be trained on must be."""
    counts = {context: len(images) for context, images in groups.items()}
    lacking = [context for context in concepts.training_contexts if counts.get(context, 0) < min_images]
    if lacking:
        found = ", ".join(f"context {context!r} has {counts.get(context, 0)}" for context in lacking)
        raise DataError(
            f"too few images: {found}, expected at least {min_images} with just that one of the concepts "
            f"{', '.join(concepts)} ({OBSERVATIONAL!r}: with none). Choose fewer or other concepts, or lower "
            "min_images"
        )
    small = [context for context in groups if counts[context] < min_images]
    if small:
        warnings.warn(
            f"left out {len(small)} compositions of fewer than {min_images} images: {', '.join(small[:_FIRST_FEW])}"
            f"{', ...' if len(small) > _FIRST_FEW else ''}",
            stacklevel=3,
        )
    return {context: images for context, images in groups.items() if counts[context] >= min_images}
