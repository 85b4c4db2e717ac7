"""Penalties on the edges that a module learns: how strong they are, and how far from acyclic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from context_module.nn import ContextModule

__all__ = ["acyclicity", "relative_norms"]


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


def acyclicity(norms: Tensor) -> Tensor:
    """tr exp(N * N) - K of the norms N (K, K) of edges: zero for an acyclic graph, more for stronger cycles.

    Source: Zheng, Aragam, Ravikumar and Xing, 'DAGs with NO TEARS' (NeurIPS 2018).
    """
    with torch.autocast(norms.device.type, enabled=False):  # its matrix products are not for half precision
        return torch.matrix_exp(norms.float().square()).trace() - len(norms)
