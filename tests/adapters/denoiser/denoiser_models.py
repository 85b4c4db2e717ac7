"""What the tests of diffusion models share beside fixtures."""

import torch

from context_module import wrap_decoder


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def some_latents(base, n=4, scale=1.0):
    return scale * torch.randn(n, *base.latent.shape, generator=seeded(3))


def wrapped(base, **options):
    torch.manual_seed(2)
    model = wrap_decoder(base, ["a", "b"], noise_width=4, concept_width=3, posterior_width=8, **options)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.normal_(std=0.5)
    return model.eval()
