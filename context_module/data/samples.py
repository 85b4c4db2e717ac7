"""Contexts from a base's own samples: drawn, decoded, and sorted by functions that say what they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.context_data import ContextData
from context_module.data.dataset import ArrayContextDataset, MappedImages
from context_module.data.labellers import Labeller
from context_module.errors import DataError, ShapeError
from context_module.io import progress_bar, write_atomically

__all__ = ["Generative", "SampledDataset", "from_samples"]


class Generative(Protocol):
    """What is asked of a base; every `context_module.adapters.DecoderAdapter` has it."""

    name: Any
    kind: Any
    image_shape: tuple[int, int, int]

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def sample_latent(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...

    def decode(self, latent: Tensor, *, generator: torch.Generator | None = None) -> Any: ...


class SampledDataset(ArrayContextDataset):
    """Samples of a base, with the decoder inputs that they were decoded from.

    Args:
        images, labels, context_names, concepts: see `ArrayContextDataset`.
        latents: float32 (N, *latent_shape), normalised.
        scores: float32 (N, K), the labellers'.
    """

    def __init__(
        self, images: Any, labels: Tensor, context_names: Any, concepts: Concepts, latents: Tensor, scores: Tensor
    ) -> None:
        super().__init__(images, labels, context_names, concepts)
        self._latents, self._scores = latents, scores

    @property
    def scores(self) -> Tensor:
        """What the labellers said of the images in order, float32 (N, K)."""
        return self._scores[self._rows]

    @property
    def latents(self) -> Tensor:
        """The decoder inputs (N, *latent_shape) behind the images in order: encodings that need no encoder."""
        return self._latents[self._rows]


@torch.no_grad()
def from_samples(
    base: Generative,
    labellers: Mapping[str, Labeller],
    *,
    n: int,
    margin: float = 0.0,
    batch_size: int = 128,
    seed: int = 0,
    cache_file: str | Path | None = None,
    progress: bool = True,
) -> ContextData:
    """Contexts from a base's own samples: what a labeller finds in a sample is the concept that was intervened on.

    So a pretrained generator needs no data but its own. Samples that show nothing are ``obs``, those that show one
    concept its context, and those that show several are held out. Nobody intervened: where concepts go together in
    the samples, the contexts tell of that, too.

    Args:
        base: of images, on its device; it draws from its own prior.
        labellers: by concept a function of images (B, C, H, W) in [0, 1] to scores (B,), on the base's device: above
            zero the concept is shown, as of a classifier's logits.
        n: number of samples drawn.
        margin: those with a score nearer to zero than that, of any concept, are left out: hard to tell.
        batch_size: images decoded at a time.
        seed: of the samples; the same seed gives the same data.
        cache_file: keep the images, uint8, in this ``.npy`` file, memory-mapped, and draw no others while it is there:
            a name for each base and seed. Default: in memory.
        progress: show a progress bar.

    Returns:
        ContextData whose parts know the decoder inputs of their images: `SampledDataset`.

    Raises:
        TypeError: for a base without its adapter.
        DataError: for a base of texts, no labeller, a bad count or margin, a context that got no sample, or a cache
            of another number of samples.
        ShapeError: for scores that are not one finite number per image.
        ConceptError: for names that concepts cannot have.
    """
    concepts = Concepts(labellers)
    if not hasattr(base, "sample_latent"):
        raise TypeError(f"samples are drawn of an adapter: give adapt(base), got {type(base).__name__}")
    if base.kind != "images":
        raise DataError(f"a {base.name!r} base makes {base.kind}: samples are drawn of bases of images")
    if not labellers:
        raise DataError("no labellers: give a function of images for every concept, such as a classifier's logits")
    if n < 1 or margin < 0:
        raise DataError(f"n must be at least 1 and margin at least 0, got {n} and {margin}")
    generator = torch.Generator().manual_seed(seed)
    parts = [base.sample_latent(min(batch_size, n - start), generator) for start in range(0, n, batch_size)]
    file = None if cache_file is None else Path(cache_file)
    pictures: Tensor | MappedImages
    if file is None:
        pictures = torch.cat([*_pictures(base, parts, generator, progress)])
    else:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, lambda temporary: _write(temporary, base, parts, generator, progress))
        pictures = MappedImages(file)
    drawn = ArrayContextDataset(pictures, torch.zeros(n, dtype=torch.int64), ("obs",), concepts)
    batches = progress_bar(torch.arange(n).split(batch_size), desc="labelling", unit="batch", disable=not progress)
    scores = torch.cat([_scores(base, labellers, drawn, rows) for rows in batches])
    latents = torch.cat([part.float().cpu() for part in parts])
    clear = (scores.abs() >= margin).all(1)
    found = _sorted(concepts, pictures, latents, scores, clear)
    return replace(found, labellers=dict(labellers))


def _pictures(base: Generative, latents: list[Tensor], generator: torch.Generator, progress: bool) -> Any:
    total = sum(map(len, latents))
    with progress_bar(total=total, desc="drawing samples", unit="image", disable=not progress) as bar:
        for part in latents:
            made = base.decode(part.to(base.device, base.dtype), generator=generator).mean
            yield (made.float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
            bar.update(len(part))


def _write(file: Path, base: Generative, latents: list[Tensor], generator: torch.Generator, progress: bool) -> None:
    shape = (sum(map(len, latents)), *base.image_shape)
    images, start = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape), 0
    for part in _pictures(base, latents, generator, progress):
        images[start : start + len(part)] = part.numpy()
        start += len(part)
    images.flush()


def _scores(base: Generative, labellers: Mapping[str, Labeller], drawn: ArrayContextDataset, rows: Tensor) -> Tensor:
    """(B, K), of the images of these numbers."""
    images = drawn.read(rows).to(base.device)
    columns = []
    for name, labeller in labellers.items():
        found = torch.as_tensor(labeller(images)).detach().float().cpu()
        if tuple(found.shape) != (len(images),) or not found.isfinite().all():
            raise ShapeError(
                f"the labeller of {name!r} must give one finite score per image, ({len(images)},), got "
                f"{tuple(found.shape)}{'' if found.isfinite().all() else ' with values that are not finite'}"
            )
        columns.append(found)
    return torch.stack(columns, dim=1)


def _sorted(concepts: Concepts, pictures: Any, latents: Tensor, scores: Tensor, clear: Tensor) -> ContextData:
    contexts = [concepts.name(row) for row in scores > 0]

    def part(names: list[str]) -> SampledDataset | None:
        order = {name: label for label, name in enumerate(names)}
        labels = torch.tensor([order.get(name, -1) for name in contexts])
        kept = ((labels >= 0) & clear).nonzero().flatten()
        if not names or not len(kept):
            return None
        return SampledDataset(pictures, labels.clamp_min(0), names, concepts, latents, scores).subset(kept)

    training = list(concepts.training_contexts)
    found = {name for name, is_clear in zip(contexts, clear.tolist(), strict=True) if is_clear}
    if missing := [name for name in training if name not in found]:
        raise DataError(
            f"no sample of {', '.join(missing)} among {len(contexts)} ({int(clear.sum())} clear of the margin): draw "
            "more, lower the margin, or see whether the base makes such images"
        )
    sizes = range(2, len(concepts) + 1)
    joint = [concepts.name(some) for size in sizes for some in combinations(concepts, size)]
    train, held_out = part(training), part([name for name in joint if name in found])
    assert train is not None
    unclear = int((~clear).sum())
    return ContextData(train, held_out, left_out=(f"{unclear:,} samples near the margin",) if unclear else ())
