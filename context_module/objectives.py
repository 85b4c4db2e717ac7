"""The losses, as modules that the training loop calls: one forward pass per batch, one value per sample and term."""

from __future__ import annotations

from torch import Tensor, nn

from context_module.wrap import ContextualDecoder

__all__ = ["PixelObjective"]


class PixelObjective(nn.Module):
    """The ELBO in pixel space: -log p(x | e) + beta KL(q(z | x, m) || N(0, I)) + KL of the base's deeper latents.

    Args:
        model: the wrapped base.
        beta: weight of the noise's KL.
        warmup_share: share of the training over which beta rises linearly from zero, so that the noise learns to carry
            the image before it is asked to be cheap.
    """

    def __init__(self, model: ContextualDecoder, beta: float = 1.0, warmup_share: float = 0.1) -> None:
        super().__init__()
        self.model, self.beta, self.warmup_share = model, beta, warmup_share

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            batch: ``x``, images (B, C, H, W) in [0, 1], and ``mask``, bool (B, K).
            progress: share of the training done, in [0, 1]; only matters in training mode.

        Returns:
            ``loss`` and its terms, each (B,), in nats.
        """
        warm = min(1.0, progress / self.warmup_share) if self.training and self.warmup_share else 1.0
        out = self.model(batch["x"], batch["mask"], beta=self.beta * warm)
        return {
            "loss": out.loss,
            "neg_log_likelihood": out.neg_log_likelihood,
            "kl_noise": out.kl_noise,
            "kl_base": out.kl_base,
        }
