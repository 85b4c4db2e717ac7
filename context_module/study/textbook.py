"""A context module as a textbook writes it: what `recipes/benchmark.py` holds ours against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.nn import ContextModule

__all__ = ["TextbookModule"]


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


def _dense(blocks: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.block_diag(*blocks.detach()))
