"""Small modules, alone and around a tiny base."""

import torch

from context_module import ContextModule, ContextModuleConfig, wrap_decoder
from context_module.base.lora import is_lora
from helpers.draws import seeded

SMALL = {"noise_width": 4, "concept_width": 3, "posterior_width": 8}


def small_module(concepts=("a", "b", "c"), **options):
    """A module of no base, for five latents and four features."""
    torch.manual_seed(0)
    widths = {"latent_shape": (5,), "num_features": 4, "noise_width": 3, "concept_width": 2}
    return ContextModule(ContextModuleConfig(concepts=concepts, **{**widths, **options}))


def wrapped(base, concepts=("a", "b"), *, seed=0, **options):
    """A base with a small new module, in eval mode."""
    torch.manual_seed(seed)
    return wrap_decoder(base, concepts, **{**SMALL, **options}).eval()


def wrapped_at_random(base, concepts=("a", "b"), *, seed=1, **options):
    """The same with every weight of the module at random, so that every context gives other images."""
    model = wrapped(base, concepts, seed=seed, **options)
    randomise(model.module)
    return model


def randomise(module, scale=0.5):
    """Draw all parameters from N(0, scale²)."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=scale)


def randomise_lora(model, scale=0.2):
    """Draw the LoRA of a model's base from N(0, scale²), as if trained; returns the model."""
    generator = seeded(3)
    with torch.no_grad():
        for name, parameter in model.base.named_parameters():
            if is_lora(name):
                parameter.normal_(std=scale, generator=generator)
    return model


def generate(model, do=None, n=3, seed=0, **options):
    """Images, the same for the same seed."""
    return model.generate(n, do=do, generator=seeded(seed), **options)
