"""CLAP (Taeb et al. 2022, "Provable concept learning for interpretable predictions using VAEs").

Labels y are predicted, linearly, from core codes z_c; style codes z_s are what else an image shows. Two VAEs share
the decoder p(x | z_c, z_s) and the encoder of styles: that of predictions has q(z_c | x); that of concepts has
q(z_c | x, y) and a prior p(z_c | y) = N(A y + b, diag exp(C y + d)), by which core codes are identifiable. Both
count half:

    (rec_P + rec_C) / 2 + beta(t) / 2 (w_c KL_C(z_c | y) + w_s KL_C(z_s) + w_c KL_P(z_c) + w_s KL_P(z_s))
        + gamma(t) / 2 BCE(y) + lambda sum over core dimensions j of | W_predictor[:, j], W_decoder[:, j] |_2

with w the shares of core and style among the dimensions. Differences from public code: there the style term of the
concept VAE is weighted by the core's share, by the pattern a slip; labels between 0 and 1 are taken, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from context_module.baselines.ada_vae import gaussian_kl
from context_module.baselines.gaussian import bernoulli_error, kl_per_dimension, reparameterised
from context_module.baselines.labels import LabelScale, cross_entropy
from context_module.baselines.networks import make_networks
from context_module.baselines.vae import Baseline, BaselineSettings, check_at_least
from context_module.data import ContextData, ContextDataset, FactorView
from context_module.errors import DataError
from context_module.options import argument

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = ["CLAP", "CLAPSettings", "cycled", "group_sparsity", "prior_terms", "ramp"]

_RAMP = 0.8  # of a cycle
_FEATURES = 64  # of the encoder that is told of labels


def ramp(done: float) -> float:
    """Of a cycle of which so much is done: linear to one over its first four fifths, and one from there.

    >>> ramp(0.4), ramp(0.9)
    (0.5, 1.0)
    """
    return round(min(1.0, done / _RAMP), 12)


def cycled(progress: float, start: float, end: float, cycles: int) -> float:
    """The weight of the KL: none before a share of the training, then so many ramps, and one after another share.

    >>> cycled(0.1, 0.25, 0.75, 2), cycled(0.35, 0.25, 0.75, 2), cycled(0.5, 0.25, 0.75, 2)
    (0.0, 0.5, 0.0)
    """
    if progress < start:
        return 0.0
    done = round(cycles * (progress - start) / (end - start), 9)
    return 1.0 if done >= cycles else ramp(done % 1)


def prior_terms(kls: Mapping[str, Tensor], core: int, style: int, *, published: bool = False) -> dict[str, Tensor]:
    """KLs, each weighted by its share of the dimensions and halved.

    Args:
        kls: ``core_concept``, ``style_concept``, ``core_prediction`` and ``style_prediction``.
        core, style: numbers of dimensions.
        published: with the style term of the concept VAE weighted as public code has it.
    """
    shares = {"core": core / (core + style), "style": style / (core + style)}
    weights = {name: shares[name.partition("_")[0]] for name in kls}
    if published:
        weights["style_concept"] = shares["core"]
    return {name: 0.5 * weights[name] * kl for name, kl in kls.items()}


def group_sparsity(predictor: Tensor, decoder: Tensor) -> Tensor:
    """The sum over core dimensions of the norms of their columns in both weights, (M, core) and (H, core + style)."""
    return torch.cat([predictor, decoder[:, : predictor.shape[1]]]).norm(dim=0).sum()


@dataclass(kw_only=True)
class CLAPSettings(BaselineSettings):
    """The loss of CLAP."""

    latents: int = argument(30, help="core and style dimensions together")
    core: int = argument(10, help="core dimensions, that labels are predicted from")
    factors: list[str] = argument([], help="labelled factors; default: concepts")
    label_weight: float = argument(50.0, help="weight of the predictions; it rises over 60%% of the training")
    sparsity: float = argument(0.05, help="weight of the norms of core dimensions")
    beta: float = argument(1.0, help="weight of the KLs, in two cycles between shares of the training")
    beta_from: float = argument(0.25, help="share of the training before the first cycle")
    beta_to: float = argument(0.75, help="share of the training after the last cycle")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, label_weight=self.label_weight, sparsity=self.sparsity, beta=self.beta)
        if not 0 < self.core < self.latents:
            raise ValueError(f"core must be between 0 and the {self.latents} latents, got {self.core}")
        if not 0 <= self.beta_from < self.beta_to <= 1:
            raise ValueError(f"0 <= beta_from < beta_to <= 1 must hold, got {self.beta_from} and {self.beta_to}")

    def completed(self, data: ContextData) -> Self:
        """These settings with the factors of the data; DataError for factors that it does not have."""
        factors = self.factors or list(data.concepts)
        if unknown := [name for name in factors if name not in data.train.factor_names]:
            known = ", ".join(data.train.factor_names) or "none"
            raise DataError(f"the data has no labels of {unknown[0]!r}; it has those of {known}")
        return replace(super().completed(data), factors=factors)


class CLAP(Baseline):
    """A VAE whose core dimensions predict labels. Codes are core, then style."""

    name = "clap"
    settings_class = CLAPSettings

    def __init__(self, settings: CLAPSettings, image_shape: tuple[int, int, int], images: int) -> None:
        super().__init__(settings, image_shape, images)
        labels, core = len(settings.factors), settings.core
        if not labels:
            raise ValueError("clap learns from labels: give the names of its factors")
        self.scale = LabelScale(settings.factors)
        self.told, _ = make_networks(settings.architecture, image_shape, _FEATURES, settings.latents)
        self.concept = nn.Sequential(
            nn.Linear(_FEATURES + labels, _FEATURES), nn.ReLU(), nn.Linear(_FEATURES, 2 * core)
        )
        self.label_prior = nn.Linear(labels, 2 * core)
        self.predictor = nn.Linear(core, labels)
        self.stages = tuple(share for share in (settings.beta_from, settings.beta_to) if 0 < share < 1)

    def view(self, data: ContextDataset, seed: int = 0) -> FactorView:
        """The data with labels in [0, 1], whose scale is fitted here; DataError for data without factors."""
        if data.factors is None:
            raise DataError("this method learns from labels, and the data has no factors")
        labels = data.factors[:, [data.factor_names.index(name) for name in self.scale.names]].float()
        self.scale.fit(labels.to(self.device))
        return FactorView(data, self.scale.names, labels)

    def losses(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        settings, x, core = self.settings, batch["x"], self.settings.core
        labels = self.scale.unit(batch["factors"]).clamp(0, 1)
        mean, log_var = self.encode(x)
        told = self.concept(torch.cat([self.told(x).float().relu(), labels], dim=1))
        told_mean, told_log_var = told.chunk(2, dim=1)
        z = reparameterised(mean, log_var)
        style = reparameterised(mean[:, core:], log_var[:, core:])
        concept = torch.cat([reparameterised(told_mean, told_log_var), style], dim=1)
        own = kl_per_dimension(mean, log_var)
        kls = {
            "core_concept": gaussian_kl(told_mean, told_log_var, *self.label_prior(labels).chunk(2, dim=1)).sum(1),
            "style_concept": own[:, core:].sum(1),
            "core_prediction": own[:, :core].sum(1),
            "style_prediction": own[:, core:].sum(1),
        }
        error = 0.5 * (bernoulli_error(self.decode(z), x) + bernoulli_error(self.decode(concept), x))
        kl = torch.stack(list(prior_terms(kls, core, settings.latents - core).values())).sum(0)
        missed = 0.5 * cross_entropy(self.predictor(z[:, :core]), labels).mean(1)
        sparse = settings.sparsity * group_sparsity(self.predictor.weight, self._first_weight).expand_as(error)
        beta = settings.beta * cycled(progress, settings.beta_from, settings.beta_to, 2)
        gamma = settings.label_weight * ramp(progress / settings.beta_to)
        return {
            "loss": error + beta * kl + gamma * missed + sparse,
            "error": error,
            "kl": kl,
            "label_error": missed,
            "sparsity": sparse,
        }

    @property
    def _first_weight(self) -> Tensor:
        """Of the decoder's first layer, (hidden, latents)."""
        return next(part for part in self.decoder.modules() if isinstance(part, nn.Linear)).weight

    def predict(self, x: Tensor) -> Tensor:
        """Probabilities (B, M) of the labels of images, by the mean of the core."""
        return self.predictor(self.encode(x)[0][:, : self.settings.core]).sigmoid()

    @torch.no_grad()
    def concepts_found(self, least: float = 0.1) -> list[int]:
        """The core dimensions that predictor and decoder use, more than by a share of the most used one."""
        norms = torch.cat([self.predictor.weight, self._first_weight[:, : self.settings.core]]).norm(dim=0)
        found: list[int] = (norms > least * norms.max()).nonzero().flatten().tolist()
        return found
