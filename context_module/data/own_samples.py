"""Data by name of a base's own samples, `--data samples`: a labeller, by its name, says what each of them shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from context_module.data.context_data import ContextData
from context_module.data.folders import split_names
from context_module.data.labellers import load_labellers
from context_module.data.samples import from_samples
from context_module.errors import DataError

__all__ = ["own_samples"]


def own_samples(
    labeller: str,
    concepts: Iterable[str],
    n: int = 12_000,
    margin: float = 0.0,
    temperature: float = 1.0,
    base: Any = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
) -> ContextData:
    """Contexts from a base's own samples, by a labeller: `from_samples` for command lines.

    Args:
        labeller, concepts: who labels, and what: see `load_labellers`.
        n, margin, temperature, seed: see `from_samples`.
        base: that samples are drawn of; recipes give theirs.
        cache_dir: keep the samples in a file there; its name tells base, number, temperature and seed.

    Raises:
        DataError: without a base; and as `from_samples` and `load_labellers`.
    """
    if base is None:
        raise DataError(
            "samples are drawn of a base: give one, --base and --base_checkpoint in recipes that have them"
        )
    found = load_labellers(labeller, split_names(concepts))
    file = None
    if cache_dir is not None:
        suffix = "jsonl" if base.kind == "texts" else "npy"
        file = Path(cache_dir) / f"samples-{_key(base, temperature, seed)}-{n}.{suffix}"
    return from_samples(base, found, n=n, margin=margin, temperature=temperature, seed=seed, cache_file=file)


@torch.no_grad()
def _key(base: Any, temperature: float, seed: int) -> str:
    """A hash of the first samples that a base makes of a seed: other weights make other ones."""
    generator = torch.Generator().manual_seed(seed)
    latent = base.sample_latent(4, generator).to(base.device, base.dtype)
    decoding = base.decode(latent, temperature=temperature, generator=generator)
    if base.kind == "texts":
        made = "\n".join(base.present(decoding.sample(generator))).encode()
    else:
        images = (decoding.mean.float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        made = images.numpy().tobytes()
    return hashlib.sha256(f"{base.takes} {temperature} {seed} ".encode() + made).hexdigest()[:16]
