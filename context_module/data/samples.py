"""Contexts from a base's own samples: drawn, and sorted by functions that say what they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.context_data import ContextData
from context_module.data.dataset import ContextDataset
from context_module.data.labellers import Labeller
from context_module.data.sampled_images import draw_images
from context_module.data.sampled_texts import draw_texts
from context_module.data.texts import read_by
from context_module.errors import DataError, ShapeError
from context_module.io import progress_bar

__all__ = ["from_samples"]


class Samples(Protocol):
    """Images or texts that were drawn."""

    left_out: tuple[str, ...]

    def __len__(self) -> int: ...

    def shown(self, rows: Tensor) -> Any:
        """Those of these numbers, as labellers take them."""

    def part(self, labels: Tensor, names: list[str], concepts: Concepts, scores: Tensor) -> ContextDataset:
        """All of them, in the contexts of these names, with the labellers' scores (N, K)."""


_DRAW: Mapping[str, Callable[..., Samples]] = {"images": draw_images, "texts": draw_texts}


@torch.no_grad()
def from_samples(
    base: Any,
    labellers: Mapping[str, Labeller],
    *,
    n: int,
    margin: float = 0.0,
    temperature: float = 1.0,
    batch_size: int = 128,
    seed: int = 0,
    cache_file: str | Path | None = None,
    progress: bool = True,
) -> ContextData:
    """Contexts from a base's own samples: what a labeller finds in a sample is the concept that was intervened on.

    So a pretrained generator needs no data but its own. Samples that show nothing are ``obs``, those that show one
    concept its context, and those that show several are held out. Nobody intervened: where concepts go together in
    the samples, the contexts tell of that, too.

    Texts that did not end in time, are empty, or that the base would not read back are left out.

    Args:
        base: an adapter, on its device; it draws from its own prior, a language model after its prompt.
        labellers: by concept a function to scores (B,), of images (B, C, H, W) in [0, 1] on the base's device, or of a
            list of B texts: above zero the concept is shown, as of a classifier's logits.
        n: number of samples drawn.
        margin: those with a score nearer to zero than that, of any concept, are left out: hard to tell.
        temperature: of deeper latents, or of tokens; see `context_module.adapters.DecoderAdapter.decode`.
        batch_size: samples decoded at a time.
        seed: of the samples; the same seed gives the same data.
        cache_file: keep the samples in this file, and draw no others while it is there: a name for each base, seed
            and temperature. Images are uint8, memory-mapped, an ``.npy``; texts a line each, a ``.jsonl``. Default: in
            memory.
        progress: show a progress bar.

    Returns:
        ContextData. Parts of images know their decoder inputs: `SampledDataset`. Those of texts have what labellers
        say as factors, see `read_by`.

    Raises:
        TypeError: for a base without its adapter.
        DataError: for no labeller, a bad count, margin or temperature, a context that got no sample, or a cache of
            another number of samples.
        ShapeError: for scores that are not one finite number per sample.
        ConceptError: for names that concepts cannot have.
    """
    concepts = Concepts(labellers)
    if not hasattr(base, "sample_latent"):
        raise TypeError(f"samples are drawn of an adapter: give adapt(base), got {type(base).__name__}")
    if not labellers:
        raise DataError(
            f"no labellers: give a function of {base.kind} for every concept, such as a classifier's logits"
        )
    if n < 1 or margin < 0 or temperature < 0:
        raise DataError(
            f"n must be at least 1, margin and temperature at least 0, got {n}, {margin} and {temperature}"
        )
    samples = _DRAW[base.kind](
        base,
        n,
        temperature=temperature,
        batch_size=batch_size,
        seed=seed,
        file=None if cache_file is None else Path(cache_file),
        progress=progress,
    )
    rows = torch.arange(len(samples)).split(batch_size)
    batches = progress_bar(rows, desc="labelling", unit="batch", disable=not progress)
    scores = torch.cat([_scores(labellers, samples.shown(some), base.kind) for some in batches])
    data = _sorted(concepts, samples, scores, (scores.abs() >= margin).all(1), base.kind)
    data = replace(data, labellers=dict(labellers))
    return read_by(data, labellers) if base.kind == "texts" else data


def _scores(labellers: Mapping[str, Labeller], shown: Any, kind: str) -> Tensor:
    """(B, K)."""
    columns = []
    for name, labeller in labellers.items():
        found = torch.as_tensor(labeller(shown)).detach().float().cpu()
        if tuple(found.shape) != (len(shown),) or not found.isfinite().all():
            raise ShapeError(
                f"the labeller of {name!r} must give one finite score per {kind[:-1]}, ({len(shown)},), got "
                f"{tuple(found.shape)}{'' if found.isfinite().all() else ' with values that are not finite'}"
            )
        columns.append(found)
    return torch.stack(columns, dim=1)


def _sorted(concepts: Concepts, samples: Samples, scores: Tensor, clear: Tensor, kind: str) -> ContextData:
    contexts = [concepts.name(row) for row in scores > 0]

    def part(names: list[str]) -> ContextDataset | None:
        order = {name: label for label, name in enumerate(names)}
        labels = torch.tensor([order.get(name, -1) for name in contexts])
        kept = ((labels >= 0) & clear).nonzero().flatten()
        if not names or not len(kept):
            return None
        return samples.part(labels.clamp_min(0), names, concepts, scores).subset(kept)

    training = list(concepts.training_contexts)
    found = {name for name, is_clear in zip(contexts, clear.tolist(), strict=True) if is_clear}
    if missing := [name for name in training if name not in found]:
        raise DataError(
            f"no sample of {', '.join(missing)} among {len(contexts)} ({int(clear.sum())} clear of the margin): draw "
            f"more, lower the margin, or see whether the base makes such {kind}"
        )
    sizes = range(2, len(concepts) + 1)
    joint = [concepts.name(some) for size in sizes for some in combinations(concepts, size)]
    train, held_out = part(training), part([name for name in joint if name in found])
    assert train is not None
    unclear = int((~clear).sum())
    near = (f"{unclear:,} samples near the margin",) if unclear else ()
    return ContextData(train, held_out, left_out=(*samples.left_out, *near))
