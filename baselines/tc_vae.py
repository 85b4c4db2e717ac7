"""TC-VAE, or beta-TCVAE (Chen et al., NeurIPS 2018): the KL in three parts, the total correlation weighing more.

    rec + alpha I(x; z) + beta TC(z) + gamma sum_j KL(q(z_j) || p(z_j))

with q(z) estimated from the batch, by minibatch-weighted or stratified sampling. All constants are kept, so that the
figures that are logged are estimates in nats. Differences from public code: the stratified weights are those of the
paper's appendix C.2, 1/N for an item's own component (public code gives 1/N to the first item of the batch instead,
and estimates q(z) up to twice too large); with beta 1 it is a VAE, and the whole KL is not weighted again (disent's
is).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from context_module.baselines.gaussian import log_normal
from context_module.baselines.regularized import RegularizedSettings, RegularizedVAE, Regularizer, check_batch
from context_module.baselines.vae import check_at_least
from context_module.errors import DataError
from context_module.options import argument

__all__ = ["TCVAE", "TCRegularizer", "TCVAESettings", "decomposed_kl", "log_aggregate", "stratified_weights"]

Estimator = Literal["weighted", "stratified"]


def stratified_weights(items: int, images: int, like: Tensor) -> Tensor:
    """Importance weights (B, B) of stratified sampling: [j, i] of the posterior of item i at the draw of item j.

    With M = B - 1: 1/N of the item's own posterior, (N - M) / (N M) of one other, here the next, 1/M of the rest.
    """
    others = items - 1
    weights = torch.full((items, items), 1 / others, dtype=like.dtype, device=like.device)
    rows = torch.arange(items, device=like.device)
    weights[rows, (rows + 1) % items] = (images - others) / (images * others)
    weights[rows, rows] = 1 / images
    return weights


def log_aggregate(
    z: Tensor, mean: Tensor, log_var: Tensor, images: int, estimator: Estimator = "weighted"
) -> tuple[Tensor, Tensor]:
    """Estimates (B,) of log q(z) and of sum_d log q(z_d) at draws z (B, D), from the batch's own posteriors.

    Args:
        z, mean, log_var: (B, D).
        images: N, the number of images that q is the aggregate over.
        estimator: of the paper's, minibatch-weighted or minibatch-stratified.

    Raises:
        DataError: for a batch of one item, or of more than there are images.
    """
    items = len(z)
    check_batch(items, 2, "the total correlation")
    if images < items:
        raise DataError(f"a batch of {items} items is larger than the {images} images it is drawn from")
    each = log_normal(z[:, None], mean[None], log_var[None])  # [j, i, d] of item j's draw under item i's posterior
    if estimator == "weighted":
        log_weights = torch.full_like(each[..., 0], -math.log(items * images))
    else:
        log_weights = stratified_weights(items, images, z).log()
    joint = (log_weights + each.sum(2)).logsumexp(1)
    return joint, (log_weights[..., None] + each).logsumexp(1).sum(1)


def decomposed_kl(
    z: Tensor, mean: Tensor, log_var: Tensor, images: int, estimator: Estimator = "weighted"
) -> dict[str, Tensor]:
    """Mutual information, total correlation and KL by dimension, each (B,): their sum is log q(z|x) - log p(z).

    Arguments and errors as for `log_aggregate`.
    """
    joint, product = log_aggregate(z, mean, log_var, images, estimator)
    posterior = log_normal(z, mean, log_var).sum(1)
    prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
    return {
        "mutual_information": posterior - joint,
        "total_correlation": joint - product,
        "dimensions_kl": product - prior,
    }


class TCRegularizer(Regularizer):
    """The three parts, weighted; see `TCVAESettings`."""

    def __init__(self, settings: TCVAESettings, images: int) -> None:
        super().__init__()
        self.settings, self.images = settings, images

    def forward(self, mean: Tensor, log_var: Tensor, z: Tensor, progress: float) -> dict[str, Tensor]:
        settings = self.settings
        parts = decomposed_kl(z, mean, log_var, self.images, settings.estimator)
        weights = (settings.alpha, settings.beta, settings.gamma)
        penalty = torch.stack([weight * part for weight, part in zip(weights, parts.values(), strict=True)]).sum(0)
        return {"penalty": penalty, **parts}


@dataclass(kw_only=True)
class TCVAESettings(RegularizedSettings):
    """The loss of TC-VAE."""

    alpha: float = argument(1.0, help="weight of the mutual information of images and codes")
    beta: float = argument(6.0, help="weight of the total correlation (published: 1 to 10; 1 is a plain VAE)")
    gamma: float = argument(1.0, help="weight of the KL of single dimensions")
    estimator: Literal["weighted", "stratified"] = argument("weighted", help="how q(z) is estimated from a batch")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, alpha=self.alpha, beta=self.beta, gamma=self.gamma)

    def regularizer(self, latents: int, images: int) -> Regularizer:
        return TCRegularizer(self, images)


class TCVAE(RegularizedVAE):
    """A VAE whose total correlation is weighted, by its estimate from the batch."""

    name = "tc_vae"
    settings_class = TCVAESettings
