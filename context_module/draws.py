"""Random draws: on the generator's device, so that a CPU generator gives the same noise on every device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["draw_normal", "draw_uniform"]


def draw_normal(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise, float32, of the shape and on the device of `like`.

    Without a generator it is the default one of that device.
    """
    return _draw(torch.randn, like, generator)


def draw_uniform(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform noise in [0, 1), otherwise as `draw_normal`."""
    return _draw(torch.rand, like, generator)


def _draw(function: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return function(like.shape, generator=generator, device=device, dtype=torch.float32).to(like.device)
