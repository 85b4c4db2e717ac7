"""One context module of a model, with all that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from context_module.adapters import Encoding
from context_module.base import TakenLora
from context_module.model.packs import ConceptPacks
from context_module.nn import ContextModule, ContextModuleConfig, EditModule, PosteriorHeads, ValueMaps
from context_module.normal import draw_normal
from context_module.saving import CardDetails

__all__ = ["ModuleSlot"]


class ModuleSlot(nn.Module):
    """A context module and what was made for it: posterior heads, values, concept packs, LoRA, a card.

    Attributes:
        module: the `ContextModule`, or of edits the `EditModule`.
        posterior_heads: q(z | x, context) on the base's encoder features; None with edits, which are inverted.
        value_maps: for concepts that can be set to a value, from values to concept values; see `fit_values`.
        packs: the concept packs that were added.
        details: what the card says of data and scores.
        taken_lora: the module's LoRA while another module, or none, is the active one; None while it is on the base.
    """

    def __init__(self, config: ContextModuleConfig) -> None:
        super().__init__()
        edits = config.form == "edits"
        self.module: ContextModule | EditModule = EditModule(config) if edits else ContextModule(config)
        self.posterior_heads = None if edits else PosteriorHeads(config)
        self.value_maps = ValueMaps({})
        self.packs = ConceptPacks(config.concepts)
        self.details = CardDetails()
        self.taken_lora: TakenLora | None = None

    @property
    def config(self) -> ContextModuleConfig:
        """The module's configuration: there is but one."""
        return self.module.config

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return self.module.device

    def posterior(self, encoding: Encoding, mask: Tensor) -> Normal:
        """q(z | x, context) over the noise of encoded images in the contexts of a mask (B, K)."""
        if isinstance(self.module, EditModule):
            before = self.module.unchanged(self.module.coordinates(encoding.mean), mask)
            variance = torch.zeros_like(encoding.mean) if encoding.log_var is None else encoding.log_var.exp()
            return Normal(self.module.noise_of(before), self.module.noise_deviation(variance), validate_args=False)
        assert self.posterior_heads is not None
        return self.posterior_heads(encoding.features, mask)

    def concept_values(self, encoding: Encoding, mask: Tensor) -> Tensor:
        """Concept values (B, K or K+F, w_c) behind encoded images in the contexts of a mask (B, K)."""
        if isinstance(self.module, EditModule):
            return self.module.values(self.module.coordinates(encoding.mean))
        return self.module.concepts(self.posterior(encoding, mask).mean.to(self.module.dtype), mask)

    def latent_mean(self, noise: Tensor, mask: Tensor, fixed: Mapping[str, Tensor] | None = None) -> Tensor:
        """What the module makes of noise; arguments as for `ContextModule.forward`."""
        return self.module(noise.to(self.module.dtype), mask, fixed)

    def draw_latent(self, mean: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
        """A decoder input around its mean; the mean itself for a module without latent noise."""
        if not self.config.latent_noise:
            return mean
        return mean + self.module.scale * temperature * draw_normal(mean, generator)

    def explain_latent(
        self, mean: Tensor, encoding: Encoding, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The decoder input behind images, drawn from its posterior, and its KL (B,) from N(mean, scale^2).

        The posterior is the base's own, q(e | x), no wider than the noise around what the module makes: a wider one
        explains no better and costs its KL. Without latent noise, or for a deterministic encoder, the posterior
        is what the module says. With edits it is the base's own and costs nothing: they explain any embedding.
        """
        if isinstance(self.module, EditModule):
            deviation = 0.0 if encoding.log_var is None else (0.5 * encoding.log_var.float()).exp()
            return encoding.mean.float() + deviation * draw_normal(mean, generator), mean.new_zeros(len(mean))
        if not self.config.latent_noise or encoding.log_var is None:
            return self.draw_latent(mean, 1.0, generator), mean.new_zeros(len(mean))
        scale = torch.as_tensor(self.module.scale).float()
        center, deviation = encoding.mean.float(), (0.5 * encoding.log_var.float()).exp().minimum(scale)
        kl = (scale / deviation).log() + 0.5 * (deviation.square() + (center - mean.float()).square()) / scale**2 - 0.5
        return center + deviation * draw_normal(center, generator), kl.flatten(1).sum(1)
