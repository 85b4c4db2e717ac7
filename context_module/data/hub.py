"""Data sets of Hugging Face `datasets`, on disk or on the Hub, with a column that names each image's context."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL, SEPARATOR, Concepts
from context_module.data.context_data import ContextData
from context_module.data.dataset import ContextDataset
from context_module.data.folders import split_names, unified
from context_module.data.pictures import (
    ImageReader,
    Resolution,
    as_image,
    channels_of,
    check_channels,
    picture_pixels,
    white_of,
)
from context_module.errors import ConceptError, DataError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["HubContextDataset", "ImageColumn", "hub_dataset"]

T = TypeVar("T")

_LOOKED_AT = 1_000  # rows, to tell what a column holds


def hub_dataset(
    path: str | Path | Dataset | IterableDataset | Mapping[str, Dataset | IterableDataset],
    *,
    context_column: str = "context",
    image_column: str = "image",
    factor_columns: Iterable[str] = (),
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
    concepts: Iterable[str] | None = None,
    resolution: Resolution | None = None,
    channels: int | None = None,
    max_examples: int = 10_000,
) -> ContextData:
    """A data set of `datasets`: memory-mapped, its images decoded when read.

    Args:
        path: a folder written by ``save_to_disk``; a folder or file that ``load_dataset`` understands, such as images
            with a ``metadata.csv``, or Parquet; or the id of a data set on the Hub. With ``HF_HUB_OFFLINE=1`` only
            what is on disk or in the cache is found. In Python also a ``Dataset`` or an ``IterableDataset``, or splits
            of them by name; what is streamed is read now, and kept in memory as it comes, encoded.
        context_column: of context names, ``obs``, ``smile``, ``smile+glasses``, as text or a ``ClassLabel``.
        image_column: of images, or of arrays (H, W), (H, W, C) or (C, H, W), uint8 or floats in [0, 1].
        factor_columns: of numbers, the true factors of every image, as a list or separated by commas.
        split: the one to train on.
        name, revision: the configuration and the version, see ``load_dataset``.
        concepts: the concept names in order, as a list or separated by commas. Default: the contexts of one concept,
            sorted.
        resolution, channels: see `image_folders`. That there is colour, or that uint8 images are masks, is told from
            up to a thousand rows, evenly spaced.
        max_examples: of every split that is streamed, the first so many.

    Returns:
        ContextData: of the split, ``obs`` and the single concepts to train on, compositions held out. If there is
        another split ``test``, `test` has its images of the contexts trained on.

    Raises:
        DataError: for a data set that cannot be loaded, a missing split or column, a row without a context, no
            observational or single-concept context, an unreadable or unusable image.
        ConceptError: for a context name that is malformed or names no concept.
        ImportError: if `datasets` is not installed.
    """
    factor_names = split_names(factor_columns)
    if isinstance(path, str | Path):
        splits = _load(str(path), name, revision, split)
    else:
        columns = [context_column, image_column, *factor_names]
        splits = _given(path, split, columns, max_examples)
    if split not in splits:
        source = path if isinstance(path, str | Path) else "the data set"
        raise DataError(f"no split {split!r} in {source}; its splits: {', '.join(splits)}")
    train = _Split(splits[split], split, context_column, image_column, factor_names)
    known = _concepts_of(train.contexts, context_column, concepts)
    rows = train.rows_of_contexts(known)
    reader = train.images.reader(rows[OBSERVATIONAL][0], resolution, channels)

    training = {context: rows[context] for context in known.training_contexts if context in rows}
    held_out = {context: rows[context] for context in sorted(rows) if context not in training}
    test_part = None
    if "test" in splits and split != "test":
        test = _Split(splits["test"], "test", context_column, image_column, factor_names)
        test_rows = test.rows_of_contexts(known)
        tested = {context: test_rows[context] for context in training if context in test_rows}
        test_part = test.part(tested, known, reader) if tested else None
    return ContextData(
        train.part(training, known, reader), train.part(held_out, known, reader) if held_out else None, test_part
    )


class HubContextDataset(ContextDataset):
    """A `ContextDataset` over a column of images; `hub_dataset` makes it.

    Args:
        images: the column.
        rows: per context, its rows there.
        concepts: see `ContextDataset`.
        reader: brings images to one shape.
        factors, factor_names: see `ContextDataset`; a row per image, in the order of `rows`.
    """

    def __init__(
        self,
        images: ImageColumn,
        rows: Mapping[str, Sequence[int]],
        concepts: Iterable[str],
        reader: ImageReader,
        factors: Tensor | None = None,
        factor_names: Iterable[str] = (),
    ) -> None:
        counts = torch.tensor([len(numbers) for numbers in rows.values()])
        labels = torch.arange(len(rows)).repeat_interleave(counts)
        super().__init__(concepts, rows, labels, factors, factor_names)
        self._images, self._reader = images, reader
        self._numbers = torch.tensor([number for numbers in rows.values() for number in numbers])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._reader.shape

    def read(self, rows: Tensor) -> Tensor:
        numbers = self._numbers[rows].tolist()
        white = self._reader.white
        return torch.stack([self._reader.fit(self._images(row, white), self._images.source(row)) for row in numbers])


class ImageColumn:
    """Decodes the image of one row at a time. It pickles as the files that are mapped.

    Args:
        dataset: what to read from.
        split: what errors call it.
        column: of images or arrays.
    """

    def __init__(self, dataset: Dataset, split: str, column: str) -> None:
        import datasets

        self.split, self.column = split, column
        feature = dataset.features[column]
        images = dataset.select_columns(column)
        self._pictures = isinstance(feature, datasets.Image)
        if self._pictures:
            images = images.with_format(None)
            if not feature.decode:
                images = images.cast_column(column, datasets.Image(mode=feature.mode))
        else:
            inner = feature
            while hasattr(inner, "feature"):  # lists of lists
                inner = inner.feature
            dtype = str(getattr(inner, "dtype", ""))
            if dtype not in ("uint8", "bool") and not dtype.startswith("float"):
                raise DataError(
                    f"column {column!r} holds {feature}: expected images, or arrays of uint8, of bool or of floats in "
                    f"[0, 1]. Files or encoded images become images by cast_column({column!r}, datasets.Image())"
                )
            images = images.with_format("numpy", dtype=np.dtype(dtype))  # else integers come as int64
        self._images = images

    def source(self, row: int) -> str:
        return f"row {row} of split {self.split!r}"

    def __call__(self, row: int, white: int = 255) -> Tensor:
        """Float32 (1 or 3, H, W) in [0, 1]; `white` is what stands for 1 in uint8."""
        return as_image(self._pixels(row), self.source(row), white)

    def reader(self, row: int, resolution: Resolution | None, channels: int | None) -> ImageReader:
        """The reader for the column, with the size of the image in this row; see `ImageReader.of`."""
        rows = [row, *np.unique(np.linspace(0, len(self._images) - 1, _LOOKED_AT).round().astype(int)).tolist()]
        first = self(row)
        check_channels(channels)
        if channels is None:
            channels = channels_of(self._if_readable(row, lambda pixels: len(as_image(pixels, ""))) for row in rows)
        reader = ImageReader.like(first, resolution, channels)
        pixels = (self._if_readable(row, lambda pixels: pixels) for row in rows)
        return replace(reader, white=white_of(pixels, f"column {self.column!r}"))

    def _if_readable(self, row: int, what: Callable[[Any], T]) -> T | None:
        """Something of an image, or None if that cannot be read: it is said when it is needed."""
        try:
            return what(self._pixels(row))
        except DataError:
            return None

    def _pixels(self, row: int) -> Any:
        try:
            image = self._images[row][self.column]
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # a damaged image makes decoders raise nearly anything
            raise DataError(
                f"cannot read the image in {self.source(row)}, column {self.column!r}: {error}. Replace it or remove "
                "the row"
            ) from error
        if image is None:
            raise DataError(f"no image in {self.source(row)}, column {self.column!r}: add it or remove the row")
        return picture_pixels(image, self.source(row)) if self._pictures else image


class _Split:
    """A split: the context of every row as written, the column of images, and the factors (N, D) if any."""

    def __init__(
        self, dataset: Dataset, name: str, context_column: str, image_column: str, factor_columns: list[str]
    ) -> None:
        for column in (context_column, image_column, *factor_columns):
            if column not in dataset.column_names:
                raise DataError(
                    f"no column {column!r} in split {name!r}; its columns: {', '.join(dataset.column_names)}. "
                    "Name others by context_column, image_column and factor_columns"
                )
        self.name, self.context_column, self.factor_columns = name, context_column, factor_columns
        self.contexts = [unified(context) for context in _contexts(dataset, name, context_column)]
        self.images = ImageColumn(dataset, name, image_column)
        self.factors = _factors(dataset, name, factor_columns)

    def rows_of_contexts(self, concepts: Concepts) -> dict[str, list[int]]:
        """Per canonical context name its rows, in order."""
        canonical: dict[str, str] = {}
        rows: dict[str, list[int]] = {}
        for row, written in enumerate(self.contexts):
            if written not in canonical:
                try:
                    canonical[written] = concepts.name(written)
                except ConceptError as error:
                    where = f"row {row} of split {self.name!r}, column {self.context_column!r}"
                    raise ConceptError(f"{where}: {error}") from None
            rows.setdefault(canonical[written], []).append(row)
        return rows

    def part(self, rows: Mapping[str, list[int]], concepts: Concepts, reader: ImageReader) -> HubContextDataset:
        """The data set of these rows per context."""
        factors = None if self.factors is None else self.factors[list(itertools.chain(*rows.values()))]
        return HubContextDataset(self.images, rows, concepts, reader, factors, self.factor_columns)


def _load(path: str, name: str | None, revision: str | None, split: str) -> dict[str, Dataset]:
    """The splits there are."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("data sets of Hugging Face need datasets: pip install context-module[data]") from error
    local = Path(path)
    try:
        if any((local / written).is_file() for written in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(path)
        elif local.is_file():
            loaded = datasets.load_dataset(str(local.parent), name, data_files=local.name)
        else:
            loaded = datasets.load_dataset(path, name, revision=revision)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # of many kinds, from the network to the file format
        raise DataError(
            f"cannot load the data set {path!r}: {error}. Expected a folder written by save_to_disk, a folder of "
            "images with metadata.csv, a Parquet file, or the id of a data set on the Hub, which with HF_HUB_OFFLINE "
            "set must be in the cache"
        ) from error
    # a data set saved on its own may know which split it was
    return dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or split): loaded}


