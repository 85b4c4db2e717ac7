"""Images, texts or vectors, grouped by context: what every data set in this package is."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.data.labelled import LabelledDataset
from context_module.data.pictures import white_of
from context_module.errors import CheckpointError, DataError, ShapeError
from context_module.io import MappedArray

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = [
    "ArrayContextDataset",
    "ContextDataset",
    "JoinedContextDataset",
    "MappedImages",
    "joined_arguments",
]

_FINGERPRINTED = 2_000  # images that a fingerprint looks at
_CHUNK = 256  # images looked at at a time


class ContextDataset(LabelledDataset, ABC):
    """A map-style data set of images, each seen in one context.

    Item i is ``{"x": float32 (C, H, W) in [0, 1], "mask": bool (K,)}``; the default collate makes batches of it. A
    subclass stores the images and implements `image_shape` and `read`. Everything pickles, so worker processes may be
    spawned.

    Args:
        concepts: the K concept names, in order.
        context_names: the contexts present, as names; kept in this order, spelt canonically.
        labels: int (N,), per image the index of its context in `context_names`.
        factors: float (N, D), the true factors of every image, where known; `factor_names` names the D columns.

    Raises:
        ConceptError: for a context that names an unknown concept.
        DataError: for a repeated context, a label out of range, or a context without images.
        ShapeError: for factors that are not one row per image and one column per name.
    """

    def __init__(
        self,
        concepts: Iterable[str],
        context_names: Iterable[str],
        labels: Tensor | Sequence[int],
        factors: Tensor | None = None,
        factor_names: Iterable[str] = (),
    ) -> None:
        self.concepts = concepts if isinstance(concepts, Concepts) else Concepts(concepts)
        self.context_names = tuple(self.concepts.name(context) for context in context_names)
        if not self.context_names:
            raise DataError(
                f"a data set needs at least one context, for instance {self.concepts.training_contexts[0]!r}"
            )
        repeated = sorted({name for name in self.context_names if self.context_names.count(name) > 1})
        if repeated:
            raise DataError(
                f"contexts given more than once: {', '.join(repeated)}; pool their {self.kind} under one label"
            )
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self._rows = torch.arange(len(self.labels))  # where item i is stored; a subset is a view with other rows
        self._masks = self.concepts.mask(self.context_names)
        self._check_labels()
        self.factor_names = tuple(factor_names)
        expected = (len(self.labels), len(self.factor_names))
        if factors is not None and tuple(factors.shape) != expected:
            raise ShapeError(
                f"factors must have one row per {self.kind[:-1]} and one column per factor name, {expected}, "
                f"got {tuple(factors.shape)}"
            )
        self._factors = factors

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), the same for all images."""

    @property
    def factors(self) -> Tensor | None:
        """The true factors (N, D) of the images in order, or None where they are not known."""
        return None if self._factors is None else self._factors[self._rows]

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """The stored images of these numbers, int64 (n,), as float32 (n, C, H, W) in [0, 1]."""

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"x": self.read(self._rows[indices]), "mask": self._masks[self.labels[indices]]}

    def context_of(self, index: int) -> str:
        """The name of the context image `index` was seen in."""
        return self.context_names[int(self.labels[index])]

    def select(self, context: str | Iterable[str], n: int | None = None) -> Tensor:
        """The images of one context, or its first n, as one float32 tensor (n, C, H, W) in [0, 1].

        Raises:
            ConceptError: for an unknown concept.
            DataError: for a context that is not in this data set, or more images than it has.
        """
        name = self.concepts.name(context)
        found = self.places(name)
        if n is not None and not 0 < n <= len(found):
            raise DataError(f"cannot select {n} {self.kind} of context {name!r}: expected 1 to {len(found)}")
        return self.read(self._rows[found[:n]])

    def first(self, n: int) -> Tensor:
        """The first n images of every context, or all where it has fewer: one float32 tensor (m, C, H, W)."""
        return torch.cat([self.select(name, min(n, found)) for name, found in self.counts.items()])

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """A view of these images, in this order: the same type and contexts, no image copied.

        Raises:
            DataError: if a context is left without images.
        """
        indices = torch.as_tensor(indices, dtype=torch.int64)
        view = copy.copy(self)
        view.labels, view._rows = self.labels[indices], self._rows[indices]
        view._check_labels()
        return view

    def only(self, contexts: Iterable[str]) -> Self:
        """A view of the images of these contexts.

        Raises:
            ConceptError: for an unknown concept.
            DataError: for a context that is not in this data set.
        """
        chosen = [self._label_of(context) for context in contexts]
        order = torch.full((len(self.context_names),), -1)
        order[chosen] = torch.arange(len(chosen))
        kept = (order[self.labels] >= 0).nonzero().flatten()
        return self._relabelled(
            [self.context_names[label] for label in chosen], order[self.labels[kept]], self._rows[kept]
        )

    def of_concepts(self, concepts: Iterable[str]) -> Self:
        """A view of the images of contexts that intervene on none but these concepts, which are the view's own.

        Raises:
            ConceptError: for an unknown concept.
            DataError: if there is no such context.
        """
        kept = self.concepts.parse(concepts)
        contexts = [name for name in self.context_names if set(self.concepts.parse(name)) <= set(kept)]
        if not contexts:
            raise DataError(
                f"no {self.kind} of contexts of {', '.join(kept) or 'no concept'} alone; contexts here: "
                f"{', '.join(self.context_names)}"
            )
        view = self.only(contexts)
        view.concepts = Concepts(kept)
        view._masks = view.concepts.mask(view.context_names)
        return view

    def pooled(self) -> Self:
        """A view of all images as observational ones: what a model learns from that is not told of contexts."""
        return self._relabelled([OBSERVATIONAL], torch.zeros_like(self.labels), self._rows)

    def _relabelled(self, names: Sequence[str], labels: Tensor, rows: Tensor) -> Self:
        view = copy.copy(self)
        view.context_names, view._masks = tuple(names), self.concepts.mask(list(names))
        view.labels, view._rows = labels, rows
        view._check_labels()
        return view

    def joined(self, other: ContextDataset) -> ContextDataset:
        """A data set of these images and, after them, those of another, of other contexts; no image is copied.

        Raises:
            DataError: for a context that both have, or other concepts.
            ShapeError: for images of another shape.
        """
        return JoinedContextDataset(self, other)

    def split(self, val_fraction: float, seed: int = 0) -> tuple[Self, Self]:
        """Two disjoint views ``(train, val)``, the same fraction of every context in each; determined by the seed.

        Raises:
            DataError: for a fraction outside (0, 1), or a context of one image: each side gets at least one.
        """
        train, val = self.split_indices(val_fraction, seed)
        return self.subset(train), self.subset(val)

    def split_indices(self, val_fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
        """The numbers of the images on either side of `split`, int64, ascending; errors as there."""
        if not 0 < val_fraction < 1:
            raise DataError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
        train, val = [], []
        for label, name in enumerate(self.context_names):
            found = (self.labels == label).nonzero().flatten()
            if len(found) < 2:
                raise DataError(f"context {name!r} has one {self.kind[:-1]}, which cannot be split: add {self.kind}")
            n_val = min(max(round(val_fraction * len(found)), 1), len(found) - 1)
            shuffled = found[np.random.default_rng([seed, label]).permutation(len(found))]
            val.append(shuffled[:n_val])
            train.append(shuffled[n_val:])
        return torch.cat(train).sort().values, torch.cat(val).sort().values

    def fingerprint(self) -> str:
        """A hash of the images in order, whatever their contexts; views of others, or in another order, differ.

        It is of their number, shape and rows in the storage, and of the values of up to 2,000 evenly spaced images. In
        larger data sets it does not see that images between those were replaced, one for one.
        """
        count = min(len(self), _FINGERPRINTED)
        spaced = torch.arange(count) * (len(self) - 1) // max(count - 1, 1)
        digest = None
        for rows in self._rows[spaced].split(64):
            items = self.read(rows)
            if digest is None:
                digest = hashlib.sha256(f"{len(self)} {tuple(items.shape[1:])}".encode())
                digest.update(self._rows.numpy().tobytes())
            digest.update(items.numpy().tobytes())
        assert digest is not None  # no data set is empty
        return digest.hexdigest()[:32]

    def _label_of(self, context: str | Iterable[str]) -> int:
        return self._label(self.concepts.name(context))

    def _check_labels(self) -> None:
        if self.labels.ndim != 1 or (
            len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.context_names)
        ):
            raise DataError(
                f"labels must be one index per image into the {len(self.context_names)} contexts "
                f"{', '.join(self.context_names)}"
            )
        empty = [name for name, count in self.counts.items() if not count]
        if empty:
            raise DataError(
                f"no {self.kind} of context {', '.join(map(repr, empty))}: add some, or leave the context out"
            )


