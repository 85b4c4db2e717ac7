"""Texts that a language model draws."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.texts import TextContextDataset, Tokenize
from context_module.errors import DataError
from context_module.io import progress_bar, write_atomically

__all__ = ["DrawnTexts", "draw_texts"]


class Writing(Protocol):
    """What is asked of a base of texts; `context_module.adapters.transformers.TransformersAdapter` has it."""

    end: int
    max_tokens: int
    tokenize: Tokenize

    def sample_latent(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...

    def decode(self, latent: Tensor, *, temperature: float = 1.0, generator: torch.Generator | None = None) -> Any: ...

    def present(self, samples: Tensor) -> list[str]: ...


class DrawnTexts:
    """Texts to be sorted into contexts: of those drawn, what a base reads back.

    Args:
        drawn: the texts, each with whether the model ended it by itself.
        tokenize: of the base.
    """

    def __init__(self, drawn: Sequence[tuple[str, bool]], tokenize: Tokenize) -> None:
        self._tokenize = tokenize
        ended = [text for text, has_ended in drawn if has_ended]
        self._texts = [text for text in ended if _is_read(text, tokenize)]
        if not self._texts:
            raise DataError(
                f"none of {len(drawn)} texts drawn can be used ({len(ended)} of them ended): raise max_tokens, or "
                "give the base a prompt after which it writes what you want"
            )
        counts = {
            "texts that did not end in time": len(drawn) - len(ended),
            "texts that are empty or would not be read back": len(ended) - len(self._texts),
        }
        self.left_out = tuple(f"{count:,} {what}" for what, count in counts.items() if count)

    def __len__(self) -> int:
        return len(self._texts)

    def shown(self, rows: Tensor) -> list[str]:
        return [self._texts[row] for row in rows.tolist()]

    def part(self, labels: Tensor, names: list[str], concepts: Concepts, scores: Tensor) -> TextContextDataset:
        return TextContextDataset(self._texts, labels, names, concepts, tokenize=self._tokenize)


def draw_texts(
    base: Writing,
    n: int,
    *,
    temperature: float,
    batch_size: int,
    seed: int,
    file: Path | None,
    progress: bool,
) -> DrawnTexts:
    """Texts of a base's own, after its prompt; see `context_module.data.from_samples`."""
    generator = torch.Generator().manual_seed(seed)

    def texts() -> Iterator[tuple[str, bool]]:
        with progress_bar(total=n, desc="drawing samples", unit="text", disable=not progress) as bar:
            for start in range(0, n, batch_size):
                latent = base.sample_latent(min(batch_size, n - start), generator)
                ids = base.decode(latent, temperature=temperature, generator=generator).sample(generator)
                # the end token in the last place was put there
                ended = (ids[:, : base.max_tokens - 1] == base.end).any(1).tolist()
                yield from zip(base.present(ids), ended, strict=True)
                bar.update(len(latent))

    if file is None:
        return DrawnTexts([*texts()], base.tokenize)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda temporary: _write(temporary, texts()))
    found = _read(file)
    if len(found) != n:
        raise DataError(f"{file} holds {len(found)} texts, {n} were asked for: remove it, or give another name")
    return DrawnTexts(found, base.tokenize)


def _is_read(text: str, tokenize: Tokenize) -> bool:
    """Not so where words that a tokenizer does not know, or more tokens than before, come out."""
    try:
        tokenize([text])
    except DataError:
        return False
    return bool(text.strip())


def _write(file: Path, texts: Iterator[tuple[str, bool]]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for text, ended in texts:
            lines.write(json.dumps({"text": text, "ended": ended}, ensure_ascii=False) + "\n")


def _read(file: Path) -> list[tuple[str, bool]]:
    try:
        with file.open(encoding="utf-8") as lines:
            return [(str(entry["text"]), bool(entry["ended"])) for entry in map(json.loads, lines)]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no JSONL file of drawn texts ({error}): remove it") from None
