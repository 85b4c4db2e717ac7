"""Pretraining of a denoiser without contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from context_module.adapters.contract import DecoderAdapter
from context_module.adapters.denoiser.adapter import DenoiserAdapter
from context_module.adapters.pretraining import Pretraining
from context_module.normal import draw_normal, standard_normal_kl
from context_module.objective import Objective
from context_module.options import argument
from context_module.rows import spread_over_rows

if TYPE_CHECKING:
    from context_module.data import ContextDataset

__all__ = ["DenoisingObjective"]


class DenoisingObjective(Objective):
    """The squared error of the denoiser's output, on pooled contexts; with an encoder, beta KL of embeddings besides.

    Levels of noise are drawn evenly in time, as denoisers are usually trained, and not as in the bound on the
    likelihood: that is made of detail, which an embedding would be spent on. Half the squared error is taken, summed
    over the data: in nats of a Gaussian of variance one. A dict, as of every objective.

    Args:
        base: the denoiser, and with it its encoder.
        beta: weight of the embedding's KL from N(0, I). Measured on quad images of 3 x 32 x 32, it leaves an embedding
            about 50 nats, and 1 leaves it 7, too few to say what is where.
    """

    def __init__(self, base: DenoiserAdapter, beta: float = 0.1) -> None:
        super().__init__()
        self.base, self.beta = base, beta

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        x, base = batch["x"], self.base
        kl = torch.zeros(len(x), device=x.device)
        latent = base.sample_latent(len(x))
        if base.encoder is not None:
            raw, log_var = base.encoder.posterior(x)
            if log_var is not None:
                mean, log_var = raw.float(), log_var.float()
                kl = standard_normal_kl(mean, log_var.exp(), log_var)
                raw = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
            latent = base.latent.normalise(raw)
        data, schedule = base.data(x), base.schedule
        noise = draw_normal(data)
        # one draw, spread evenly over the batch, as in the bound
        shares = spread_over_rows(torch.rand(1, device=x.device), len(x))
        level = (shares * len(schedule.timesteps)).long()
        output = base.denoise(schedule.add_noise(data, noise, level), schedule.timesteps[level], latent)
        errors = 0.5 * (schedule.target(data, noise, level) - output).square().flatten(1).sum(1)
        return {"loss": errors + self.beta * kl, "error": errors, "kl": kl}


@dataclass(kw_only=True)
class DenoiserPretraining(Pretraining):
    """A small diffusion autoencoder."""

    files = ("model_index.json", "scheduler/*", "unet/*", "encoder/*")
    beta: float = argument(0.1, help="weight of the KL of embeddings")

    def build(self, data: ContextDataset) -> tuple[DecoderAdapter, DenoisingObjective]:
        base = DenoiserAdapter.fresh(data.image_shape)
        return base, DenoisingObjective(base, self.beta)

    def settle(self, base: DecoderAdapter, train_data: ContextDataset, val_data: ContextDataset) -> None:
        assert isinstance(base, DenoiserAdapter)
        base.fit_density(train_data.first(500))
