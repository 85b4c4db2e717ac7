"""S-VAE, S-beta-VAE, S-TCVAE and their like: a VAE whose prior has independent dimensions, with labels of factors.

    rec + R + lambda L(mean, labels)

R is the penalty of another method: KL (S-VAE), beta KL, KL + (beta - 1) TC, and so on: the S2 family of Locatello et
al. (ICLR 2020), and what Shen et al. (JMLR 2022) compare DEAR with. Where factors are correlated no optimum of it is
disentangled: the prior has what the labels deny (their proposition 3). The label loss is a mean over images and labels
as in DEAR; in disentanglement_lib it is a sum, and its l2 form compares every image with the labels of all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from context_module.baselines.gaussian import bernoulli_error, reparameterised
from context_module.baselines.labelled import LabelledBaseline, LabelledSettings
from context_module.baselines.regularized import regularizer_of
from context_module.objective import ParameterGroup
from context_module.options import argument

__all__ = ["SupervisedVAE", "SupervisedVAESettings"]


@dataclass(kw_only=True)
class SupervisedVAESettings(LabelledSettings):
    """The penalty beside the labels."""

    label_weight: float = argument(1000.0, help="weight of the label loss, a mean over labels, beside nats per image")
    penalty: Literal["beta_vae", "tc_vae", "dip_vae", "factor_vae"] = argument(
        "beta_vae", help="method whose penalty the posterior has"
    )
    penalty_options: list[str] = argument(["beta=1"], help="its settings, each name=value; beta=1 is S-VAE")


class SupervisedVAE(LabelledBaseline):
    """A VAE with labels and an independent prior."""

    name = "supervised_vae"
    settings_class = SupervisedVAESettings

    def __init__(self, settings: Any, image_shape: tuple[int, int, int], images: int) -> None:
        super().__init__(settings, image_shape, images)
        self.regularizer = regularizer_of(settings.penalty, settings.penalty_options, settings.latents, images)

    def losses(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        x = batch["x"]
        mean, log_var = self.encode(x)
        z = reparameterised(mean, log_var)
        error = bernoulli_error(self.decode(z), x)
        found = self.regularizer(mean, log_var, z, progress)
        labels = self.label_error(mean, batch["factors"], progress).expand_as(error)
        return {"loss": error + found.pop("penalty") + labels, "error": error, "labels": labels, **found}

    def parameter_groups(self) -> list[ParameterGroup]:
        return self.regularizer.groups(self.parameters())
