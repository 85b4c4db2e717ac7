"""Data by name of a base's own samples, `--data samples`: a labeller, by its name, says what each of them shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch

from context_module.data.context_data import ContextData
from context_module.data.folders import split_names
from context_module.data.labellers import load_labellers
from context_module.data.samples import Generative, from_samples
from context_module.errors import DataError

__all__ = ["labelled_samples"]


def labelled_samples(
    labeller: str,
    concepts: Iterable[str],
    n: int = 12_000,
    margin: float = 0.0,
    base: Generative | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
) -> ContextData:
    """Contexts from a base's own samples, by a labeller: `from_samples` for command lines.

    Args:
        labeller, concepts: who labels, and what: see `load_labellers`.
        n, margin, seed: see `from_samples`.
        base: that samples are drawn of; recipes give theirs.
        cache_dir: keep the samples in a file there; its name tells base, number and seed.

    Raises:
        DataError: without a base; and as `from_samples` and `load_labellers`.
    """
    if base is None:
        raise DataError(
            "samples are drawn of a base: give one, --base and --base_checkpoint in recipes that have them"
        )
    found = load_labellers(labeller, split_names(concepts))
    file = None if cache_dir is None else Path(cache_dir) / f"samples-{_key(base, seed)}-{n}.npy"
    return from_samples(base, found, n=n, margin=margin, seed=seed, cache_file=file)


@torch.no_grad()
def _key(base: Generative, seed: int) -> str:
    """A hash of the first images that a base makes with a seed: other weights make other ones."""
    generator = torch.Generator().manual_seed(seed)
    latents = base.sample_latent(4, generator)
    made = base.decode(latents.to(base.device, base.dtype), generator=generator).mean
    images = (made.float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return hashlib.sha256(bytes(str(tuple(images.shape)), "ascii") + images.numpy().tobytes()).hexdigest()[:16]
