"""CascadeVAE (Jeong & Song, ICML 2019): KL weights that fall one after another, categories that are solved for.

    rec + sum_j w_j KL_j + decay / 2 |weights|^2,    w_j from beta_high to beta_low, one dimension a stage

CascadeVAE-C is that alone. The full method adds a discrete code that no network infers: with the continuous draws
fixed, the codes of a batch minimise sum_i rec_i(d_i) + penalty * |pairs of equal codes|, exactly, as a minimum-cost
assignment. In the first stages it is zero. As in the authors' code a pair counts once, and the first stage with a
discrete code opens no further dimension. Differences from it: costs are not rounded; the optimiser keeps its state
from stage to stage; and weights are chosen by the validation ELBO of the last stage, not by the disentanglement
score, which takes true factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.baselines.gaussian import bernoulli_error
from context_module.baselines.vae import Baseline, BaselineSettings, check_at_least
from context_module.normal import draw_normal
from context_module.options import argument

__all__ = [
    "CascadeVAE",
    "CascadeVAEC",
    "CascadeVAECSettings",
    "CascadeVAESettings",
    "assigned",
    "cascaded_kl",
    "kl_of_std",
    "open_dimensions",
]

_EPS = 1e-8


def assigned(unary: Tensor, penalty: float) -> Tensor:
    """One-hot codes (B, S) of least cost: the chosen unary costs, and `penalty` for every pair of equal codes.

    As the n-th item of a code costs penalty * (n - 1) more, it is an assignment to B copies of every code, solved by
    scipy.

    Args:
        unary: cost of every code for every item, (B, S).
        penalty: 0 or more.

    Raises:
        ImportError: if scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("CascadeVAE's assignment needs scipy: pip install context-module[evaluate]") from error
    items, codes = unary.shape
    copies = penalty * torch.arange(items, dtype=torch.float64)
    costs = (unary.detach().cpu().double()[:, :, None] + copies).flatten(1)
    chosen = torch.from_numpy(linear_sum_assignment(costs.numpy())[1]) // items
    return F.one_hot(chosen, codes).to(unary)


def kl_of_std(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)) of every dimension (B, D); inside the logarithm 1e-8 is added to std."""
    return 0.5 * (mean.square() + std.square() - 1) - (std + _EPS).log()


def cascaded_kl(kl: Tensor, opened: int, low: float, high: float) -> Tensor:
    """The KL (B,) of dimensions (B, D), the first `opened` weighted by `low` and the others by `high`."""
    return low * kl[:, :opened].sum(1) + high * kl[:, opened:].sum(1)


def open_dimensions(stage: int, latents: int, discrete_from: int | None = None) -> int:
    """How many dimensions have the low weight in a stage, counted from 0; one less once there is a discrete code."""
    late = discrete_from is not None and stage >= discrete_from
    return min(stage + (0 if late else 1), latents)


@dataclass(kw_only=True)
class CascadeVAECSettings(BaselineSettings):
    """The loss of CascadeVAE."""

    beta_low: float = argument(0.7, help="weight of the KL of opened dimensions (published: 0.7 to 2)")
    beta_high: float = argument(10.0, help="weight of the KL of the others")
    stage_share: float = argument(1 / 15, help="share of the training after which one more dimension is opened")
    weight_decay: float = argument(4e-5, help="weight of half the squared weights in the loss")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, beta_low=self.beta_low, beta_high=self.beta_high, weight_decay=self.weight_decay)
        if not 0 < self.stage_share <= 1:
            raise ValueError(f"stage_share must be in (0, 1], got {self.stage_share}")


class CascadeVAEC(Baseline):
    """A VAE whose dimensions are opened one after another; continuous codes alone."""

    name = "cascade_vae_c"
    settings_class: ClassVar[type[BaselineSettings]] = CascadeVAECSettings
    discrete_from: int | None = None

    def __init__(self, settings: CascadeVAECSettings, image_shape: tuple[int, int, int], images: int) -> None:
        super().__init__(settings, image_shape, images)
        count = settings.latents + (self.discrete_from is not None)
        shares = (stage * settings.stage_share for stage in range(1, count))
        self.stages = tuple(share for share in shares if share < 1)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, latents)."""
        mean, raw = self.encoder(x).float().chunk(2, dim=1)
        return mean, F.softplus(raw)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.posterior(x)
        return mean, 2 * (std + _EPS).log()

    def stage(self, progress: float) -> int:
        """The stage, from 0, at this share of the training."""
        return int(progress / self.settings.stage_share + 1e-9)

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        return {"x": batch["x"]}  # which code an image gets hangs on all the others: nothing is its own

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        settings, x, stage = self.settings, parts["x"], self.stage(progress)
        mean, std = self.posterior(x)
        code = self.completed(x, mean + std * draw_normal(mean), stage)
        error = bernoulli_error(self.decode(code), x)
        kl = kl_of_std(mean, std)
        opened = open_dimensions(stage, settings.latents, self.discrete_from)
        decay = 0.5 * settings.weight_decay * sum(p.square().sum() for p in self.parameters() if p.ndim > 1)
        loss = error + cascaded_kl(kl, opened, settings.beta_low, settings.beta_high) + decay
        return {"loss": loss, "error": error, "kl": kl.sum(1)}

    def completed(self, x: Tensor, z: Tensor, stage: int) -> Tensor:
        """The decoder's input (B, latents + categories) for continuous draws z; here z itself."""
        return z


