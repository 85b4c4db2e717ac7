"""How far a module's decoder inputs are from additive in its blocks: what carries over to unseen compositions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.nn import ContextModule
from context_module.training.objectives.directions import Directions
from context_module.training.objectives.terms import LatentStep, Term

__all__ = ["Interaction", "interaction"]


class Interaction(Term):
    """How far the decoder input is from additive in its blocks: see `interaction`."""

    of_interventions = True
    name = "interaction"
    weight = 300.0
    help: ClassVar[str] = "keeping decoder inputs additive in the concepts, which is what composes"

    def forward(self, step: LatentStep) -> Tensor:
        return interaction(step.context_module, step.samples, step.directions)


def interaction(module: ContextModule, n: int, directions: Directions) -> Tensor:
    """Mean square of second differences of the decoder input, where two parts of the concept values change at once.

    Contexts of one intervention each are also explained by blocks that veto what other blocks write; in a composition
    two such vetoes contradict each other. Sums of what the blocks write, one by one, go together as they are (additive
    decoders: Lachapelle et al. 2023, "Additive Decoders for Latent Variables Identification and Cartesian-Product
    Extrapolation"). From an observational sample, one concept takes a value as under an intervention; with it or
    without it another concept does, or, half of the time, all free blocks take other values.

    Args:
        module: with at least two parts, concepts or the free blocks, of which one is a concept; else it is zero.
        n: number of samples.
        directions: of the latent space.

    Returns:
        a scalar, float32, in units of the variance of the embeddings, as pictures show it.
    """
    concepts, free = len(module.config.concepts), module.config.free_blocks
    device = directions.matrix.device
    if not concepts or concepts + bool(free) < 2:
        return torch.zeros((), device=device)
    rows = torch.arange(n, device=device)
    one = torch.randint(concepts, (n,), device=device)
    two = (one + torch.randint(1, max(2, concepts), (n,), device=device)) % concepts
    contexts = torch.zeros(3, n, concepts, dtype=torch.bool, device=device)
    contexts[1, rows, one] = contexts[2, rows, two] = True
    noise = torch.randn(3 * n, module.config.noise_size, device=device)
    start, first, second = module.concepts(noise, contexts.flatten(0, 1)).unflatten(0, (3, n))

    takes_first, takes_second = F.pad(contexts[1:], (0, free))
    if free:  # alone with a concept, or every other time
        redrawn = (torch.rand(n, device=device) < (0.5 if concepts > 1 else 1.0))[:, None]
        is_free = torch.arange(concepts + free, device=device) >= concepts
        takes_second = torch.where(redrawn, is_free, takes_second)
    with_first = torch.where(takes_first[..., None], first, start)
    with_second, with_both = (torch.where(takes_second[..., None], second, part) for part in (start, with_first))
    values = torch.cat([start, with_first, with_second, with_both])
    none, a, b, both = module.inversion(values.flatten(1)).flatten(1).float().unflatten(0, (4, n))
    return directions.energy(both - a - b + none).mean()
