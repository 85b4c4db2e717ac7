"""iVAE (Khemakhem et al., AISTATS 2020): a prior that is told of an auxiliary variable u, and so is the posterior.

    E_q log p(x | z) - KL(q(z | x, u) || p(z | u)),    p(z | u) = N(m(u), diag exp(l(u)))

Here u are the perturbations, as numbers 0 and 1. The paper allows a mean that depends on u, published code fixes it
to zero; here it is learned by default, as the means of interventions cannot be told without it. With ``annealed`` the
loss is that of public code in the first 62.5% of the training,

    -a log p(x | z) + b (log q(z | x, u) - log q(z)) + c (log q(z) - sum_d log q(z_d))
        + d (sum_d log q(z_d) - log p(z | u)),

with weights that move towards 100, 1, 1 and 1. There the variance of the decoder is fixed, here it is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from context_module.baselines.gaussian import log_normal, reparameterised
from context_module.baselines.perturbation import PerturbationSettings, PerturbationVAE
from context_module.baselines.tc_vae import log_aggregate
from context_module.options import argument

__all__ = ["IVAE", "IVAESettings", "annealed_weights", "mlp", "weighted_bound"]

_ANNEALED = 1.6
_SLOPE = 0.1
_STARTS, _ENDS = (50.0, 15.0, 0.0, 25.0), (100.0, 0.0, 1.0, 0.0)


def mlp(inputs: int, width: int, outputs: int, depth: int, slope: float = _SLOPE) -> nn.Sequential:
    """`depth` linear layers with leaky ReLUs between them."""
    widths = [inputs, *[width] * (depth - 1), outputs]
    found: list[nn.Module] = []
    for a, b in pairwise(widths):
        found += [nn.Linear(a, b), nn.LeakyReLU(slope)]
    return nn.Sequential(*found[:-1])


def annealed_weights(progress: float) -> tuple[float, float, float, float] | None:
    """a, b, c and d at a share of the training; None once the plain bound is maximised.

    >>> annealed_weights(0.3)
    (74.0, 7.8, 0.48, 13.0)
    """
    done = _ANNEALED * progress
    if done > 1:
        return None
    moved = [start + done * (end - start) for start, end in zip(_STARTS, _ENDS, strict=True)]
    a, b, c, d = (round(weight, 12) for weight in moved)
    return a, max(b, 1.0), c, max(d, 1.0)


def weighted_bound(
    log_px: Tensor, log_qz: Tensor, log_pz: Tensor, aggregate: tuple[Tensor, Tensor], weights: tuple[float, ...]
) -> Tensor:
    """What is maximised while annealed (B,); with all weights one it is the bound by a draw.

    Args:
        log_px, log_qz, log_pz: log-densities (B,) of the row, and of its code under posterior and prior.
        aggregate: estimates of log q(z) and of sum_d log q(z_d), see `log_aggregate`.
        weights: a, b, c and d.
    """
    joint, product = aggregate
    a, b, c, d = weights
    return a * log_px - b * (log_qz - joint) - c * (joint - product) - d * (product - log_pz)


@dataclass(kw_only=True)
class IVAESettings(PerturbationSettings):
    """The prior and the loss of iVAE."""

    prior_mean: bool = argument(True, help="the prior's mean is learned, too, and not zero")
    prior_width: int = argument(50, help="of the hidden layers of the prior's network")
    prior_depth: int = argument(1, help="linear layers of the prior's network (published: 3); with 1 means add up")
    annealed: bool = argument(False, help="the weighted loss of public code, before the plain bound")


class IVAE(PerturbationVAE):
    """A VAE of vectors whose prior and posterior are told of the perturbations."""

    name = "ivae"
    settings_class = IVAESettings

    @property
    def told_width(self) -> int:
        return len(self.concepts)

    def __init__(self, settings: IVAESettings, *arguments: object) -> None:
        super().__init__(settings, *arguments)  # type: ignore[arg-type]
        outputs = (1 + settings.prior_mean) * settings.latents
        self.prior_network = mlp(len(self.concepts), settings.prior_width, outputs, settings.prior_depth)
        if settings.annealed:
            self.stages = (1 / _ANNEALED,)

    def own_parameters(self) -> list[tuple[nn.Parameter, int]]:
        weight = self.prior_network[0].weight
        assert isinstance(weight, nn.Parameter)
        return [(weight, 1)]

    @torch.no_grad()
    def start_anew(self, places: Sequence[int]) -> None:
        """The encoder is told nothing of them: its weights would be those of chance."""
        first, told = self.prior_network[0], self.encoder[0]
        assert isinstance(first, nn.Linear)
        assert isinstance(told, nn.Linear)
        first.weight[:, places] = 0.0
        told.weight[:, [len(self.columns) + place for place in places]] = 0.0

    def prior_of(self, mask: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        found = self.prior_network(mask.float())
        if not self.settings.prior_mean:
            return torch.zeros_like(found), found.clamp(-8, 8)
        mean, log_var = found.chunk(2, dim=1)
        return mean, log_var.clamp(-8, 8)

    def losses(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        weights = annealed_weights(progress) if self.settings.annealed else None
        if weights is None:
            return super().losses(batch, progress)
        x, mask = self.values(batch["x"]), batch["mask"]
        mean, log_var = self.posterior(x, mask)
        latent = reparameterised(mean, log_var)
        log_px = self.explain(latent, x).log_prob(x)
        log_qz = log_normal(latent, mean, log_var).sum(1)
        log_pz = log_normal(latent, *self.prior_of(mask)).sum(1)
        aggregate = log_aggregate(latent, mean, log_var, self.items)
        loss = -weighted_bound(log_px, log_qz, log_pz, aggregate, weights)
        return {"loss": loss, "error": -log_px, "kl": log_qz - log_pz}
