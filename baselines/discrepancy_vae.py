"""The discrepancy VAE (Zhang et al., NeurIPS 2023): soft interventions on a learned graph of latents, by MMD.

    e ~ q(e | x),    u = (e + sum over a in S of b_a s_a) (I - A)^-1,    x ~ p(x | u)

A is strictly upper triangular, b_a a softmax over latents that says which one a perturbation shifts, and s_a a number.
Observational rows are explained; what they would be under a perturbation is held to real rows of it by the maximum
mean discrepancy, with Gaussian kernels of several widths:

    rec(x_obs) + beta(t) KL(q(e | x_obs) || N(0, I)) + alpha(t) G MMD^2(x_obs under S, real rows of S) + lambda |A|_1

Written from the paper's equations. A batch holds several perturbations, each pair of rows of the same one counts; rec
is in nats, summed over G columns, which is why alpha is multiplied by their number; widths of kernels follow the
distances of a batch. For scores, rows under a perturbation are encoded as observational ones are, with N(b s, I) as
the prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from context_module.baselines.gaussian import reparameterised
from context_module.baselines.perturbation import PerturbationSettings, PerturbationVAE, learn_faster
from context_module.baselines.vae import check_at_least
from context_module.data import ContextDataset, LabelledDataset, cross_pairs, log_normalised
from context_module.objective import ParameterGroup
from context_module.options import argument

__all__ = ["DiscrepancyVAE", "DiscrepancyVAESettings", "matched_mmd", "rising"]

_KERNELS, _FACTOR = 10, 2.0
_COLD, _HOT = 1.0, 5.0  # inverse temperatures of targets


def rising(progress: float, start: float, end: float) -> float:
    """0 before a share of the training, 1 after another one, and linear between.

    >>> rising(0.25, 0.1, 0.4)
    0.5
    """
    return round(min(1.0, max(0.0, (progress - start) / (end - start))), 12)


def matched_mmd(made: Tensor, real: Tensor, mask: Tensor) -> Tensor:
    """The squared MMD of made and real rows (B, G), both of the interventions of their row (B, K): a scalar.

    The kernel of two rows is a mean of Gaussian ones if they are of the same interventions, and else zero. Widths are
    powers of two around the mean distance of real rows. Unbiased, so that it may be negative.
    """
    same = (mask.float() @ mask.float().mT == mask.sum(1).float()[:, None]) & (mask.sum(1)[:, None] == mask.sum(1))
    same.fill_diagonal_(False)
    rows = torch.cat([made, real])
    squares = torch.cdist(rows, rows).square()
    n = len(made)
    width = squares[n:, n:].detach()[same].mean().clamp_min(1e-12) if same.any() else squares.new_ones(())
    powers = [_FACTOR ** (number - _KERNELS // 2) for number in range(_KERNELS)]
    kernel = torch.stack([(-squares / (power * width)).exp() for power in powers]).mean(0)
    together = kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]
    return (together * same).sum() / same.sum().clamp_min(1)


@dataclass(kw_only=True)
class DiscrepancyVAESettings(PerturbationSettings):
    """The weights of the discrepancy VAE."""

    alpha: float = argument(10.0, help="weight of the MMD; it rises from 5%% to 50%% of the training")
    beta: float = argument(2.0, help="weight of the KL; it rises from 10%% to 50%% of the training")
    graph_weight: float = argument(1e-3, help="of the absolute values of the graph, times the number of columns")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, alpha=self.alpha, graph_weight=self.graph_weight)


class DiscrepancyVAE(PerturbationVAE):
    """A VAE of vectors with a linear graph of latents, each perturbation a shift of one of them."""

    name = "discrepancy_vae"
    settings_class = DiscrepancyVAESettings
    stages = (0.5,)

    def __init__(self, settings: DiscrepancyVAESettings, *arguments: object) -> None:
        super().__init__(settings, *arguments)  # type: ignore[arg-type]
        latents = settings.latents
        self.edges = nn.Parameter(torch.zeros(latents, latents))
        self.assignment = nn.Parameter(torch.randn(len(self.concepts), latents))
        self.sizes = nn.Parameter(torch.randn(len(self.concepts)))
        self.sharpness = _HOT

    def view(self, data: ContextDataset, seed: int = 0) -> LabelledDataset:
        """Every row with an observational one, and those with rows of perturbations: see `cross_pairs`."""
        return cross_pairs(data, seed=seed)

    def graph_of_latents(self) -> Tensor:
        """(latents, latents), causes in rows, strictly upper triangular."""
        return self.edges.triu(1)

    def endogenous(self, exogenous: Tensor) -> Tensor:
        """u = e (I - A)^-1 of e (B, latents)."""
        identity = torch.eye(exogenous.shape[1], device=exogenous.device)
        return torch.linalg.solve_triangular(
            identity - self.graph_of_latents(), exogenous, upper=True, left=False, unitriangular=True
        )

    def prior_of(self, mask: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        shifts = (self.sharpness * self.assignment).softmax(1) * self.sizes[:, None]
        mean = mask.float() @ shifts
        return mean, torch.zeros_like(mean)

    def represented(self, latent: Tensor) -> Tensor:
        return self.endogenous(latent)

    def outputs_of(self, latent: Tensor) -> Tensor:
        found: Tensor = self.decoder(self.endogenous(latent))
        return found

    def losses(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        settings, width = self.settings, len(self.columns)
        x, other = self.values(batch["x"]), self.values(batch["other"])
        perturbed = batch["mask"].any(1)
        start = torch.where(perturbed[:, None], other, x)
        real = torch.where(perturbed[:, None], x, other)
        mask = batch["mask"] | batch["other_mask"]
        self.sharpness = _COLD + (_HOT - _COLD) * progress
        mean, log_var = self.posterior(start, mask)
        latent = reparameterised(mean, log_var)
        likelihood = self.explain(latent, start)
        error, kl = -likelihood.log_prob(start), 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        made = self.explain(latent + self.prior_of(mask)[0], start).mean
        seen = (log_normalised(made), log_normalised(real)) if self.likelihood != "gaussian" else (made, real)
        discrepancy = matched_mmd(seen[0] / self.scale, seen[1] / self.scale, mask)
        penalty = settings.alpha * rising(progress, 0.05, 0.5) * width * discrepancy
        penalty = penalty + settings.graph_weight * width * self.graph_of_latents().abs().sum()
        loss = error + settings.beta * rising(progress, 0.1, 0.5) * kl + penalty
        return {"loss": loss, "error": error, "kl": kl, "discrepancy": discrepancy.expand_as(kl)}

    def own_parameters(self) -> list[tuple[nn.Parameter, int]]:
        return [(self.assignment, 0), (self.sizes, 0)]

    @torch.no_grad()
    def start_anew(self, places: Sequence[int]) -> None:
        self.assignment[places] = 0.0
        self.sizes[places] = 0.0

    def parameter_groups(self) -> list[ParameterGroup]:
        return learn_faster(self, [self.edges, self.assignment, self.sizes])

    def targets(self) -> Tensor:
        return nn.functional.one_hot(self.assignment.argmax(1), self.settings.latents) > 0
