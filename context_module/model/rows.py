"""The same samples under several interventions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from context_module.base import Abduction
    from context_module.interventions import Do
    from context_module.model.decoder import ContextualDecoder

__all__ = ["contexts_on_one_noise"]


def contexts_on_one_noise(
    model: ContextualDecoder,
    contexts: Iterable[str] | Mapping[str, Do],
    *,
    n: int = 8,
    abduction: Abduction | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """The same images under several interventions: rows for `labelled_samples`, each (n, C, H, W), or n texts.

    All noise, the module's and that of the base's deeper latents, is the same in every row.

    Args:
        model: the wrapped base.
        contexts: names of the contexts, a row each; or label -> what `ContextualDecoder.generate` takes for `do`.
        n: images per row, from fresh noise.
        abduction: the noise behind given images, instead of fresh noise.
        temperature: as for `ContextualDecoder.generate`.
        seed: of the noise.

    Raises:
        ValueError: for n below 1, and whatever `ContextualDecoder.generate` refuses.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    noise = abduction or model.module.sample_noise(n, temperature, torch.Generator().manual_seed(seed))
    rows = contexts if isinstance(contexts, Mapping) else {context: context for context in contexts}
    return {
        label: model.generate(
            noise=noise, do=do, temperature=temperature, generator=torch.Generator().manual_seed(seed + 1)
        )
        for label, do in rows.items()
    }
