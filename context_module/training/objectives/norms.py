"""How strong a module's edges are, relative to what they join."""

from __future__ import annotations

import torch
from torch import Tensor

from context_module.nn import ContextModule

__all__ = ["relative_norms"]


def relative_norms(module: ContextModule, samples: int) -> Tensor:
    """(K+F, K+F), the Frobenius norms of the module's edges, relative to what they join: entry [i, j] is that of A_ij
    times the standard deviation of block j's values over that of block i's, in the observational context.

    A penalty on the norms alone can be had for nothing: large values of a cause make small edges strong.

    Args:
        module: only its edges get a gradient.
        samples: draws of noise, at least two.
    """
    with torch.no_grad():
        noise = module.sample_noise(samples)
        mask = noise.new_zeros(samples, len(module.config.concepts), dtype=torch.bool)
        deviation = module.concepts(noise, mask).float().var(0).sum(1).sqrt().clamp_min(1e-6)
    return module.intervention.effect_norms() * deviation / deviation[:, None]
