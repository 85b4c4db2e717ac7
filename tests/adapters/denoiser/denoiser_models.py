"""What the tests of diffusion models share beside fixtures."""

import torch

from helpers.draws import seeded


def some_latents(base, n=4, scale=1.0):
    return scale * torch.randn(n, *base.latent.shape, generator=seeded(3))
