"""Methods that are a penalty on the posterior, and nothing else: what they share, on any encoder and decoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from context_module.baselines.gaussian import bernoulli_error, reparameterised
from context_module.baselines.registry import get_baseline
from context_module.baselines.vae import Baseline, BaselineSettings
from context_module.data import parse_options
from context_module.errors import DataError
from context_module.objective import ParameterGroup

__all__ = ["RegularizedSettings", "RegularizedVAE", "Regularizer", "check_batch", "regularizer_of"]


def check_batch(items: int, least: int, what: str) -> None:
    """Raise DataError for a batch too small for an estimate over its items."""
    if items < least:
        raise DataError(
            f"{what} is estimated over the items of a batch and needs at least {least} of them, got {items}: raise "
            "train_batch_size"
        )


class Regularizer(nn.Module):
    """What is added to the reconstruction error: a function of the posterior of a batch and of draws from it."""

    def forward(self, mean: Tensor, log_var: Tensor, z: Tensor, progress: float) -> dict[str, Tensor]:
        """``penalty``, and what else is to be logged, each (B,).

        Args:
            mean, log_var: of the posterior, (B, D).
            z: draws from it, (B, D).
            progress: share of the training done, in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward(mean, log_var, z, progress)")

    def groups(self, parameters: Iterable[nn.Parameter]) -> list[ParameterGroup]:
        """The parameter groups of an objective that has all these parameters, its own among them."""
        return [ParameterGroup(list(parameters))]


@dataclass(kw_only=True)
class RegularizedSettings(BaselineSettings):
    """The settings of a method that is a penalty: they build it."""

    @abstractmethod
    def regularizer(self, latents: int, images: int) -> Regularizer:
        """The penalty.

        Args:
            latents: D.
            images: number of images that are trained on.
        """


class RegularizedVAE(Baseline):
    """Reconstruction error plus a penalty."""

    def __init__(self, settings: Any, image_shape: tuple[int, int, int], images: int) -> None:
        super().__init__(settings, image_shape, images)
        self.regularizer = settings.regularizer(settings.latents, images)

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        mean, log_var = self.encode(batch["x"])
        z = reparameterised(mean, log_var)
        return {"error": bernoulli_error(self.decode(z), batch["x"]), "mean": mean, "log_var": log_var, "z": z}

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        found = self.regularizer(parts["mean"], parts["log_var"], parts["z"], progress)
        return {"loss": parts["error"] + found.pop("penalty"), "error": parts["error"], **found}

    def parameter_groups(self) -> list[ParameterGroup]:
        return self.regularizer.groups(self.parameters())


def regularizer_of(method: str, options: Iterable[str], latents: int, images: int) -> Regularizer:
    """The penalty of a method for another VAE, such as a base that is pretrained.

    Args:
        method: ``beta_vae``, ``tc_vae``, ``dip_vae`` or ``factor_vae``, or another that is a penalty.
        options: its settings as words, name=value.
        latents, images: see `RegularizedSettings.regularizer`.

    Raises:
        ValueError: for a method that is no penalty.
        DataError: for an option that it does not have.
    """
    kind = get_baseline(method).settings_class
    if not issubclass(kind, RegularizedSettings):
        raise ValueError(f"the method {method!r} is more than a penalty on the posterior: it has no regularizer")  # noqa: TRY004
    of_networks = {field.name for field in fields(BaselineSettings)}
    known = [field.name for field in fields(kind) if field.name not in of_networks]
    given = parse_options(options, kind)
    if unknown := [name for name in given if name not in known]:
        raise DataError(f"the {method} regularizer takes no option {unknown[0]!r}; its options: {', '.join(known)}")
    return kind(**given).regularizer(latents, images)
