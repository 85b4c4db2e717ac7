"""Images to compare: what a model and its base generate, and real ones that were never trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter
from context_module.base import base_samples
from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextData, ContextDataset
from context_module.errors import DataError
from context_module.model import ContextualDecoder

__all__ = ["base_images", "model_images", "real_parts"]


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
        labels = parts[name].labels
        found = int((labels == parts[name].context_names.index(name)).sum())
        if found < 2 * samples:
            raise DataError(
                f"context {name!r} has {found} images, scoring {samples} needs {2 * samples} (half of them to show "
                f"how near real images come): ask for {found // 2} samples or fewer, or add images"
            )
    return {name: parts[name] for name in names}


@torch.no_grad()
def base_images(base: DecoderAdapter, n: int, generator: torch.Generator, batch_size: int) -> Tensor:
    """Samples of the base's own prior, (n, C, H, W) in [0, 1], on the CPU; the base is in eval mode."""
    images = [torch.empty(0, *base.image_shape)] + [
        base_samples(base, size, generator=generator).cpu() for size in _sizes(n, batch_size)
    ]
    return torch.cat(images)


def model_images(
    model: ContextualDecoder,
    n: int,
    context: str,
    generator: torch.Generator,
    batch_size: int,
    *,
    pooled: bool = False,
) -> Tensor:
    """What the model generates in a context, (n, C, H, W) in [0, 1], on the CPU.

    A model that learned from contexts `pooled` was never told of them: it answers as in the observational one.
    """
    do = OBSERVATIONAL if pooled else context
    return torch.cat([model.generate(size, do=do, generator=generator).cpu() for size in _sizes(n, batch_size)])


def _sizes(n: int, batch_size: int) -> Iterator[int]:
    for start in range(0, n, batch_size):
        yield min(batch_size, n - start)
