"""Texts in contexts: token ids for a language model, a folder of text files per context, and what functions read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from context_module.contexts import Kind
from context_module.data.context_data import ContextData
from context_module.data.dataset import ContextDataset, joined_arguments
from context_module.data.folders import context_folders
from context_module.errors import DataError

__all__ = ["TextContextDataset", "Tokenize", "read_by", "text_folders"]


class Tokenize(Protocol):
    """What gives token ids: a base's ``tokenize``."""

    def __call__(self, texts: Sequence[str], names: Sequence[str] | None = None) -> list[Tensor]:
        """The ids of each text, int64 (T,), with the end token; DataError for a text, by its name, that cannot be."""


class TextContextDataset(ContextDataset):
    """A `ContextDataset` of texts. Item i is ``{"x": int64 (T,), "mask": bool (K,)}``, x token ids.

    Texts end with the end token, and are filled up with it to the longest of those read together.

    Args:
        texts: N texts, none of them empty.
        labels, context_names, concepts, factors, factor_names: see `ContextDataset`.
        tokenize: gives token ids, once, now: that of the base (``base.tokenize``). Without it there are texts only.
        names: what its errors call the texts; their numbers without.

    Raises:
        DataError: for an empty text; for a text that `tokenize` refuses.
    """

    kind: ClassVar[Kind] = "texts"

    def __init__(
        self,
        texts: Sequence[str],
        labels: Tensor | Sequence[int],
        context_names: Iterable[str],
        concepts: Iterable[str],
        factors: Tensor | None = None,
        factor_names: Iterable[str] = (),
        tokenize: Tokenize | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(concepts, context_names, labels, factors, factor_names)
        if len(texts) != len(self):
            raise DataError(f"{len(texts)} texts for {len(self)} labels: expected one each")
        for number, text in enumerate(texts):
            if not text.strip():
                raise DataError(f"text {number}, of context {self.context_of(number)!r}, is empty: leave it out")
        self._texts = list(texts)
        self._ids = tokenize(self._texts, names) if tokenize else None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        raise DataError(
            "this data holds texts, which have no image shape: use a language model (--base transformers; a small one "
            "from scratch is made by recipes/pretrain.py)"
        )

    def read(self, rows: Tensor) -> Tensor:
        """The token ids of these numbers, int64 (n, T); DataError for texts without."""
        if self._ids is None:
            raise DataError("these texts have no token ids: load the data with tokenize=base.tokenize")
        ids = [self._ids[row] for row in rows.tolist()]
        return pad_sequence(ids, batch_first=True, padding_value=ids[0][-1].item())

    def joined(self, other: ContextDataset) -> TextContextDataset:
        if not isinstance(other, TextContextDataset):
            raise DataError(f"texts cannot be joined with {other.kind}")
        every = [(part, row) for part in (self, other) for row in part._rows.tolist()]
        whole = TextContextDataset([part._texts[row] for part, row in every], **joined_arguments(self, other))
        if self._ids is not None and other._ids is not None:
            whole._ids = [part._ids[row] for part, row in every if part._ids is not None]
        return whole

    def with_factors(self, read: Callable[[list[str]], Tensor], names: Iterable[str]) -> TextContextDataset:
        """A view whose factors are what a function reads from n texts, float32 (n, D), in the order of their names."""
        view = copy.copy(self)
        view.factor_names, view._factors = tuple(names), read(self._texts)
        return view

    def texts(self, context: str | Iterable[str] | None = None, n: int | None = None) -> list[str]:
        """The texts of one context, or of all, or the first n of them.

        Raises:
            ConceptError: for an unknown concept.
            DataError: for a context that is not in this data set.
        """
        rows = self._rows if context is None else self._rows[self.labels == self._label_of(context)]
        return [self._texts[row] for row in rows[:n].tolist()]


def read_by(data: ContextData, readers: Mapping[str, Callable[[list[str]], Tensor]]) -> ContextData:
    """The same texts, whose factors are what functions read from them: the metrics of texts then go by these.

    So texts that a labeller sorted can be judged by one that had no part in it.

    Args:
        data: of texts.
        readers: by concept a function of a list of B texts to scores (B,): above zero the concept is shown, 1, else 0.

    Raises:
        DataError: for data of images, or readers that are not of the data's concepts.
    """
    if set(readers) != set(data.concepts):
        raise DataError(
            f"readers of {', '.join(readers) or 'nothing'} for the concepts {', '.join(data.concepts)}: give one of "
            "each"
        )

    def read(texts: list[str]) -> Tensor:
        return torch.stack([(torch.as_tensor(readers[name](texts)) > 0).float() for name in data.concepts], dim=1)

    def part(texts: ContextDataset | None) -> TextContextDataset | None:
        if texts is None:
            return None
        if not isinstance(texts, TextContextDataset):
            raise DataError(f"readers are of texts, this data holds {texts.kind}")
        return texts.with_factors(read, data.concepts)

    train = part(data.train)
    assert train is not None
    held_out, test = part(data.held_out), part(data.test)
    return replace(data, train=train, held_out=held_out, test=test, parser=lambda text: read([text])[0])


def text_folders(
    root: str | Path,
    *,
    concepts: Iterable[str] | None = None,
    texts: Literal["line", "file"] = "line",
    tokenize: Tokenize | None = None,
) -> ContextData:
    """Texts on disk, from a folder per context: all ``.txt`` files in it and below it, in the order of their paths.

    Files are UTF-8. White space around texts is dropped, and so are empty lines. Other files and folders are left out
    as by `image_folders`.

    Args:
        root: a folder that holds ``obs`` and at least one folder named after a single concept.
        concepts: the concept names in order, as a list or separated by commas. Default: the single names among the
            folders, sorted.
        texts: whether a text is a ``line`` of a file, that ends with a newline, or a whole ``file``.
        tokenize: see `TextContextDataset`.

    Returns:
        ContextData: ``obs`` and the single concepts to train on, larger sets of interventions held out.

    Raises:
        DataError: for a missing root, no ``obs`` folder, no folder of a single concept, a folder of empty
            files, two folders of one context, a file that is not UTF-8 or, with ``texts="file"``, empty; for a text
            that `tokenize` refuses, named by its file.
        ConceptError: for a folder or a part of its name that is no concept.
    """
    if texts not in ("line", "file"):
        raise DataError(f"texts must be 'line' (a text per line) or 'file' (a text per file), got {texts!r}")
    found = context_folders(root, concepts, "texts")
    every: dict[str, list[tuple[str, str]]] = {}  # context -> its texts, each with what errors call it
    for context, files in found.files.items():
        every[context] = [text for path in files for text in _texts_of(path, texts)]
        if not every[context]:
            raise DataError(f"no texts of context {context!r}, such as in {files[0]}: write some or remove the folder")

    def part(contexts: Sequence[str]) -> TextContextDataset | None:
        if not contexts:
            return None
        counts = torch.tensor([len(every[context]) for context in contexts])
        texts, names = zip(*(text for context in contexts for text in every[context]), strict=True)
        labels = torch.arange(len(contexts)).repeat_interleave(counts)
        return TextContextDataset(texts, labels, contexts, found.concepts, tokenize=tokenize, names=names)

    train, held_out = map(part, found.parts)
    assert train is not None
    return ContextData(train, held_out, left_out=found.left_out)


def _texts_of(path: Path, texts: Any) -> list[tuple[str, str]]:
    """The texts of a file, each with what errors call it."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
    if texts == "file":
        if not content.strip():
            raise DataError(f"{path} is empty: write a text into it, or remove it")
        return [(content.strip(), str(path))]
    # reading made every end of a line a newline; str.splitlines would split at more, such as form feeds
    lines = [(line.strip(), f"{path}, line {number}") for number, line in enumerate(content.split("\n"), 1)]
    return [(line, where) for line, where in lines if line]
