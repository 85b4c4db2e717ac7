"""SAMS-VAE (Bereket & Karaletsos, NeurIPS 2023): additive shifts of a basal state, masked, both with posteriors.

    z = z_basal + sum over a in S of m_a e_a,    z_basal ~ N(0, I),  e_a ~ N(0, I),  m_ai ~ Bernoulli(p)
    E_q log p(x | z) - KL(q(z_basal | x, shift) || N(0, I)) - (KL(q(e) || N(0, I)) + KL(q(m) || Bernoulli(p))) / N

Written from the paper's equations. The encoder is told of the shift, as in the paper's correlated guide; q(e) and q(m)
are independent of each other, a normal and a Bernoulli of every perturbation and dimension, drawn for every row. Masks
are hard forwards and soft backwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from context_module.baselines.gaussian import kl_per_dimension, reparameterised
from context_module.baselines.perturbation import PerturbationSettings, learn_faster
from context_module.baselines.svae import MaskedShifts, hard_masks
from context_module.normal import draw_normal, draw_uniform
from context_module.objective import ParameterGroup
from context_module.options import argument

__all__ = ["SAMSVAE", "SAMSVAESettings", "bernoulli_kl"]

_NARROW = -4.0  # log-variance of shifts to start from


def bernoulli_kl(logits: Tensor, probability: float) -> Tensor:
    """KL(Bernoulli(sigmoid(logits)) || Bernoulli(probability)), of every entry."""
    q, p = logits.sigmoid(), torch.as_tensor(probability, dtype=logits.dtype, device=logits.device)
    log_q, log_not = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    return q * (log_q - p.log()) + (1 - q) * (log_not - (-p).log1p())


@dataclass(kw_only=True)
class SAMSVAESettings(PerturbationSettings):
    """The priors of SAMS-VAE."""

    mask_probability: float = argument(0.01, help="p, of a perturbation to shift a dimension")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_probability < 1:
            raise ValueError(f"mask_probability must be in (0, 1), got {self.mask_probability}")


class SAMSVAE(MaskedShifts):
    """A VAE of vectors with sparse additive shifts of perturbations."""

    name = "sams_vae"
    settings_class = SAMSVAESettings

    def __init__(self, settings: SAMSVAESettings, *arguments: object) -> None:
        super().__init__(settings, *arguments)  # type: ignore[arg-type]
        shape = len(self.concepts), settings.latents
        self.shifts = nn.Parameter(torch.randn(shape))
        self.log_var = nn.Parameter(torch.full(shape, _NARROW))
        self.logits = nn.Parameter(torch.zeros(shape))

    @property
    def told_width(self) -> int:
        return int(self.settings.latents)

    def shift(self, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Shifts (B, latents) under interventions (B, K): drawn in training, else of means and likelier masks."""
        rows, concepts = mask.nonzero(as_tuple=True)
        each, logits = self.shifts[concepts], self.logits[concepts]
        if self.training:
            masks = hard_masks(logits, draw_uniform(logits, generator).clamp(1e-6, 1 - 1e-6))
            each = masks * (each + (0.5 * self.log_var[concepts]).exp() * draw_normal(each, generator))
        else:
            each = (logits > 0) * each
        return torch.zeros(len(mask), self.settings.latents, device=mask.device).index_add(0, rows, each)

    def tells(self, mask: Tensor) -> Tensor:
        return self.shift(mask)

    def posterior(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        shift = self.shift(mask)
        mean, log_var = self.encoded(x, shift)
        return mean + shift, log_var

    def prior_of(self, mask: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        shift = self.shift(mask, generator)
        return shift, torch.zeros_like(shift)

    def bound_in(self, x: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        x, shift = self.values(x), self.shift(mask, generator)
        mean, log_var = self.encoded(x, shift)
        latent = reparameterised(mean, log_var, generator) + shift
        return -self.explain(latent, x).log_prob(x), kl_per_dimension(mean, log_var).sum(1)

    def penalty(self) -> Tensor:
        shifts = kl_per_dimension(self.shifts, self.log_var).sum()
        return shifts + bernoulli_kl(self.logits, self.settings.mask_probability).sum()

    def parameter_groups(self) -> list[ParameterGroup]:
        return learn_faster(self, [self.shifts, self.log_var, self.logits])