def _given(
    data: Dataset | IterableDataset | Mapping[str, Dataset | IterableDataset],
    split: str,
    columns: Sequence[str],
    max_examples: int,
) -> dict[str, Dataset]:
    """The splits of what is a data set, or several, already."""
    import datasets

    splits = dict(data) if isinstance(data, Mapping) else {str(data.split or split): data}
    for name, part in splits.items():
        if isinstance(part, datasets.IterableDataset):
            splits[name] = _read_stream(part, name, columns, max_examples)
        elif not isinstance(part, datasets.Dataset):
            raise DataError(
                f"split {name!r} is a {type(part).__name__}: expected a Dataset or an IterableDataset of datasets"
            )
    return splits


def _read_stream(stream: IterableDataset, split: str, columns: Sequence[str], max_examples: int) -> Dataset:
    """The first examples of a stream, of these columns alone, its images as they come, not decoded."""
    import datasets

    if max_examples < 1:
        raise DataError(f"max_examples must be at least 1, got {max_examples}")
    features = stream.features
    if features is not None:
        for column, feature in features.items():
            if isinstance(feature, datasets.Image):
                stream = stream.cast_column(column, datasets.Image(mode=feature.mode, decode=False))
    examples = list(stream.take(max_examples))
    if not examples:
        raise DataError(f"split {split!r} is a stream without examples")
    kept = [column for column in columns if column in examples[0]]
    features = stream.features and datasets.Features({name: stream.features[name] for name in kept})
    return datasets.Dataset.from_list([{name: row[name] for name in kept} for row in examples], features=features)


