"""Concepts, and the two ways to write a context: a name such as ``quad1+size`` or a row of an intervention mask."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from context_module.errors import ConceptError, ShapeError

__all__ = ["OBSERVATIONAL", "SEPARATOR", "Concepts", "ContextsLike", "Kind"]

OBSERVATIONAL = "obs"
SEPARATOR = "+"

# What data holds, and what bases generate.
Kind = Literal["images", "texts", "vectors"]

# One context per sample: a name for all of them, a name each, or a bool mask (B, K).
ContextsLike = str | Sequence[str] | Tensor


class Concepts(Sequence[str]):
    """The K named concepts of a model, in a fixed order; turns context names into intervention masks and back.

    Raises:
        ConceptError: for an empty or repeated name, or a name that could not be told from a context (``obs``, or one
            that holds ``+``, a slash or white space).

    >>> concepts = Concepts(["quad1", "size"])
    >>> concepts.training_contexts
    ('obs', 'quad1', 'size')
    >>> concepts.name(["size", "quad1"])
    'quad1+size'
    >>> concepts.mask(["obs", "quad1+size"]).tolist()
    [[False, False], [True, True]]
    """

    def __init__(self, names: Iterable[str]) -> None:
        if isinstance(names, str):
            raise ConceptError(f"concepts must be a list of names, got the single string {names!r}: write [{names!r}]")
        self.names = tuple(map(_unified, names))
        for name in self.names:
            if not isinstance(name, str) or not name or name == OBSERVATIONAL or set(name) & set("+/\\ \t\n"):
                raise ConceptError(
                    f"{name!r} cannot name a concept: expected a non-empty string other than {OBSERVATIONAL!r}, "
                    f"without {SEPARATOR!r}, slashes and white space"
                )
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ConceptError(f"concepts named more than once: {', '.join(repeated)}")

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's overloads, for a tuple of names
        return self.names[index]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __eq__(self, other: object) -> bool:
        return tuple(other) == self.names if isinstance(other, (Concepts, tuple, list)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"Concepts({list(self.names)})"

    @property
    def training_contexts(self) -> tuple[str, ...]:
        """The observational context and the K contexts with one intervention each."""
        return (OBSERVATIONAL, *self.names)

    def parse(self, context: str | Iterable[str]) -> tuple[str, ...]:
        """The intervened concepts of one context, in the order of the concepts.

        Args:
            context: ``"obs"``, ``"size"``, ``"quad1+size"``, or the names as a list (empty: observational).

        Raises:
            ConceptError: for a name that is not a concept, or one given twice.
        """
        if isinstance(context, str):
            words = [] if context == OBSERVATIONAL else context.split(SEPARATOR)
        else:
            words = list(context)
        words = list(map(_unified, words))
        for word in words:
            if word not in self.names:
                close = difflib.get_close_matches(str(word), self.names, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                whole = f" in context {context!r}" if len(words) > 1 else ""
                raise ConceptError(
                    f"unknown concept {word!r}{whole}; known concepts: {', '.join(self.names) or 'none'} "
                    f"(and {OBSERVATIONAL!r} for no intervention).{hint}"
                )
        if len(set(words)) != len(words):
            raise ConceptError(f"context {context!r} names a concept more than once")
        return tuple(name for name in self.names if name in words)

    def name(self, context: str | Iterable[str] | Tensor) -> str:
        """The canonical name of a context or a mask row (K,): ``obs``, or the concepts in order joined by ``+``."""
        if isinstance(context, Tensor):
            context = [name for name, on in zip(self.names, context.tolist(), strict=True) if on]
        return SEPARATOR.join(self.parse(context)) or OBSERVATIONAL

    def mask(self, contexts: ContextsLike, batch_size: int | None = None) -> Tensor:
        """The intervention mask of a batch.

        Args:
            contexts: one context name for the whole batch, one name per sample, or a bool mask (B, K) or (K,).
            batch_size: B. Needed to expand a single context over a batch; otherwise checked.

        Returns:
            bool tensor (B, K), true where a concept is intervened on; on the mask's own device, or the CPU for names.

        Raises:
            ConceptError: for unknown names, and for strengths or values: no image is seen in half a context.
            ShapeError: for a mask of the wrong shape or dtype, or a count of names other than B.
        """
        if isinstance(contexts, Mapping):
            raise ConceptError(
                f"strengths and values are for generate(do=...); images are seen in contexts, got {contexts!r}: name "
                "the concepts that were intervened on"
            )
        if isinstance(contexts, Tensor):
            mask = contexts
            if mask.dtype != torch.bool:
                strengths = "; strengths are for generate(do=...)" if mask.is_floating_point() else ""
                raise ShapeError(
                    f"an intervention mask must be torch.bool, got {mask.dtype}: use mask.bool(){strengths}"
                )
            if mask.ndim not in (1, 2) or mask.shape[-1] != len(self):
                raise ShapeError(
                    f"an intervention mask must have shape (batch, {len(self)}) for the concepts "
                    f"{', '.join(self.names)}, got {tuple(mask.shape)}"
                )
        elif isinstance(contexts, str):
            mask = self._row(contexts)
        else:
            contexts = list(contexts)
            if batch_size is not None and len(contexts) != batch_size:
                raise ShapeError(
                    f"{len(contexts)} context names for a batch of {batch_size}: give one name, or one per sample"
                )
            rows = {context: self._row(context) for context in set(contexts)}
            mask = (
                torch.stack([rows[context] for context in contexts]) if contexts else torch.zeros(0, len(self)).bool()
            )
        if batch_size is None:
            return mask if mask.ndim == 2 else mask[None]
        if mask.ndim == 1:
            return mask.expand(batch_size, -1)
        if len(mask) != batch_size:
            raise ShapeError(f"the intervention mask has {len(mask)} rows for a batch of {batch_size}")
        return mask

    def _row(self, context: str) -> Tensor:
        intervened = self.parse(context)
        return torch.tensor([name in intervened for name in self.names], dtype=torch.bool)


def _unified(name: str) -> str:
    """A name in one form (NFC) of those Unicode has: keyboards and files' names have accents in either."""
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name