class ArrayContextDataset(ContextDataset):
    """A `ContextDataset` over images in memory, or in a memory-mapped file.

    Args:
        images: uint8 or bool (N, C, H, W): a tensor, an array, or `MappedImages`. White is 255 in uint8 and true in
            bool. Where the largest value of all is 1, they are masks whose 1 is white; a warning says so.
        labels, context_names, concepts, factors, factor_names: see `ContextDataset`.

    Raises:
        ShapeError: for images of another dtype or number of dimensions, or counts that differ.
    """

    def __init__(
        self,
        images: Tensor | np.ndarray | MappedImages,
        labels: Tensor | Sequence[int],
        context_names: Iterable[str],
        concepts: Iterable[str],
        factors: Tensor | None = None,
        factor_names: Iterable[str] = (),
    ) -> None:
        super().__init__(concepts, context_names, labels, factors, factor_names)
        self._images = images if isinstance(images, MappedImages) else torch.as_tensor(images)
        if self._images.dtype not in (torch.uint8, torch.bool) or len(self._images.shape) != 4:
            raise ShapeError(
                f"images must be uint8 or bool of shape (N, C, H, W), got {self._images.dtype} "
                f"{tuple(self._images.shape)}; from floats in [0, 1]: (images * 255).round().to(torch.uint8)"
            )
        if len(self._images) != len(self):
            raise ShapeError(f"{len(self._images)} images for {len(self)} labels: expected one each")
        chunks = (self._images[rows] for rows in torch.arange(len(self)).split(_CHUNK))
        self._white = 1 if self._images.dtype == torch.bool else white_of(chunks, "the images")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self._images.shape
        return channels, height, width

    def read(self, rows: Tensor) -> Tensor:
        return self._images[rows].float().div_(self._white)


