"""The ELBO in pixel space."""

from __future__ import annotations

from contextlib import nullcontext
from typing import cast

from torch import Tensor

from context_module.model import ContextualDecoder
from context_module.nn import ContextModule
from context_module.objective import Objective

__all__ = ["PixelObjective"]


class PixelObjective(Objective):
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

    def after_step(self) -> None:
        if self.model.config.reference:
            cast("ContextModule", self.model.module).intervention.clamp_effects()

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            batch: ``x``, images (B, C, H, W) in [0, 1], and ``mask``, bool (B, K).
            progress: share of the training done, in [0, 1]; only matters in training mode.

        Returns:
            ``loss`` and its terms, each (B,), in nats.
        """
        beta, still = self.beta * self.warm(progress), self.training and progress < self.frozen_share
        with self.model.frozen_base() if still else nullcontext():
            out = self.model(batch["x"], batch["mask"], beta=beta)
        return {
            "loss": out.loss,
            "neg_log_likelihood": out.neg_log_likelihood,
            "kl_noise": out.kl_noise,
            "kl_base": out.kl_base,
        }
