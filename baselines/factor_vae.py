"""FactorVAE (Kim & Mnih, ICML 2018): a discriminator estimates the total correlation of the codes.

    rec + KL + gamma E[D_0(z) - D_1(z)]

It tells codes (class 0) from codes whose dimensions are permuted over a second, independent batch (class 1). Half of a
batch is that second one; the VAE itself learns from both halves. Each of the two players gets the gradient of its own
loss alone, in one backward pass: in some public code the discriminator's loss also moves the encoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.baselines.gaussian import kl_per_dimension
from context_module.baselines.regularized import RegularizedSettings, RegularizedVAE, Regularizer, check_batch
from context_module.baselines.vae import check_at_least
from context_module.objective import ParameterGroup
from context_module.options import argument

__all__ = [
    "Discriminator",
    "FactorRegularizer",
    "FactorVAE",
    "FactorVAESettings",
    "discriminator_loss",
    "permuted",
    "total_correlation",
]


class Discriminator(nn.Sequential):
    """Linear layers with leaky ReLUs between them, codes (B, D) to two logits (B, 2): a code, or a permuted one."""

    def __init__(self, latents: int, width: int = 1000, layers: int = 6, slope: float = 0.2) -> None:
        sizes = [latents, *[width] * (layers - 1), 2]
        linear = [nn.Linear(ins, outs) for ins, outs in pairwise(sizes)]
        super().__init__(*[layer for one in linear for layer in (one, nn.LeakyReLU(slope))][:-1])
        for layer in linear:
            nn.init.kaiming_normal_(layer.weight, slope)
            nn.init.zeros_(layer.bias)


def permuted(z: Tensor, order: Tensor | None = None) -> Tensor:
    """Codes (B, D), each dimension in an order of its own over the batch.

    Args:
        z: the codes.
        order: int64 (B, D), which item each entry is taken from; by default random.
    """
    if order is None:
        order = torch.rand_like(z).argsort(0)
    return z.gather(0, order)


def total_correlation(logits: Tensor) -> Tensor:
    """Estimates (B,) from the discriminator's logits (B, 2) of codes: their difference is log q(z) / prod_j q(z_j)."""
    return logits[:, 0] - logits[:, 1]


def discriminator_loss(logits: Tensor, logits_permuted: Tensor) -> Tensor:
    """Half the cross-entropy of codes as class 0 plus that of permuted ones as class 1: a scalar, nats."""
    of_codes, of_permuted = total_correlation(logits), total_correlation(logits_permuted)
    return 0.5 * (F.softplus(-of_codes).mean() + F.softplus(of_permuted).mean())


class FactorRegularizer(Regularizer):
    """KL and total correlation, and the discriminator that says what it is; see `FactorVAESettings`."""

    def __init__(self, settings: FactorVAESettings, latents: int) -> None:
        super().__init__()
        self.settings = settings
        self.discriminator = Discriminator(latents, settings.discriminator_width)

    def forward(self, mean: Tensor, log_var: Tensor, z: Tensor, progress: float) -> dict[str, Tensor]:
        check_batch(len(z), 4, "the total correlation, between codes and permuted ones,")
        kl = kl_per_dimension(mean, log_var).sum(1)
        # one backward pass: the VAE sees the discriminator's weights as constants, that one sees the codes as such
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        correlation = total_correlation(torch.func.functional_call(self.discriminator, frozen, (z,)))
        first, second = z.detach().chunk(2)
        told = discriminator_loss(self.discriminator(first), self.discriminator(permuted(second)))
        penalty = kl + self.settings.gamma * correlation + told
        return {
            "penalty": penalty,
            "kl": kl,
            "total_correlation": correlation,
            "discriminator": told.expand_as(kl),
        }

    def groups(self, parameters: Iterable[nn.Parameter]) -> list[ParameterGroup]:
        own = set(self.parameters())
        others = [parameter for parameter in parameters if parameter not in own]
        return [ParameterGroup(others), ParameterGroup(list(self.parameters()), betas=(0.5, 0.9))]


@dataclass(kw_only=True)
class FactorVAESettings(RegularizedSettings):
    """The loss of FactorVAE."""

    gamma: float = argument(6.4, help="weight of the total correlation (published: 6.4 to 100)")
    discriminator_width: int = argument(1000, help="of each of the discriminator's five hidden layers")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, gamma=self.gamma)
        check_at_least(1, discriminator_width=self.discriminator_width)

    def regularizer(self, latents: int, images: int) -> Regularizer:
        return FactorRegularizer(self, latents)


class FactorVAE(RegularizedVAE):
    """A VAE with a discriminator that tells how far its codes are from independent."""

    name = "factor_vae"
    settings_class = FactorVAESettings