class MappedImages(MappedArray):
    """Images in an NPY file, uint8 or bool (N, C, H, W), of which only those asked for are read into memory.

    Raises:
        DataError: for a file that is missing or truncated.
        ShapeError: for values of another type.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            super().__init__(path)
        except CheckpointError as error:
            raise DataError(f"{path} is no whole NPY file of images ({error}): remove it") from None
        if self._array.dtype not in (np.uint8, np.bool_):
            raise ShapeError(f"{path} holds {self._array.dtype}: expected uint8 or bool images of shape (N, C, H, W)")
        self.dtype = torch.bool if self._array.dtype == np.bool_ else torch.uint8


class JoinedContextDataset(ContextDataset):
    """The images of one data set and, after them, those of another: `ContextDataset.joined` makes it.

    Factors are known where both know the same ones.
    """

    def __init__(self, first: ContextDataset, second: ContextDataset) -> None:
        super().__init__(**joined_arguments(first, second))
        if first.image_shape != second.image_shape:
            raise ShapeError(f"images of {first.image_shape} cannot be joined with others of {second.image_shape}")
        self._parts = first, second

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._parts[0].image_shape

    def read(self, rows: Tensor) -> Tensor:
        first, second = self._parts
        images = torch.empty(len(rows), *self.image_shape)
        of_first = rows < len(first)
        for part, chosen, start in ((first, of_first, 0), (second, ~of_first, len(first))):
            if chosen.any():
                images[chosen] = part.read(part._rows[rows[chosen] - start])
        return images


def joined_arguments(first: ContextDataset, second: ContextDataset) -> dict[str, Any]:
    """The arguments of `ContextDataset` for the items of both; DataError for data of other concepts."""
    if first.concepts != second.concepts:
        raise DataError(
            f"data of concepts {', '.join(first.concepts)} cannot be joined with that of {', '.join(second.concepts)}"
        )
    factors = None
    if first.factors is not None and second.factors is not None and first.factor_names == second.factor_names:
        factors = torch.cat([first.factors, second.factors])
    return {
        "concepts": first.concepts,
        "context_names": [*first.context_names, *second.context_names],
        "labels": torch.cat([first.labels, second.labels + len(first.context_names)]),
        "factors": factors,
        "factor_names": first.factor_names if factors is not None else (),
    }
