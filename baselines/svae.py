"""sVAE and sVAE+ (Lachapelle et al., CLeaR 2022; Lopez et al., CLeaR 2023): each perturbation shifts few latents.

    p(z_i | a) = N(gamma_ai mu_ai, 1),    gamma_ai ~ Bernoulli(sigmoid(l_ai))

Masks gamma are drawn for every row, by a Gumbel sigmoid that is hard forwards and soft backwards. Neither encoder nor
decoder is told of a. sVAE penalises the expected number of shifts, lambda sum sigmoid(l); sVAE+ has a prior Beta(1, K)
on their probabilities, whose penalty is -sum log Beta(1, K)(sigmoid(l)). Differences from public code: K is above 1 by
default (with its default of 1 the prior is uniform, and nothing is sparse); and under several perturbations shifts add
up, where public code knows one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.baselines.perturbation import PerturbationSettings, PerturbationVAE, learn_faster
from context_module.baselines.vae import check_at_least
from context_module.normal import draw_uniform
from context_module.objective import ParameterGroup
from context_module.options import argument

__all__ = ["SVAE", "MaskedShifts", "SVAEPlus", "SVAEPlusSettings", "SVAESettings", "hard_masks", "log_beta_prior"]

_OPEN = 5.0  # logits to start from: a probability of .993
_DECIDED = 0.5


def hard_masks(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """Masks of zeros and ones with the gradient of a Gumbel sigmoid; `uniform` in (0, 1) is their noise."""
    soft = ((logits + uniform.log() - (-uniform).log1p()) / temperature).sigmoid()
    return (soft > _DECIDED).to(soft) + soft - soft.detach()


def log_beta_prior(logits: Tensor, k: float) -> Tensor:
    """The log-density of Beta(1, k), summed, at probabilities sigmoid(logits): log k + (k - 1) log(1 - q)."""
    return (math.log(k) + (k - 1) * F.logsigmoid(-logits)).sum()


class MaskedShifts(PerturbationVAE):
    """What methods have whose perturbations shift some dimensions: shifts and logits of masks, (K, latents)."""

    settings_class: ClassVar[type[Any]]
    shifts: nn.Parameter
    logits: nn.Parameter

    def own_parameters(self) -> list[tuple[nn.Parameter, int]]:
        return [(self.shifts, 0)]

    @torch.no_grad()
    def start_anew(self, places: Sequence[int]) -> None:
        self.shifts[places] = 0.0
        self.logits[places] = _OPEN

    def targets(self) -> Tensor:
        return self.logits.detach() > 0


@dataclass(kw_only=True)
class SVAESettings(PerturbationSettings):
    """The loss of sVAE."""

    sparsity: float = argument(100.0, help="weight of the expected number of shifts, in nats of the whole data")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, sparsity=self.sparsity)


class SVAE(MaskedShifts):
    """A VAE of vectors whose prior each perturbation shifts in few dimensions, by a penalty on their number."""

    name = "svae"
    settings_class = SVAESettings

    def __init__(self, settings: SVAESettings, *arguments: object) -> None:
        super().__init__(settings, *arguments)  # type: ignore[arg-type]
        shape = len(self.concepts), settings.latents
        self.shifts = nn.Parameter(torch.randn(shape))
        self.logits = nn.Parameter(torch.full(shape, _OPEN))

    def prior_of(self, mask: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        rows, concepts = mask.nonzero(as_tuple=True)
        logits = self.logits[concepts]
        if self.training:
            masks = hard_masks(logits, draw_uniform(logits, generator).clamp(1e-6, 1 - 1e-6))
        else:
            masks = (logits > 0).to(logits)
        mean = torch.zeros(len(mask), self.settings.latents, device=mask.device)
        mean = mean.index_add(0, rows, masks * self.shifts[concepts])
        return mean, torch.zeros_like(mean)

    def penalty(self) -> Tensor:
        return self.settings.sparsity * self.logits.sigmoid().sum()

    def parameter_groups(self) -> list[ParameterGroup]:
        return learn_faster(self, [self.shifts, self.logits])


@dataclass(kw_only=True)
class SVAEPlusSettings(PerturbationSettings):
    """The loss of sVAE+."""

    sparsity: float = argument(100.0, help="K of the prior Beta(1, K) on the probability of a shift; 1 is uniform")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, sparsity=self.sparsity)


class SVAEPlus(SVAE):
    """A VAE of vectors whose prior each perturbation shifts in few dimensions, by a prior on the probability of it."""

    name = "svae_plus"
    settings_class = SVAEPlusSettings  # type: ignore[assignment]

    def penalty(self) -> Tensor:
        return -log_beta_prior(self.logits, self.settings.sparsity)
