"""Items, each of a context, that are read a batch at a time: what loaders and trainings take."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from context_module.contexts import Concepts, Kind
from context_module.errors import DataError

__all__ = ["LabelledDataset"]


class LabelledDataset(Dataset[dict[str, Tensor]]):
    """What the mixed-context loader asks of a data set: items with a ``mask``, and the context each belongs to.

    Attributes:
        kind: what the items are, or were made from.
        concepts: `Concepts`.
        context_names: canonical names, such as ``("obs", "quad1", "size")``.
        labels: int64 (N,), per item the index of its context in `context_names`.
    """

    kind: ClassVar[Kind] = "images"
    concepts: Concepts
    context_names: tuple[str, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The items of these numbers, int64 (B,), stacked: one read instead of many. A subclass writes it."""
        raise NotImplementedError(f"{type(self).__name__} has no batch(indices)")

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.batch(torch.tensor([index])).items()}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        # torch's loaders call this for a whole batch
        batch = self.batch(torch.as_tensor(indices))
        return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]

    @property
    def counts(self) -> dict[str, int]:
        """How many items each context has, by its name."""
        counts = self.labels.bincount(minlength=len(self.context_names)).tolist()
        return dict(zip(self.context_names, counts, strict=True))

    def places(self, context: str, most: int | None = None) -> Tensor:
        """The numbers of the items of a context, int64, ascending: all, or at most so many, evenly spaced.

        Raises:
            DataError: for a context that is not in this data set.
        """
        found = (self.labels == self._label(context)).nonzero().flatten()
        if most is None or len(found) <= most:
            return found
        return found[torch.linspace(0, len(found) - 1, most).long()]

    def _label(self, name: str) -> int:
        if name not in self.context_names:
            raise DataError(f"no {self.kind} of context {name!r}; contexts here: {', '.join(self.context_names)}")
        return self.context_names.index(name)
