"""A context module as a textbook writes it: what `recipes/benchmark.py` holds ours against."""

from __future__ import annotations

import functools
import itertools
import statistics
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.nn import ContextModule, ContextModuleConfig
from context_module.study.timing import seconds

__all__ = ["TextbookModule", "compare_with_textbook"]


class TextbookModule(nn.Module):
    """A context module with dense weights, built from ours: one context per pass."""

    def __init__(self, module: ContextModule) -> None:
        super().__init__()
        config = self.config = module.config
        embedding, intervention = module.embedding, module.intervention
        self.noise_weights = nn.ParameterList(
            _dense(layer.weight) for layer in (embedding.observational, embedding.interventional)
        )
        self.noise_bias = nn.Parameter(embedding.observational.bias.detach().flatten())
        layers: list[Any] = list(embedding.layers)
        self.weights = nn.ParameterList(_dense(layer.weight) for layer in layers)
        self.biases = nn.ParameterList(layer.bias.detach().flatten() for layer in layers)
        self.effects = nn.ParameterList(
            effects.detach().clone() for effects in intervention.parameters() if effects.ndim == 2
        )
        self.effect_bias = nn.Parameter(intervention.bias.detach().clone())
        out_features, in_features = module.inversion.linear.weight.shape
        self.inversion = nn.Linear(in_features, out_features)
        self.inversion.load_state_dict(module.inversion.linear.state_dict())
        eye = torch.eye(len(config.concepts))
        self.noise_blocks = torch.kron(eye, torch.ones(config.noise_width, config.noise_width))
        self.blocks = [
            torch.kron(eye, torch.ones(a, b)) for a, b in zip(config.widths, config.widths[1:], strict=False)
        ]
        self.off_diagonal = 1 - torch.kron(eye, torch.ones(config.concept_width, config.concept_width))

    def forward(self, noise: Tensor, context: Tensor) -> Tensor:
        """Noise (n, K w_z) under one context (K,)."""
        config = self.config
        weight = self._select(self.noise_weights, context, config.noise_width) * self.noise_blocks
        hidden = F.gelu(noise @ weight + self.noise_bias)
        for weight, blocks, bias in zip(self.weights, self.blocks, self.biases, strict=True):
            hidden = F.gelu(hidden @ (weight * blocks) + bias)
        uncut = self.off_diagonal * (1 - context.repeat_interleave(config.concept_width))
        effects = self._select(self.effects, context, config.concept_width) * uncut
        concepts = hidden
        for _ in config.concepts if config.form == "structural" else [None]:
            concepts = hidden + self.effect_bias + concepts @ effects
        return self.inversion(concepts)

    @staticmethod
    def _select(weights: nn.ParameterList, context: Tensor, width: int) -> Tensor:
        """Rows (sources) of intervened concepts from the interventional weight, the others from the observational."""
        if len(weights) == 1:
            return weights[0]
        mask = context.repeat_interleave(width)[:, None].expand_as(weights[0])
        return mask * weights[1] + (1 - mask) * weights[0]


def compare_with_textbook(num_concepts: int, interventions: int, form: str, batch_size: int, repeats: int) -> float:
    """How many times faster the mixed batch is than one pass per context."""
    torch.manual_seed(0)
    config = ContextModuleConfig(
        concepts=tuple(f"c{k}" for k in range(num_concepts)),
        latent_shape=(128,),
        num_features=1,
        noise_width=32,
        concept_width=8,
        depth=2,
        form=form,  # type: ignore[arg-type]
    )
    ours = ContextModule(config)
    textbook = TextbookModule(ours)
    noise = torch.randn(batch_size, config.noise_size)
    contexts = _contexts_up_to(num_concepts, interventions)  # in equal shares, in random order
    mask = contexts[torch.randperm(batch_size) % len(contexts)]
    mixed = functools.partial(_mixed_step, ours, noise, mask)
    one_by_one = functools.partial(_textbook_step, textbook, noise, mask, contexts)
    for step in (mixed, one_by_one):
        step()  # warms up, and leaves the gradients of both to compare
    for mine, theirs in (
        (ours.inversion.linear.weight, textbook.inversion.weight),
        (ours.intervention.bias, textbook.effect_bias),
    ):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6)
    # alternating, so that a busy moment of the machine hits both
    times = [(statistics.median(seconds(mixed) for _ in range(5)), seconds(one_by_one)) for _ in range(repeats)]
    return statistics.median(theirs / mine for mine, theirs in times)


def _mixed_step(module: ContextModule, noise: Tensor, mask: Tensor) -> None:
    """Forward and backward of the whole batch at once."""
    module.zero_grad()
    module(noise, mask).square().mean().backward()


def _textbook_step(module: TextbookModule, noise: Tensor, mask: Tensor, contexts: Tensor) -> None:
    """Forward and backward of each context's share of the batch, gradients accumulated."""
    module.zero_grad()
    for context in contexts:
        share = noise[(mask == context).all(dim=1)]
        (module(share, context.float()).square().mean() * (len(share) / len(noise))).backward()


def _contexts_up_to(num_concepts: int, interventions: int) -> Tensor:
    """Masks (C, K) of all contexts with at most that many interventions: with 1, the training contexts."""
    sizes = range(interventions + 1)
    chosen = [subset for size in sizes for subset in itertools.combinations(range(num_concepts), size)]
    return torch.tensor([[concept in subset for concept in range(num_concepts)] for subset in chosen])


def _dense(blocks: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.block_diag(*blocks.detach()))
