"""Pretraining of a denoiser without contexts."""

from __future__ import annotations

from torch import Tensor, nn

from context_module.adapters.denoiser.adapter import DenoiserAdapter

__all__ = ["DenoisingObjective"]


class DenoisingObjective(nn.Module):
    """The bound on -log p(x) at the neutral decoder input, on pooled contexts. A dict, as of every objective."""

    def __init__(self, base: DenoiserAdapter) -> None:
        super().__init__()
        self.base = base

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        x = batch["x"]
        return {"loss": -self.base.decode(self.base.sample_latent(len(x))).log_prob(x)}
