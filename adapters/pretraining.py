"""How a new base of a family is made and trained: what recipes/pretrain.py asks of every family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from context_module.adapters.contract import DecoderAdapter
from context_module.objective import Objective

if TYPE_CHECKING:
    from context_module.data import ContextDataset

__all__ = ["Pretraining"]


@dataclass(kw_only=True)
class Pretraining(ABC):
    """A family's new base, and what it is trained for. The fields of a subclass are flags of recipes/pretrain.py.

    Subclass it as a dataclass whose fields are made with `context_module.options.argument`, write `build`, and return
    it from `DecoderAdapter.pretraining`.

    Attributes:
        files: patterns of the files that the base's `save` writes, for an upload.
    """

    files: ClassVar[tuple[str, ...]] = ("config.json", "model.safetensors")

    @abstractmethod
    def build(self, data: ContextDataset) -> tuple[DecoderAdapter, Objective]:
        """A base with random weights for images, or texts, such as these, and its objective.

        Raises:
            ValueError: for data that the family does not take (DataError for images in place of texts).
        """

    def settle(self, base: DecoderAdapter, train_data: ContextDataset, val_data: ContextDataset) -> None:
        """Fit what the training leaves open, with the base in eval mode; by default nothing."""
        return