@dataclass(kw_only=True)
class CascadeVAESettings(CascadeVAECSettings):
    """The discrete code of CascadeVAE."""

    latents: int = argument(6, help="continuous latent dimensions")
    beta_low: float = argument(1.0, help="weight of the KL of opened dimensions (published: 0.7 to 2)")
    categories: int = argument(3, help="number of values of the discrete code")
    discrete_stage: int = argument(4, help="stage from which it is there, counted from 0")
    balance: float = argument(1e-3, help="cost of every pair of images with equal codes in a batch")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(2, categories=self.categories)
        check_at_least(0, discrete_stage=self.discrete_stage, balance=self.balance)


class CascadeVAE(CascadeVAEC):
    """With a discrete code besides, that is solved for in every batch."""

    name = "cascade_vae"
    settings_class = CascadeVAESettings

    def __init__(self, settings: CascadeVAESettings, image_shape: tuple[int, int, int], images: int) -> None:
        self.categories, self.discrete_from = (settings.categories,), settings.discrete_stage
        super().__init__(settings, image_shape, images)

    def completed(self, x: Tensor, z: Tensor, stage: int) -> Tensor:
        if stage < self.settings.discrete_stage:
            return torch.cat([z, z.new_zeros(len(z), self.settings.categories)], dim=1)
        return torch.cat([z, assigned(self.costs(x, z), self.settings.balance)], dim=1)

    @torch.no_grad()
    def costs(self, x: Tensor, z: Tensor) -> Tensor:
        """Reconstruction error (B, S) of images with their continuous draws and each of the discrete codes."""
        codes = torch.eye(self.settings.categories, device=z.device, dtype=z.dtype)
        errors = [bernoulli_error(self.decode(torch.cat([z, one.expand(len(z), -1)], 1)), x) for one in codes]
        return torch.stack(errors, dim=1)

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        z, kl = super().draw(x, generator)
        likeliest = self.centre(x)[:, self.settings.latents :]
        return torch.cat([z, likeliest], dim=1), kl + math.log(self.settings.categories)

    def centre(self, x: Tensor) -> Tensor:
        mean = super().centre(x)
        likeliest = self.costs(x, mean).argmin(1)
        return torch.cat([mean, F.one_hot(likeliest, self.settings.categories).to(mean)], dim=1)
