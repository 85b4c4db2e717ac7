"""From the value of a concept, such as a size of 0.7, to the block of concept values that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from context_module.errors import CheckpointError, ConceptError

__all__ = ["ValueMap", "ValueMaps"]

_BEYOND = 0.01  # a share of the range: values so little outside it are taken as its end, that round ones can be asked


class ValueMap(nn.Module):
    """A table of one concept: numbers (n,) to the concept values (n, w_c) of the entry whose number is closest.

    It does not interpolate: between the blocks of two pictures may lie one that shows neither.

    Attributes:
        numbers: (k,), ascending.
        blocks: (k, w_c), the concept values that show them.
    """

    numbers: Tensor
    blocks: Tensor

    def __init__(self, numbers: Tensor, blocks: Tensor) -> None:
        super().__init__()
        self.register_buffer("numbers", numbers.float())
        self.register_buffer("blocks", blocks.float())

    def forward(self, numbers: Tensor) -> Tensor:
        return self.blocks[self.closest(numbers)]

    def closest(self, numbers: Tensor) -> Tensor:
        """The entries, int64 (n,), that numbers (n,) are closest to."""
        between = (self.numbers[1:] + self.numbers[:-1]) / 2
        return torch.searchsorted(between, numbers.to(between).contiguous())

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest number."""
        return self.numbers[0].item(), self.numbers[-1].item()


class ValueMaps(nn.Module):
    """The maps of a model's concepts, by name; saved with the model.

    Args:
        maps: by the concept's name, in the order of the concepts; none where the training data carried no values.
    """

    def __init__(self, maps: Mapping[str, ValueMap]) -> None:
        super().__init__()
        self.concepts = tuple(maps)
        self.maps = nn.ModuleList(maps.values())  # by number: a concept may be called as a method is

    @classmethod
    def from_dict(cls, sizes: object, concepts: Sequence[str], width: int) -> ValueMaps:
        """Maps yet to be loaded, of the `sizes` in a saved configuration; CheckpointError for anything else."""
        if not isinstance(sizes, dict) or not all(
            name in concepts and isinstance(size, int) and size > 0 for name, size in sizes.items()
        ):
            raise CheckpointError(
                f"value_maps must be the sizes of maps of some of the concepts {', '.join(concepts)}, got {sizes!r}"
            )
        ordered = {name: sizes[name] for name in concepts if name in sizes}  # JSON sorts its keys
        return cls({name: ValueMap(torch.zeros(size), torch.zeros(size, width)) for name, size in ordered.items()})

    @property
    def sizes(self) -> dict[str, int]:
        """Of every concept with a map, its number of entries."""
        return {name: len(table.numbers) for name, table in self._named().items()}

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of every concept with a map, the smallest and the largest value it can be set to."""
        return {name: table.range for name, table in self._named().items()}

    def forward(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Concept values (n, w_c) of the values (n,) that concepts are to be set to, by name.

        Raises:
            ConceptError: for a concept without a map, or a value outside the range seen in training.
        """
        maps, blocks = self._named(), {}
        for name, numbers in values.items():
            if name not in maps:
                known = f"; it did for {', '.join(maps)}" if maps else ""
                raise ConceptError(
                    f"{name!r} cannot be set to a value: the training data carried no values for it{known}. Intervene "
                    f"without a value, or fit_values(model, dataset) with a factor named {name!r}"
                )
            low, high = maps[name].range
            slack = _BEYOND * (high - low)
            if (outside := numbers[(numbers < low - slack) | (numbers > high + slack)]).numel():
                raise ConceptError(
                    f"{name!r} cannot be set to {outside[0].item():g}: the training data has values from {low:g} to "
                    f"{high:g}"
                )
            blocks[name] = maps[name](numbers)
        return blocks

    def _named(self) -> dict[str, ValueMap]:
        return dict(zip(self.concepts, cast("Iterable[ValueMap]", self.maps), strict=True))
