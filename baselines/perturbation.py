"""What methods for perturbations share: a VAE of vectors whose prior is told of what was intervened on.

    rec + w (beta KL(q(z | x) || p(z | S)) + penalty / N),    w rising from zero to one

S is the set of perturbations, rec the negative log-likelihood of a row, Gaussian or of counts with the row's library
observed, and the penalty is of what all rows share. Networks are the same for all methods.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from context_module.adapters.vector_likelihoods import VectorLikelihood, VectorOutput
from context_module.adapters.vector_vae import layers
from context_module.baselines.ada_vae import gaussian_kl
from context_module.baselines.gaussian import reparameterised
from context_module.baselines.vae import Baseline, check_at_least
from context_module.contexts import Concepts, Kind
from context_module.data import ContextData, ContextDataset, VectorContextDataset, log_normalised
from context_module.errors import DataError
from context_module.io import save_network
from context_module.normal import draw_normal
from context_module.objective import Objective, ParameterGroup
from context_module.options import argument

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

    from context_module.adapters.contract import Likelihood
    from context_module.metrics import Subject

__all__ = ["PerturbationSettings", "PerturbationVAE", "VectorVAEMethod", "VectorVAESettings", "learn_faster"]

_MOST = 20_000  # rows that means and spreads are taken of
_LOG_VAR = 12.0
_FASTER = 10.0


def learn_faster(model: nn.Module, own: list[nn.Parameter]) -> list[ParameterGroup]:
    """All parameters, those of single perturbations in a group that learns faster: few rows of a batch meet each."""
    others = [parameter for parameter in model.parameters() if all(parameter is not one for one in own)]
    return [ParameterGroup(others), ParameterGroup(own, lr_scale=_FASTER)]


@dataclass(kw_only=True)
class PerturbationSettings:
    """The networks and the likelihood of a method of vectors. A method's own settings are fields of a subclass."""

    latents: int = argument(15, help="latent dimensions")
    width: int = argument(128, help="of hidden layers")
    depth: int = argument(1, help="hidden layers of encoder and decoder, each")
    likelihood: VectorLikelihood | None = argument(
        None, help="negative_binomial, poisson or gaussian; default: the first for counts, else the last"
    )
    beta: float = argument(1.0, help="weight of the KL")
    kl_warmup: float = argument(0.2, help="share of the training over which that weight rises from zero")

    def completed(self, data: ContextData) -> Self:
        """These settings as they are: a method takes the rest from the rows that it is built for."""
        return self

    def __post_init__(self) -> None:
        check_at_least(1, latents=self.latents, width=self.width, depth=self.depth)
        check_at_least(0, beta=self.beta, kl_warmup=self.kl_warmup)


