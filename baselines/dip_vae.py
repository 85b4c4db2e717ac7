"""DIP-VAE (Kumar et al., ICLR 2018): the covariance of the aggregate posterior is to be the identity.

    rec + KL + lambda_od sum_{i != j} C_ij^2 + lambda_d sum_i (C_ii - 1)^2

C is the covariance of the means (I), or of draws, cov(mean) + diag(E[var]) (II). Difference from public code: disent's
DIP-VAE-II adds one number to every entry of the covariance; here it is the paper's diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from context_module.baselines.gaussian import kl_per_dimension
from context_module.baselines.regularized import RegularizedSettings, RegularizedVAE, Regularizer, check_batch
from context_module.baselines.vae import check_at_least
from context_module.options import argument

__all__ = ["DIPVAE", "DIPRegularizer", "DIPVAESettings", "covariance_of_draws", "covariance_of_means", "distances"]


def covariance_of_means(mean: Tensor) -> Tensor:
    """Covariance (D, D) of posterior means (B, D) over the batch, divided by B."""
    centred = mean - mean.mean(0)
    return centred.T @ centred / len(mean)


def covariance_of_draws(mean: Tensor, log_var: Tensor) -> Tensor:
    """Covariance (D, D) of draws from posteriors of a batch: that of means, and the mean variance on the diagonal."""
    return covariance_of_means(mean) + log_var.exp().mean(0).diag()


def distances(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """How far from the identity a covariance is: sums of squares off the diagonal (both triangles), on it less 1."""
    diagonal = covariance.diagonal()
    return covariance.square().sum() - diagonal.square().sum(), (diagonal - 1).square().sum()


class DIPRegularizer(Regularizer):
    """KL and covariance; see `DIPVAESettings`."""

    def __init__(self, settings: DIPVAESettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, mean: Tensor, log_var: Tensor, z: Tensor, progress: float) -> dict[str, Tensor]:
        settings = self.settings
        check_batch(len(mean), 2, "the covariance of codes")
        kl = kl_per_dimension(mean, log_var).sum(1)
        covariance = covariance_of_means(mean) if settings.dip == "i" else covariance_of_draws(mean, log_var)
        off_diagonal, diagonal = distances(covariance)
        penalty = kl + settings.lambda_od * off_diagonal + settings.lambda_d * diagonal
        found = {"off_diagonal": off_diagonal, "diagonal": diagonal}
        return {"penalty": penalty, "kl": kl, **{name: value.expand_as(kl) for name, value in found.items()}}


@dataclass(kw_only=True)
class DIPVAESettings(RegularizedSettings):
    """The loss of DIP-VAE."""

    dip: Literal["i", "ii"] = argument("ii", help="the covariance of posterior means, or of draws")
    lambda_od: float = argument(10.0, help="weight of squared covariances (published: 1 to 50)")
    lambda_d: float = argument(10.0, help="weight of squared variances less one (published: 10 times lambda_od for i)")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, lambda_od=self.lambda_od, lambda_d=self.lambda_d)

    def regularizer(self, latents: int, images: int) -> Regularizer:
        return DIPRegularizer(self)


class DIPVAE(RegularizedVAE):
    """A VAE whose codes are to be uncorrelated, each with variance one."""

    name = "dip_vae"
    settings_class = DIPVAESettings
