"""The context module: noise and an intervention mask to the decoder input of a base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from context_module.errors import ShapeError
from context_module.interventions import check_strengths
from context_module.nn.config import ContextModuleConfig, Edge
from context_module.nn.layers import ConceptInversionLayer, EmbeddingLayer, InterventionLayer
from context_module.normal import draw_normal

__all__ = ["ContextModule"]

_QUIET = 0.1


class ContextModule(nn.Module):
    """Embedding, intervention and concept-inversion layer in sequence (CLeaR 2026); see `context_module.nn.layers`.

    One batch mixes contexts freely, with any number of simultaneous interventions per sample, each of its own
    strength: a mask holds truth values, or numbers, 0 for the observational mechanism, 1 for the interventional one.
    """

    def __init__(self, config: ContextModuleConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = EmbeddingLayer(config)
        self.intervention = InterventionLayer(config)
        self.inversion = ConceptInversionLayer(config)
        self.log_scale = nn.Parameter(torch.zeros(config.latent_shape)) if config.latent_noise else None

    def exogenous(self, noise: Tensor, mask: Tensor) -> Tensor:
        """Exogenous values (B, K+F, w_c) of noise (B, (K+F) w_z) under a mask (B, K); free blocks come last."""
        self._check(noise, mask)
        return self.embedding(noise, mask).transpose(0, 1)

    def concepts(self, noise: Tensor, mask: Tensor, fixed: Mapping[str, Tensor] | None = None) -> Tensor:
        """Concept values (B, K+F, w_c); free blocks come last. Arguments as for `forward`.

        A fixed concept has no causes, and its effects travel on.
        """
        exogenous = self.exogenous(noise, mask)
        values = {self.config.concepts.index(name): value for name, value in (fixed or {}).items()}
        if values:
            mask, exogenous = mask.clone(), exogenous.clone()
            bias = self.intervention.bias.unflatten(0, (-1, self.config.concept_width))
            for column, value in values.items():
                mask[:, column], exogenous[:, column] = 1, value - bias[column]
        concepts = self.intervention(exogenous.flatten(1), mask).unflatten(1, (-1, self.config.concept_width))
        for column, value in values.items():  # exactly; and the published composition leaves some causes
            concepts[:, column] = value
        return concepts

    def forward(self, noise: Tensor, mask: Tensor, fixed: Mapping[str, Tensor] | None = None) -> Tensor:
        """Decoder inputs (B, *latent_shape), normalised; their means, with ``latent_noise=True``.

        Args:
            noise: (B, (K+F) w_z), float.
            mask: (B, K), bool, true where a concept is intervened on; or float, the strengths, in [-2, 3].
            fixed: concept values (B, w_c) by name, to set concepts to instead: do(C_j = c).

        Raises:
            ShapeError: if noise or mask has another shape, or the mask another dtype.
            ConceptError: for a strength out of range.
        """
        return self.inversion(self.concepts(noise, mask, fixed).flatten(1))

    @property
    def scale(self) -> Tensor | float:
        """Standard deviation of decoder inputs around what `forward` returns: (*latent_shape), or 0 without noise."""
        return 0.0 if self.log_scale is None else self.log_scale.exp()

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return self.inversion.linear.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights; noise comes in it."""
        return self.inversion.linear.weight.dtype

    def fix_graph(self, edges: Iterable[Edge]) -> None:
        """Leave out all edges between concepts but these, from now on; ConceptError as `ContextModuleConfig` says."""
        self.config = replace(self.config, graph=tuple(edges))
        self.intervention.fix_graph(self.config)

    @torch.no_grad()
    def fit_latents(self, mean: Tensor, spread: Tensor) -> None:
        """Start from the mean and standard deviation, (*latent_shape) each, of the decoder inputs to be modelled.

        Free blocks are to explain them first, if there are any: a concept would write what belongs to another one at
        random, and keep it, since no intervention needs to change it. So concepts start with little noise, and learn
        what their interventions change.
        """
        if self.config.free_blocks:
            self.embedding.quieten(_QUIET)
        self.inversion.fit(mean, spread)
        if self.log_scale is not None:
            self.log_scale.copy_(spread.log().view_as(self.log_scale))

    def sample_noise(self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """n draws from N(0, temperature^2 I), (n, (K+F) w_z), on the module's device (drawn on the generator's)."""
        like = torch.empty(n, self.config.noise_size, device=self.device)
        return draw_normal(like, generator).to(self.dtype) * temperature

    def _check(self, noise: Tensor, mask: Tensor) -> None:
        config = self.config
        if noise.ndim != 2 or noise.shape[1] != config.noise_size:
            raise ShapeError(
                f"noise must have shape (batch, {config.noise_size}): {config.num_blocks} blocks of width "
                f"{config.noise_width}; got {tuple(noise.shape)}"
            )
        strengths = mask.is_floating_point()
        if not (strengths or mask.dtype == torch.bool) or tuple(mask.shape) != (len(noise), len(config.concepts)):
            raise ShapeError(
                f"the intervention mask (or strengths, as floats) must be torch.bool of shape ({len(noise)}, "
                f"{len(config.concepts)}), got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        if strengths:
            check_strengths(mask, config.concepts)

    def extra_repr(self) -> str:
        config = self.config
        return (
            f"concepts={list(config.concepts)}, noise_width={config.noise_width}, "
            f"concept_width={config.concept_width}, depth={config.depth}, "
            f"free_blocks={config.free_blocks}, form={config.form!r}"
        )
