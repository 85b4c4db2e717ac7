"""The standard normal distribution: draws from it, and the KL to it.

Draws are made on the generator's device, so that a CPU generator gives the same noise on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["derived_generator", "draw_normal", "draw_uniform", "standard_normal_kl", "standard_normal_kls"]


def draw_normal(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise, float32, of the shape and on the device of `like`.

    Without a generator it is the default one of that device.
    """
    return _draw(torch.randn, like, generator)


def draw_uniform(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform noise in [0, 1), otherwise as `draw_normal`."""
    return _draw(torch.rand, like, generator)


def derived_generator(generator: torch.Generator | None, name: str) -> torch.Generator:
    """A generator for draws that must not shift others: made from `name` and the state of the given one, which stays.

    Without a generator it is made from the default one. It draws on the CPU.

    >>> mine, theirs = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    >>> _ = torch.randn(5, generator=derived_generator(mine, "size"))
    >>> torch.equal(torch.randn(2, generator=mine), torch.randn(2, generator=theirs))  # undisturbed
    True
    """
    state = (torch.default_generator if generator is None else generator).get_state()
    digest = hashlib.sha256(state.numpy().tobytes() + name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def _draw(function: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return function(like.shape, generator=generator, device=device, dtype=torch.float32).to(like.device)


def standard_normal_kl(mean: Tensor, variance: Tensor, log_variance: Tensor | None = None) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) of diagonal Gaussians (B, ...), summed over all but the batch: (B,), nats.

    Where the logarithm of the variance is known it is better given: the variance itself may round to zero.

    >>> standard_normal_kl(torch.zeros(2, 3), torch.ones(2, 3)).tolist()  # nothing is told
    [0.0, 0.0]
    >>> standard_normal_kl(torch.tensor([[2.0]]), torch.ones(1, 1)).item()  # half the squared mean
    2.0
    """
    return standard_normal_kls(mean, variance, log_variance).flatten(1).sum(1)


def standard_normal_kls(mean: Tensor, variance: Tensor, log_variance: Tensor | None = None) -> Tensor:
    """That of every entry by itself, of the shape of the mean; arguments as for `standard_normal_kl`."""
    log_variance = variance.log() if log_variance is None else log_variance
    return 0.5 * (mean.square() + variance - log_variance - 1)
