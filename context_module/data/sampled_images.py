"""Images that a base draws, with the decoder inputs behind them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.dataset import ArrayContextDataset, MappedImages
from context_module.io import progress_bar, rendered_array

__all__ = ["DrawnImages", "SampledDataset", "draw_images"]


class Generative(Protocol):
    """What is asked of a base of images; every `context_module.adapters.DecoderAdapter` has it."""

    image_shape: tuple[int, int, int]

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def sample_latent(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...

    def decode(self, latent: Tensor, *, temperature: float = 1.0, generator: torch.Generator | None = None) -> Any: ...


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


class DrawnImages:
    """Images and their decoder inputs, to be sorted into contexts.

    Args:
        images: uint8 (N, C, H, W), or `MappedImages`.
        latents: float32 (N, *latent_shape).
        device: where labellers take them.
    """

    left_out: tuple[str, ...] = ()

    def __init__(self, images: Tensor | MappedImages, latents: Tensor, device: torch.device) -> None:
        self._images, self._latents, self._device = images, latents, device
        unsorted = torch.zeros(len(latents), dtype=torch.int64)
        self._read = ArrayContextDataset(images, unsorted, ("obs",), ()).read

    def __len__(self) -> int:
        return len(self._latents)

    def shown(self, rows: Tensor) -> Tensor:
        return self._read(rows).to(self._device)

    def part(self, labels: Tensor, names: list[str], concepts: Concepts, scores: Tensor) -> SampledDataset:
        return SampledDataset(self._images, labels, names, concepts, self._latents, scores)


def draw_images(
    base: Generative,
    n: int,
    *,
    temperature: float,
    batch_size: int,
    seed: int,
    file: Path | None,
    progress: bool,
) -> DrawnImages:
    """Images of a base's own prior; see `context_module.data.from_samples`."""
    generator = torch.Generator().manual_seed(seed)
    parts = [base.sample_latent(min(batch_size, n - start), generator) for start in range(0, n, batch_size)]

    def pictures() -> Iterator[Tensor]:
        with progress_bar(total=n, desc="drawing samples", unit="image", disable=not progress) as bar:
            for part in parts:
                latent = part.to(base.device, base.dtype)
                made = base.decode(latent, temperature=temperature, generator=generator).mean
                yield (made.float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
                bar.update(len(part))

    images: Tensor | MappedImages
    if file is None:
        images = torch.cat([*pictures()])
    else:
        rendered_array(file, (n, *base.image_shape), lambda start: _rest(pictures(), start))
        images = MappedImages(file)
    return DrawnImages(images, torch.cat([part.float().cpu() for part in parts]), base.device)


def _rest(pictures: Iterator[Tensor], start: int) -> Iterator[Tensor]:
    """The pictures from a number on. Those before are drawn once more: their noise is that of one stream."""
    for part in pictures:
        if start < len(part):
            yield part[start:]
        start = max(0, start - len(part))
