"""JointVAE (Dupont, NeurIPS 2018): continuous and discrete codes, each kind with a capacity that rises.

    rec + gamma_z |KL_z - C_z| + gamma_c |KL_c - C_c|

Discrete codes are Gumbel-softmax draws in training, and KL_c is that of their categoricals. Difference from public
code: the reconstruction is the whole log-likelihood, channels included (the authors' code has 1 / C of it). The ELBO
that weights are chosen by is that of categories drawn, not of relaxed ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.baselines.beta_vae import capacity_penalty
from context_module.baselines.gaussian import bernoulli_error, kl_per_dimension, linear_capacity, reparameterised
from context_module.baselines.vae import Baseline, BaselineSettings, check_at_least
from context_module.normal import draw_uniform
from context_module.options import argument

__all__ = ["JointVAE", "JointVAESettings", "categorical_kl", "discrete_capacity", "gumbel_softmax", "joint_loss"]

_EPS = 1e-12


def gumbel_softmax(probabilities: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Relaxed one-hot draws (B, K) from categoricals, with given uniform noise in [0, 1)."""
    gumbel = -(-(uniform + _EPS).log() + _EPS).log()
    return (((probabilities + _EPS).log() + gumbel) / temperature).softmax(1)


def categorical_kl(probabilities: Tensor) -> Tensor:
    """KL to the uniform distribution of categoricals (B, K): (B,)."""
    return math.log(probabilities.shape[1]) + (probabilities * (probabilities + _EPS).log()).sum(1)


def discrete_capacity(done: float, start: float, end: float, categories: tuple[int, ...]) -> float:
    """`linear_capacity`, but no more than the categories can hold."""
    return min(linear_capacity(done, start, end), sum(map(math.log, categories)))


def joint_loss(
    error: Tensor, kl_continuous: Tensor, kl_discrete: Tensor, capacities: tuple[float, float], gammas: Any
) -> Tensor:
    """The loss (B,), of errors and KLs (B,) in nats, capacities and weights of continuous and discrete codes."""
    continuous = capacity_penalty(kl_continuous, capacities[0], gammas[0])
    return error + continuous + capacity_penalty(kl_discrete, capacities[1], gammas[1])


@dataclass(kw_only=True)
class JointVAESettings(BaselineSettings):
    """The loss of JointVAE."""

    latents: int = argument(6, help="continuous latent dimensions")
    categories: list[int] = argument([3], help="numbers of values of the discrete codes")
    temperature: float = argument(0.67, help="of the Gumbel-softmax draws")
    continuous_capacity: float = argument(40.0, help="nats that continuous codes are to hold in the end")
    discrete_capacity: float = argument(1.1, help="nats that discrete codes are to hold in the end")
    continuous_gamma: float = argument(150.0, help="weight of the distance from the continuous capacity")
    discrete_gamma: float = argument(150.0, help="weight of the distance from the discrete capacity")
    capacity_share: float = argument(1.0, help="share of the training over which capacities rise from zero")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.categories:
            raise ValueError("a JointVAE without discrete codes is a beta-VAE: give categories, or --method beta_vae")
        for size in self.categories:
            check_at_least(2, categories=size)
        check_at_least(
            0,
            continuous_capacity=self.continuous_capacity,
            discrete_capacity=self.discrete_capacity,
            continuous_gamma=self.continuous_gamma,
            discrete_gamma=self.discrete_gamma,
        )
        if self.temperature <= 0 or not 0 < self.capacity_share <= 1:
            raise ValueError(
                f"temperature must be positive and capacity_share in (0, 1], got {self.temperature} and "
                f"{self.capacity_share}"
            )


class JointVAE(Baseline):
    """A VAE with continuous and discrete codes."""

    name = "joint_vae"
    settings_class = JointVAESettings

    def __init__(self, settings: JointVAESettings, image_shape: tuple[int, int, int], images: int) -> None:
        self.categories = tuple(settings.categories)
        super().__init__(settings, image_shape, images)

    @property
    def outputs(self) -> int:
        return 2 * self.settings.latents + sum(self.categories)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Mean and log-variance (B, latents), and the probabilities (B, K) of every discrete code."""
        numbers = self.encoder(x).float()
        *pair, logits = numbers.tensor_split([self.settings.latents, 2 * self.settings.latents], dim=1)
        return pair[0], pair[1], [code.softmax(1) for code in logits.split(self.categories, dim=1)]

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        x = batch["x"]
        mean, log_var, discrete = self.posterior(x)
        relaxed = [gumbel_softmax(code, draw_uniform(code), self.settings.temperature) for code in discrete]
        error = bernoulli_error(self.decode(torch.cat([reparameterised(mean, log_var), *relaxed], dim=1)), x)
        kl, kl_discrete = kl_per_dimension(mean, log_var).sum(1), torch.stack([*map(categorical_kl, discrete)]).sum(0)
        return {"error": error, "kl_continuous": kl, "kl_discrete": kl_discrete}

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        settings, done = self.settings, progress / self.settings.capacity_share
        capacities = (
            linear_capacity(done, 0.0, settings.continuous_capacity),
            discrete_capacity(done, 0.0, settings.discrete_capacity, self.categories),
        )
        gammas = (settings.continuous_gamma, settings.discrete_gamma)
        error, kl, kl_discrete = parts["error"], parts["kl_continuous"], parts["kl_discrete"]
        return {"loss": joint_loss(error, kl, kl_discrete, capacities, gammas), **parts}

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        mean, log_var, discrete = self.posterior(x)
        # the Gumbel-max trick: one-hot draws are those of temperature zero
        drawn = [_one_hot(gumbel_softmax(code, draw_uniform(code, generator), 1.0)) for code in discrete]
        kl = kl_per_dimension(mean, log_var).sum(1) + torch.stack([*map(categorical_kl, discrete)]).sum(0)
        return torch.cat([reparameterised(mean, log_var, generator), *drawn], dim=1), kl

    def centre(self, x: Tensor) -> Tensor:
        mean, _, discrete = self.posterior(x)
        return torch.cat([mean, *map(_one_hot, discrete)], dim=1)


def _one_hot(probabilities: Tensor) -> Tensor:
    return F.one_hot(probabilities.argmax(1), probabilities.shape[1]).to(probabilities)
