"""TVAE (Ishfaq et al. 2018): a beta-VAE on triplets of images, with a triplet loss on the posterior means.

    mean over the three of rec + beta KL,    plus    scale max(0, |a - p| - |a - n| + margin)

The anchor a and the positive p are of one context, the negative n is of another. Distances are Euclidean norms, as in
disent; whether the paper squares them we could not check, so that ``squared`` is there, too. Difference from public
code: everything is in nats, summed over pixels and dimensions (disent's default averages them, so that its beta and
scale mean something else).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from context_module.baselines.gaussian import bernoulli_error, kl_per_dimension, reparameterised
from context_module.baselines.vae import Baseline, BaselineSettings, check_at_least
from context_module.data import ContextDataset, LabelledDataset, triplets
from context_module.options import argument

__all__ = ["TVAE", "TVAESettings", "triplet_loss"]

Distance = Literal["l1", "l2", "squared"]


def triplet_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float, distance: Distance = "l2"
) -> Tensor:
    """By how much the negative is not farther than the positive by a margin: (B,), of codes (B, D)."""
    near, far = (_distance(anchor - other, distance) for other in (positive, negative))
    return (near - far + margin).relu()


def _distance(difference: Tensor, distance: Distance) -> Tensor:
    if distance == "squared":
        return difference.square().sum(1)
    return torch.linalg.vector_norm(difference, ord=1 if distance == "l1" else 2, dim=1)


@dataclass(kw_only=True)
class TVAESettings(BaselineSettings):
    """The loss of TVAE."""

    beta: float = argument(4.0, help="weight of the KL")
    triplet_scale: float = argument(100.0, help="weight of the triplet loss")
    margin: float = argument(10.0, help="by which negatives are to be farther than positives")
    distance: Literal["l1", "l2", "squared"] = argument("l2", help="between posterior means")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, beta=self.beta, triplet_scale=self.triplet_scale, margin=self.margin)


class TVAE(Baseline):
    """A VAE that learns which images are of one context."""

    name = "tvae"
    settings_class = TVAESettings

    def view(self, data: ContextDataset, seed: int = 0) -> LabelledDataset:
        """Triplets: see `triplets`."""
        return triplets(data, seed=seed)

    def losses(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        settings = self.settings
        x = torch.cat([batch["x"], batch["positive"], batch["negative"]])
        mean, log_var = self.encode(x)
        errors = bernoulli_error(self.decode(reparameterised(mean, log_var)), x)
        anchor, positive, negative = mean.chunk(3)
        triplet = triplet_loss(anchor, positive, negative, settings.margin, settings.distance)
        error, kl = (each.view(3, -1).mean(0) for each in (errors, kl_per_dimension(mean, log_var).sum(1)))
        loss = error + settings.beta * kl + settings.triplet_scale * triplet
        return {"loss": loss, "error": error, "kl": kl, "triplet": triplet}
