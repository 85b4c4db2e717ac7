"""What is compared: samples that a subject draws, and real ones that were never trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from context_module.data import ContextData, ContextDataset
from context_module.errors import DataError
from context_module.metrics import Case, Subject, expression, read_factors

__all__ = ["Compared", "draw", "real_parts"]


def real_parts(data: ContextData, contexts: Iterable[str] | None, samples: int) -> dict[str, ContextDataset]:
    """The part of the data that holds images of each context to score on, compositions first.

    Args:
        data: compositions come from its `held_out`, training contexts from its `test`.
        contexts: those to score; all by default.
        samples: twice as many images are needed: half of them are compared, half are the floor.

    Raises:
        ConceptError: for a context with an unknown concept.
        DataError: for a context without images to score on, or with too few.
    """
    parts = {name: part for part in (data.held_out, data.test) if part is not None for name in part.context_names}
    names = list(parts)
    if contexts is not None:
        names = [data.concepts.name(context) for context in contexts]
    elif data.test is None:
        raise DataError(
            "no images of the training contexts to score on: load the data with test_samples, put the validation part "
            "of train.split(...) in as `test`, or name the contexts to score"
        )
    for name in names:
        if name not in parts:
            raise DataError(
                f"no images of context {name!r} that were not trained on; there are of: {', '.join(parts) or 'none'}"
            )
        found = parts[name].counts[name]
        if found < 2 * samples:
            raise DataError(
                f"context {name!r} has {found} images, scoring {samples} needs {2 * samples} (half of them to show "
                f"how near real images come): ask for {found // 2} samples or fewer, or add images"
            )
    return {name: parts[name] for name in names}


@torch.no_grad()
def draw(subject: Subject, n: int, context: str, generator: torch.Generator, batch_size: int = 250) -> Any:
    """What a subject generates in a context: images (n, C, H, W) in [0, 1] on the CPU, or a list of n texts."""
    return _batched(lambda size: subject.sample(size, context, generator), n, batch_size)


class Compared:
    """Samples and real ones as metrics compare them: images, the factors (n, K) of the concepts of texts, or vectors
    (n, G) as `expression` has them.

    Args:
        case: what is scored.

    Raises:
        DataError: for texts without a parser or factors.
    """

    def __init__(self, case: Case) -> None:
        self.case, self.texts = case, case.subject.kind == "texts"
        train = case.data.train
        if self.texts and (case.data.parser is None or train.factors is None):
            raise DataError(
                "no parser comes with this data to read factors from texts, so that they cannot be compared"
            )
        self._columns = [train.factor_names.index(name) for name in case.data.concepts] if self.texts else []

    @torch.no_grad()
    def base(self, generator: torch.Generator) -> Tensor:
        """Samples of the subject's baseline, which is told of no context."""
        subject = self.case.subject
        return self._read(partial(subject.baseline, generator=generator))

    @torch.no_grad()
    def generated(self, context: str, generator: torch.Generator) -> Tensor:
        """Samples of the subject in a context."""
        subject = self.case.subject
        return self._read(lambda size: subject.sample(size, context, generator))

    def real(self, part: ContextDataset, context: str) -> tuple[Tensor, Tensor]:
        """Real ones of a context, and as many others."""
        samples = self.case.samples
        if self.case.data.train.kind == "vectors":
            real, other = expression(part.select(context, 2 * samples), part).split(samples)
            return real, other
        if not self.texts:
            real, other = part.select(context, 2 * samples).split(samples)
            return real, other
        assert part.factors is not None
        rows = part.factors[part.labels == part.context_names.index(context)]
        real, other = rows[: 2 * samples, self._columns].split(samples)
        return real, other

    def _read(self, sample: Callable[[int], Any]) -> Tensor:
        found = _batched(sample, self.case.samples, self.case.batch_size)
        if self.case.data.train.kind == "vectors":
            return expression(found, self.case.data.train)
        parser = self.case.data.parser
        if not self.texts or parser is None:
            return found
        return read_factors(found, parser, len(self.case.data.train.factor_names))[:, self._columns]


def _batched(sample: Callable[[int], Any], n: int, batch_size: int) -> Any:
    """n samples, so many at a time."""
    parts = [sample(min(batch_size, n - start)) for start in range(0, n, batch_size)]
    if isinstance(parts[0], Tensor):
        return torch.cat([part.cpu() for part in parts])
    return [text for part in parts for text in part]