def _contexts(dataset: Dataset, split: str, column: str) -> list[str]:
    """The context of every row, as written."""
    import datasets

    feature = dataset.features[column]
    values: list[Any] = dataset.select_columns(column).with_format(None)[:][column]
    if isinstance(feature, datasets.ClassLabel):
        names = dict(enumerate(feature.names))  # unlabelled rows are None, or -1 by convention
        values = [names.get(value) for value in values]
    elif getattr(feature, "dtype", None) not in ("string", "large_string"):
        raise DataError(f"column {column!r} holds {feature}: expected context names, as strings or a ClassLabel")
    if None in values:
        raise DataError(
            f"no context in row {values.index(None)} of split {split!r}, column {column!r}: write {OBSERVATIONAL!r} "
            "for no intervention, or remove the row"
        )
    return values


def _concepts_of(contexts: list[str], column: str, concepts: Iterable[str] | None) -> Concepts:
    present = sorted(set(contexts))
    singles = [context for context in present if context != OBSERVATIONAL and SEPARATOR not in context]
    if OBSERVATIONAL not in present or not singles:
        lacking = "context of a single concept" if OBSERVATIONAL in present else f"context {OBSERVATIONAL!r}"
        raise DataError(f"no {lacking} in column {column!r}; contexts found: {', '.join(present) or 'none'}")
    try:
        return Concepts(singles if concepts is None else split_names(concepts))
    except ConceptError as error:
        raise ConceptError(f"column {column!r}: {error}") from None


def _factors(dataset: Dataset, split: str, columns: list[str]) -> Tensor | None:
    """Float32 (N, D), or None if there are no columns."""
    if not columns:
        return None
    table = dataset.select_columns(columns).with_format(None)[:]
    for column in columns:
        kind = str(getattr(dataset.features[column], "dtype", ""))
        if not kind.startswith(("int", "uint", "float", "bool")):
            raise DataError(f"column {column!r} holds {dataset.features[column]}: expected numbers for a factor")
    factors = np.array([table[column] for column in columns], dtype=np.float32).T  # None becomes NaN
    if not np.isfinite(factors).all():
        row, column = np.argwhere(~np.isfinite(factors))[0]
        raise DataError(f"no finite number in row {row} of split {split!r}, column {columns[column]!r}")
    return torch.from_numpy(np.ascontiguousarray(factors))
