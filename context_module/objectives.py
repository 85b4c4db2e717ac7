"""The losses, as modules that the training loop calls: one forward pass per batch, one value per sample and term."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.encodings import EncodedDataset
from context_module.posterior import standard_normal_kl
from context_module.wrap import ContextualDecoder

__all__ = ["LatentObjective", "PixelObjective"]


class PixelObjective(nn.Module):
    """The ELBO in pixel space: -log p(x | e) + beta KL(q(z | x, m) || N(0, I)) + KL of the base's deeper latents.

    Args:
        model: the wrapped base.
        beta: weight of the noise's KL.
        warmup_share: share of the training over which beta rises linearly from zero, so that the noise learns to carry
            the image before it is asked to be cheap.
        frozen_share: share of the training in which an unfrozen base stands still (the paper's fine-tuning: 0.2).
    """

    def __init__(
        self, model: ContextualDecoder, *, beta: float = 1.0, warmup_share: float = 0.3, frozen_share: float = 0.0
    ) -> None:
        super().__init__()
        self.model, self.beta, self.warmup_share, self.frozen_share = model, beta, warmup_share, frozen_share

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            batch: ``x``, images (B, C, H, W) in [0, 1], and ``mask``, bool (B, K).
            progress: share of the training done, in [0, 1]; only matters in training mode.

        Returns:
            ``loss`` and its terms, each (B,), in nats.
        """
        beta, still = _warm(self, self.beta, progress), self.training and progress < self.frozen_share
        with self.model.frozen_base() if still else nullcontext():
            out = self.model(batch["x"], batch["mask"], beta=beta)
        return {
            "loss": out.loss,
            "neg_log_likelihood": out.neg_log_likelihood,
            "kl_noise": out.kl_noise,
            "kl_base": out.kl_base,
        }


class LatentObjective(nn.Module):
    """The same ELBO with the base's own embedding in the image's place, and generated matched to encoded embeddings.

    Encodings are computed once (`context_module.encodings`): the base does not run in training. Three terms:

    - the ELBO of the embedding under N(e, scale^2), e the module's output, with beta before the noise's KL;
    - matching: the squared sliced Wasserstein distance, context by context, between the batch's embeddings and as many
      generated from N(0, I) noise. The ELBO alone leaves a gap between the noise that `generate` draws and the noise
      that images have, and does not show it. Each process and accumulation pass matches its own share of a batch;
    - sparsity: the sum of the norms of the intervention layer's edges. Single contexts tell an effect along an edge
      and one straight through the inversion only weakly apart; fewer edges compose better.

    Args:
        model: a wrapped base with ``latent_noise=True``.
        encodings: those of the training images.
        start: start the module from the encodings' mean and spread; not for one that is trained already.
        beta, warmup_share: as for `PixelObjective`.
        matching, sparsity: weights of these terms.
        posterior_share: the embedding modelled is the posterior's mean plus this share of its noise. With none,
            details that the decoder never sees would be modelled; with all, the noise would drown the image.
        projections: random directions of the matching term.

    Raises:
        ValueError: for a model without latent noise.
    """

    center: Tensor
    spread: Tensor
    signal: Tensor

    def __init__(
        self,
        model: ContextualDecoder,
        encodings: EncodedDataset,
        *,
        start: bool = True,
        beta: float = 0.2,
        warmup_share: float = 0.3,
        matching: float = 300.0,
        sparsity: float = 1.0,
        posterior_share: float = 0.3,
        projections: int = 64,
    ) -> None:
        super().__init__()
        if not model.config.latent_noise:
            raise ValueError("the latent objective models the decoder input: wrap the base with latent_noise=True")
        self.model, self.beta, self.warmup_share = model, beta, warmup_share
        self.matching, self.sparsity = matching, sparsity
        self.posterior_share, self.projections = posterior_share, projections
        mean, variance = encodings.mean.flatten(1), encodings.log_var.flatten(1).exp().mean(0)
        # dimensions the base does not use keep their tiny signal beside their noise, instead of being blown up
        spread = (mean.var(0) + posterior_share**2 * variance).sqrt().clamp_min(1e-4)
        device = model.module.inversion.linear.weight.device
        self.register_buffer("center", mean.mean(0).to(device), persistent=False)
        self.register_buffer("spread", spread.to(device), persistent=False)
        self.register_buffer("signal", (mean.std(0) / spread).to(device), persistent=False)
        if start:
            model.module.fit_latents(self.center, self.spread)

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """Losses of one batch of an `EncodedDataset`; arguments and result as for `PixelObjective`."""
        mask, noise_std = batch["mask"], (0.5 * batch["log_var"].flatten(1)).exp() * self.posterior_share
        target = self._standardised(batch["mean"].flatten(1) + noise_std * torch.randn_like(noise_std))
        posterior = self.model.posterior_heads(batch["features"], mask)
        kl_noise = standard_normal_kl(posterior)
        module = self.model.module
        scale = torch.as_tensor(module.scale).flatten().float() / self.spread
        predicted = self._standardised(module(posterior.rsample(), mask).flatten(1).float())
        neg_log_likelihood = (
            0.5 * ((target - predicted) / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)
        ).sum(1)
        generated = self._standardised(module(torch.randn_like(posterior.mean), mask).flatten(1).float())
        directions = self._directions()
        distance = _distance(target, generated + scale * torch.randn_like(generated), mask, directions)
        loss = neg_log_likelihood + _warm(self, self.beta, progress) * kl_noise + self.matching * distance
        loss = loss + self.sparsity * module.intervention.effect_norms().sum()
        return {
            "loss": loss,
            "neg_log_likelihood": neg_log_likelihood,
            "kl_noise": kl_noise,
            "matching": distance.expand_as(loss),
        }

    def _standardised(self, latent: Tensor) -> Tensor:
        return (latent - self.center) / self.spread

    def _directions(self) -> Tensor:
        """Random unit vectors (D, projections): those that the base uses, lest the others' noise drown them."""
        directions = torch.randn(len(self.signal), self.projections, device=self.signal.device)
        return F.normalize(directions * self.signal[:, None], dim=0)


def _distance(real: Tensor, generated: Tensor, mask: Tensor, directions: Tensor) -> Tensor:
    """Squared sliced Wasserstein distance (B, D) to (B, D) within each context, averaged over the samples."""
    real, generated = real @ directions, generated @ directions
    rows = [(mask == context).all(dim=1) for context in mask.unique(dim=0)]
    gaps = [(real[row].sort(0).values - generated[row].sort(0).values).square().mean(1).sum() for row in rows]
    return torch.stack(gaps).sum() / len(real)


def _warm(objective: PixelObjective | LatentObjective, beta: float, progress: float) -> float:
    """Beta at this point of the training; whole in evaluation."""
    share = objective.warmup_share
    return beta * min(1.0, progress / share) if objective.training and share else beta
