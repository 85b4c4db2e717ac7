"""beta-VAE (Higgins et al., ICLR 2017), and its controlled capacity (Burgess et al. 2018).

    rec + beta KL,    or    rec + gamma |KL - C|

C rises linearly during training. That is AnnealedVAE of disentanglement_lib, too (gamma 1000, C to 5 to 100 nats). A
weight that warms up is of public code, not of the papers.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from context_module.baselines.gaussian import kl_per_dimension, linear_capacity
from context_module.baselines.regularized import RegularizedSettings, RegularizedVAE, Regularizer
from context_module.baselines.vae import check_at_least
from context_module.options import argument

__all__ = ["BetaRegularizer", "BetaVAE", "BetaVAESettings", "capacity_penalty"]


def capacity_penalty(kl: Tensor, capacity: float, gamma: float) -> Tensor:
    """gamma |KL - C|, a scalar, of the KLs (B,) of a batch: their mean is what has a capacity."""
    return gamma * (kl.mean() - capacity).abs()


class BetaRegularizer(Regularizer):
    """beta KL, or gamma |KL - C|; see `BetaVAESettings`."""

    def __init__(self, settings: BetaVAESettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, mean: Tensor, log_var: Tensor, z: Tensor, progress: float) -> dict[str, Tensor]:
        settings = self.settings
        kl = kl_per_dimension(mean, log_var).sum(1)
        if settings.capacity is None:
            warm = min(1.0, progress / settings.beta_warmup) if settings.beta_warmup else 1.0
            return {"penalty": warm * settings.beta * kl, "kl": kl}
        capacity = linear_capacity(progress / settings.capacity_share, 0.0, settings.capacity)
        return {"penalty": capacity_penalty(kl, capacity, settings.gamma).expand_as(kl), "kl": kl}


@dataclass(kw_only=True)
class BetaVAESettings(RegularizedSettings):
    """The loss of beta-VAE."""

    beta: float = argument(4.0, help="weight of the KL (published: 1 to 16)")
    beta_warmup: float = argument(0.0, help="share of the training over which the weight rises from zero")
    capacity: float | None = argument(None, help="KL in nats that is aimed at in the end, in place of a weight")
    gamma: float = argument(1000.0, help="weight of the distance from the capacity")
    capacity_share: float = argument(1 / 3, help="share of the training over which the capacity rises from zero")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, beta=self.beta, beta_warmup=self.beta_warmup, capacity=self.capacity or 0, gamma=self.gamma)
        if not 0 < self.capacity_share <= 1:
            raise ValueError(f"capacity_share must be in (0, 1], got {self.capacity_share}")

    def regularizer(self, latents: int, images: int) -> Regularizer:
        return BetaRegularizer(self)


class BetaVAE(RegularizedVAE):
    """A VAE whose KL is weighted, or kept near a capacity that rises."""

    name = "beta_vae"
    settings_class = BetaVAESettings
