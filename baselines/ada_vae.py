"""Ada-GVAE and Ada-ML-VAE (Locatello et al., ICML 2020): pairs of images that share some of their factors.

    average over both images of rec + beta KL,

with the posteriors of both averaged in the dimensions that seem shared: those whose KL(q(z_j|x_1) || q(z_j|x_2)) is
below the middle between its largest and smallest over dimensions. Differences from public code: disent takes the KL
the other way round, or a symmetric one; the "product" of Ada-ML-VAE in disentanglement_lib has twice the variance of
the product of densities of Bouchacourt et al. (2018), which is what ``mlvae`` is here (``mlvae_doubled`` is the
former).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from context_module.baselines.gaussian import bernoulli_error, kl_per_dimension, reparameterised
from context_module.baselines.vae import Baseline, BaselineSettings, check_at_least
from context_module.data import ContextDataset, LabelledDataset, cross_pairs, pairs
from context_module.errors import DataError
from context_module.options import argument

__all__ = ["AdaVAE", "AdaVAESettings", "averaged", "gaussian_kl", "pair_loss", "shared_dimensions", "with_shared"]

Averaging = Literal["gvae", "mlvae", "mlvae_doubled"]


def gaussian_kl(mean: Tensor, log_var: Tensor, other_mean: Tensor, other_log_var: Tensor) -> Tensor:
    """KL of the first Gaussian to the second, of every entry."""
    ratio = (log_var - other_log_var).exp()
    return 0.5 * (ratio + (mean - other_mean).square() * (-other_log_var).exp() - 1 + other_log_var - log_var)


def shared_dimensions(distance: Tensor) -> tuple[Tensor, Tensor]:
    """Which dimensions (B, D) a pair seems to share, bool, by their distances; and the threshold of each pair (B,).

    One exactly at the threshold is not shared; so none is where all distances are equal.
    """
    low, high = distance.aminmax(dim=1)
    threshold = 0.5 * (low + high)
    return distance < threshold[:, None], threshold


def averaged(
    mean: Tensor, log_var: Tensor, other_mean: Tensor, other_log_var: Tensor, averaging: Averaging = "gvae"
) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of both posteriors as one: arithmetic means of means and variances, or their product."""
    if averaging == "gvae":
        return 0.5 * (mean + other_mean), torch.logaddexp(log_var, other_log_var) - math.log(2)
    log_variance = -torch.logaddexp(-log_var, -other_log_var)
    middle = (mean * (-log_var).exp() + other_mean * (-other_log_var).exp()) * log_variance.exp()
    return middle, log_variance + (math.log(2) if averaging == "mlvae_doubled" else 0.0)


def with_shared(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], averaging: Averaging = "gvae"
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Both posteriors, each (mean, log-variance) of (B, D), with the dimensions that they seem to share averaged."""
    shared, _ = shared_dimensions(gaussian_kl(*first, *second))
    both = averaged(*first, *second, averaging)
    one, other = (
        tuple(torch.where(shared, common, own) for common, own in zip(both, posterior, strict=True))
        for posterior in (first, second)
    )
    return (one[0], one[1]), (other[0], other[1])


def pair_loss(errors: tuple[Tensor, Tensor], kls: tuple[Tensor, Tensor], beta: float) -> Tensor:
    """The average over both images of reconstruction error plus weighted KL, each (B,) or a mean."""
    return 0.5 * (errors[0] + errors[1]) + beta * 0.5 * (kls[0] + kls[1])


@dataclass(kw_only=True)
class AdaVAESettings(BaselineSettings):
    """The loss of Ada-GVAE and Ada-ML-VAE."""

    averaging: Literal["gvae", "mlvae", "mlvae_doubled"] = argument(
        "gvae", help="means of means and variances, a product of densities, or that with twice its variance"
    )
    beta: float = argument(1.0, help="weight of the KL (published: 1 to 16)")
    changed_factors: int = argument(1, help="factors that the images of a pair differ in, of data in one context")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, beta=self.beta)


class AdaVAE(Baseline):
    """A VAE that learns from pairs. They are of different contexts; of data in one context they share factors."""

    name = "ada_vae"
    settings_class = AdaVAESettings

    def view(self, data: ContextDataset, seed: int = 0) -> LabelledDataset:
        """Pairs: see `cross_pairs` and `pairs`.

        Raises:
            DataError: for pairs without a changed factor, or data that none can be made of.
        """
        if len(data.context_names) > 1:
            return cross_pairs(data, seed=seed)
        if self.settings.changed_factors < 1:
            raise DataError(
                f"pairs without a changed factor teach nothing: changed_factors must be at least 1, got "
                f"{self.settings.changed_factors}"
            )
        return pairs(data, change=self.settings.changed_factors, seed=seed)

    def losses(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        x = torch.cat([batch["x"], batch["other"]])
        mean, log_var = self.encode(x)
        (one, other), (one_var, other_var) = mean.chunk(2), log_var.chunk(2)
        posteriors = with_shared((one, one_var), (other, other_var), self.settings.averaging)
        mean, log_var = (torch.cat(both) for both in zip(*posteriors, strict=True))
        errors = bernoulli_error(self.decode(reparameterised(mean, log_var)), x)
        kls = kl_per_dimension(mean, log_var).sum(1)
        first, second = errors.chunk(2)
        kl, other_kl = kls.chunk(2)
        loss = pair_loss((first, second), (kl, other_kl), self.settings.beta)
        return {"loss": loss, "error": 0.5 * (first + second), "kl": 0.5 * (kl + other_kl)}
