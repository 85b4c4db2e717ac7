"""What many concepts take: time and memory of edits, from their closed form to composing them."""

from __future__ import annotations

import resource
import warnings
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from context_module.adapters.modules import ModulesAdapter
from context_module.data import ArrayContextDataset, mixed_context_loader
from context_module.model import wrap_decoder
from context_module.study.timing import seconds
from context_module.training import encode_dataset, fit_maps
from context_module.training.objectives import EditObjective

__all__ = ["Scaled", "measure_scale"]


@dataclass(frozen=True)
class Scaled:
    """Seconds, and kilobytes of memory at the most, over those before."""

    fit: float
    step: float
    generate: float
    compose: float
    memory: float


def measure_scale(num_concepts: int) -> Scaled:
    """What edits of so many concepts take, on latents of 64 values, three of which each one moves.

    Of each there are 100 images, and 1,000 observational ones. The most memory is that of a process's life: to be
    called in one of its own.
    """
    torch.manual_seed(0)
    names = [f"c{k}" for k in range(num_concepts)]
    moved = torch.zeros(1 + num_concepts, 64)
    moved[1:].scatter_(1, torch.rand(num_concepts, 64).topk(3).indices, 0.3 * torch.randn(num_concepts, 3))
    counts = torch.tensor([1000, *[100] * num_concepts])
    contexts = torch.arange(len(counts)).repeat_interleave(counts)
    images = (0.5 + 0.1 * torch.randn(len(contexts), 64) + moved[contexts]).clamp(0, 1).view(-1, 1, 8, 8)
    data = ArrayContextDataset((255 * images).byte(), contexts, ["obs", *names], names)
    base = ModulesAdapter(_Same((64,)), _Same((1, 8, 8)), (64,), (1, 8, 8), scale=8.0, shift=0.5, output="unit")
    model = wrap_decoder(base, names, form="edits", latent_noise=True)
    encodings = encode_dataset(model.base, data, progress=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of so many concepts some hardly show
        fit = seconds(lambda: fit_maps(model, encodings))
    objective = EditObjective(model, encodings, start=False).train()
    batches = iter(mixed_context_loader(encodings, 448, 0, num_steps=6, per_context=objective.per_context))
    optimizer = torch.optim.Adam([one for one in objective.parameters() if one.requires_grad], 1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        objective(next(batches), 0.5)["loss"].mean().backward()
        optimizer.step()

    step()
    shortest = min(seconds(step) for _ in range(5))
    model.eval()
    generate, compose = (
        min(seconds(partial(model.generate, 100, do=context, seed=0)) for _ in range(5))
        for context in (names[0], "+".join(names[:3]))
    )
    memory = max(1, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return Scaled(fit, shortest, generate, compose, memory)


class _Same(nn.Module):
    """An encoder or a decoder that hands on what it is given, in another shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.factor = shape, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return (self.factor * x).reshape(len(x), *self.shape)