class PerturbationVAE(Baseline):
    """A VAE of vectors; a subclass says what a set of perturbations makes of the prior.

    Args:
        settings: of the method.
        columns: names of the columns.
        concepts: the K perturbations.
        likelihood: see `PerturbationSettings`.
        items: number of rows that it trains on.
        learned: contexts that these are of; all of single perturbations without.

    Attributes:
        told_width: how many numbers the encoder is told of the perturbations.
    """

    kind: ClassVar[Kind] = "vectors"
    settings_class: ClassVar[type[Any]] = PerturbationSettings
    encoder: nn.Sequential
    decoder: nn.Sequential
    center: Tensor
    scale: Tensor
    library: Tensor

    def __init__(
        self,
        settings: Any,
        columns: Sequence[str],
        concepts: Sequence[str],
        likelihood: VectorLikelihood,
        items: int,
        learned: Sequence[str] | None = None,
    ) -> None:
        Objective.__init__(self)
        self.settings, self.columns, self.concepts = settings, tuple(columns), Concepts(concepts)
        self.likelihood, self.items = likelihood, items
        self.learned = tuple(self.concepts.training_contexts if learned is None else learned)
        self.warmup_share = settings.kl_warmup
        self.encoder = layers(len(columns) + self.told_width, settings.width, settings.depth, 2 * settings.latents)
        self.decoder = layers(settings.latents, settings.width, settings.depth, len(columns))
        self.output = VectorOutput(len(columns), likelihood)
        self.register_buffer("center", torch.zeros(len(columns)))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("library", torch.zeros(2))  # mean and deviation of its logarithm

    @classmethod
    def build(cls, settings: Any, data: ContextDataset) -> PerturbationVAE:
        """One for rows such as these, which its outputs start from.

        Raises:
            DataError: for other data, or a likelihood of counts where there are none.
        """
        if not isinstance(data, VectorContextDataset):
            raise DataError(f"the method {cls.name} is of vectors, this data holds {data.kind}: use the cells data")
        likelihood: VectorLikelihood = settings.likelihood or ("negative_binomial" if data.of_counts else "gaussian")
        if likelihood != "gaussian" and not data.of_counts:
            raise DataError(f"likelihood {likelihood} is of counts, this data has none: use gaussian")
        model = cls(settings, data.columns, data.concepts, likelihood, len(data), data.context_names)
        some = torch.linspace(0, len(data) - 1, min(len(data), _MOST)).long()
        x = model.values(torch.stack([item["x"] for item in data.__getitems__(some.tolist())]))
        with torch.no_grad():
            last = model.decoder[-1]
            assert isinstance(last, nn.Linear)
            last.bias.copy_(model.output.fit(x))
            if likelihood != "gaussian":
                log_library = x.sum(1).clamp_min(1).log()
                model.library.copy_(torch.stack([log_library.mean(), log_library.std(correction=0)]))
            seen = log_normalised(x) if likelihood != "gaussian" else x
            model.center.copy_(seen.mean(0))
            model.scale.copy_(seen.std(0, correction=0).square().mean().sqrt().clamp_min(1e-6))
        return model

    @property
    def told_width(self) -> int:
        return 0

    @property
    def takes(self) -> str:
        return f"vectors of {len(self.columns)} columns"

    def data_settings(self) -> dict[str, Any]:
        return {"columns": self.columns}

    def values(self, x: Tensor) -> Tensor:
        """The columns (B, G) of rows, without their covariates, which these methods do not take into account."""
        return x[:, : len(self.columns)].float()

    def encoded(self, x: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder says of rows (B, G) that it is told something of: two tables (B, latents)."""
        seen = log_normalised(x) if self.likelihood != "gaussian" else x
        seen = (seen - self.center) / self.scale
        if self.told_width:
            seen = torch.cat([seen, told], dim=1)
        mean, log_var = self.encoder(seen).chunk(2, dim=1)
        return mean, log_var.clamp(-_LOG_VAR, _LOG_VAR)

    def posterior(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, latents) of q(z | x), of rows (B, G)."""
        return self.encoded(x, mask.float())

    def prior_of(self, mask: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, latents) of p(z | S) for interventions (B, K). Here it is told of none."""
        zeros = torch.zeros(len(mask), self.settings.latents, device=mask.device)
        return zeros, zeros

    def penalty(self) -> Tensor:
        """What is lost of all rows together, in nats: a scalar."""
        return self.center.new_zeros(())

    def explain(self, latent: Tensor, x: Tensor) -> Likelihood:
        """p(x | z) of codes (B, latents), with the library of rows (B, G)."""
        found: Likelihood = self.output(self.outputs_of(latent), x.sum(1))
        return found

    def outputs_of(self, latent: Tensor) -> Tensor:
        """The decoder's outputs (B, G) of codes."""
        found: Tensor = self.decoder(latent)
        return found

    def represented(self, latent: Tensor) -> Tensor:
        """Codes (B, latents) as scores see them: here as they are."""
        return latent

    def losses(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        error, kl = self.bound_in(batch["x"], batch["mask"])
        penalty = self.penalty().expand_as(error) / self.items
        loss = error + self.warm(progress) * (self.settings.beta * kl + penalty)
        return {"loss": loss, "error": error, "kl": kl, "penalty": penalty}

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        if self.training:
            return self.losses(batch, progress)
        error, kl = self.bound_in(batch["x"], batch["mask"])
        return {"loss": error + kl, "error": error, "kl": kl}

    def bound_in(self, x: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruction error and KL, each (B,), of rows under interventions; their sum is the negative ELBO."""
        x = self.values(x)
        mean, log_var = self.posterior(x, mask)
        latent = reparameterised(mean, log_var, generator)
        kl = gaussian_kl(mean, log_var, *self.prior_of(mask, generator)).sum(1)
        return -self.explain(latent, x).log_prob(x), kl

    def generated(self, latent: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Rows (B, G) drawn of codes, their libraries from that of the training."""
        center, spread = self.library
        log_library = center + spread * draw_normal(latent[:, 0], generator)
        found: Tensor = self.output(self.outputs_of(latent), log_library.exp()).sample(generator)
        return found

    def composed(self, n: int, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Codes (n, latents) under interventions (K,), from the prior."""
        mean, log_var = self.prior_of(mask.expand(n, -1), generator)
        return reparameterised(mean, log_var, generator)

    def own_parameters(self) -> list[tuple[nn.Parameter, int]]:
        """The parameters of single perturbations, each with its axis of K entries."""
        return []

    @torch.no_grad()
    def start_anew(self, places: Sequence[int]) -> None:
        """Forget what is of the perturbations of these numbers, as if they shifted nothing yet and might anything."""

    def targets(self) -> Tensor | None:
        """bool (K, latents), which dimensions each perturbation shifts; None for a method that does not say."""
        return None

    def subject(self, data: ContextDataset) -> Subject:
        from context_module.baselines.perturbation_subject import PerturbationSubject

        return PerturbationSubject(self, data)

    def save(self, directory: str | Path) -> None:
        config: dict[str, Any] = {"baseline": self.name, "items": self.items, "learned": list(self.learned)}
        names = {"columns": list(self.columns), "concepts": list(self.concepts)}
        save_network(
            directory, self, config | names | dataclasses.asdict(self.settings) | {"likelihood": self.likelihood}
        )

    @classmethod
    def from_config(  # type: ignore[override]
        cls, columns: list[str], concepts: list[str], items: int, learned: list[str], **settings: Any
    ) -> PerturbationVAE:
        return cls(cls.settings_class(**settings), columns, concepts, settings["likelihood"], items, learned)


@dataclass(kw_only=True)
class VectorVAESettings(PerturbationSettings):
    """The loss of a VAE of vectors that is told of no perturbation."""


class VectorVAEMethod(PerturbationVAE):
    """A beta-VAE of vectors: its prior is N(0, I) in every context. Its answers are by arithmetic of its codes."""

    name = "vector_vae"
    settings_class = VectorVAESettings
