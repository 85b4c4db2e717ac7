"""Pretraining an autoencoder of diffusers: the ELBO with a learned scale of the likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from context_module.adapters.contract import DecoderAdapter
from context_module.adapters.diffusers.adapter import DiffusersAdapter
from context_module.adapters.pretraining import Pretraining
from context_module.normal import standard_normal_kl
from context_module.objective import Objective
from context_module.options import argument

if TYPE_CHECKING:
    from context_module.data import ContextDataset

__all__ = ["AutoencoderKLObjective"]


class AutoencoderKLObjective(Objective):
    """Pretraining: -log p(x | latent) + beta KL on pooled contexts. Returns the same kind of dict as every objective.

    The likelihood's scale is learned (Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated
    Decoders"), so that beta=1 is the ELBO whatever the errors. It comes down to the errors' size, and with it the
    weight of the KL relative to them, to where autoencoders of latent diffusion choose it by hand.

    Raises:
        ValueError: for a class whose encoder gives no distribution.
    """

    optimizer = torch.optim.Adamax

    def __init__(self, base: DiffusersAdapter, beta: float = 1.0) -> None:
        super().__init__()
        if base.row.latent != "latent_dist":
            raise ValueError(f"{type(base.net).__name__} has no posterior to pretrain: take an AutoencoderKL")
        self.base, self.beta = base, beta

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        mean, log_var = (part.float() for part in self.base.raw_posterior(batch["x"]) if part is not None)
        kl = standard_normal_kl(mean, log_var.exp(), log_var)
        latent = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        neg_log_likelihood = -self.base.decode_raw(latent).log_prob(batch["x"])
        return {"loss": neg_log_likelihood + self.beta * kl, "neg_log_likelihood": neg_log_likelihood, "kl": kl}


@dataclass(kw_only=True)
class AutoencoderKLPretraining(Pretraining):
    """A small AutoencoderKL."""

    files = ("config.json", "diffusion_pytorch_model.safetensors")
    beta: float = argument(1.0, help="weight of the KL")

    def build(self, data: ContextDataset) -> tuple[DecoderAdapter, AutoencoderKLObjective]:
        base = DiffusersAdapter.fresh(data.image_shape)
        return base, AutoencoderKLObjective(base, self.beta)

    def settle(self, base: DecoderAdapter, train_data: ContextDataset, val_data: ContextDataset) -> None:
        assert isinstance(base, DiffusersAdapter)
        base.calibrate(val_data.first(50))
