"""Random numbers that are the same each time."""

import torch


def seeded(seed=0):
    """A generator of this seed."""
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    """Standard normal values."""
    return torch.randn(shape, generator=seeded(seed))


def uniform(*shape, seed=0):
    """Values in [0, 1), as images have them."""
    return torch.rand(shape, generator=seeded(seed))
