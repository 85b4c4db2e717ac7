"""A trained SCVI model of scvi-tools as a base, as it is: its encoder, its decoder, its likelihood.

It is passed as an object, ``wrap_decoder(model, ...)``, and never read from a path: its files are pickled. Cells come
as rows of counts, batches behind them as one-hot covariates, as ``--data cells`` has them with ``covariates=batch``.
The library is that of the cell, or drawn from a log-normal of the model's own cells.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from context_module.adapters.vector_likelihoods import NegativeBinomialCounts, PoissonCounts
from context_module.adapters.vector_vae import VectorAdapter, VectorVAE
from context_module.errors import AdapterError, CheckpointError
from context_module.normal import draw_uniform

if TYPE_CHECKING:
    from context_module.adapters.contract import Likelihood
    from context_module.adapters.pretraining import Pretraining

__all__ = ["SCVIAdapter"]


class ZeroInflatedCounts:
    """Counts that are zero besides with a probability.

    Args:
        likelihood: of counts that are not.
        logits: (B, G), of the probability.
    """

    def __init__(self, likelihood: NegativeBinomialCounts, logits: Tensor) -> None:
        self._counts, self._logits = likelihood, logits.float()

    @property
    def mean(self) -> Tensor:
        """(B, G)."""
        return (1 - self._logits.sigmoid()) * self._counts.mean

    def log_prob(self, x: Tensor) -> Tensor:
        """(B,), nats."""
        each = self._counts.log_probs(x)
        zero = torch.logaddexp(nn.functional.logsigmoid(self._logits), nn.functional.logsigmoid(-self._logits) + each)
        return torch.where(x == 0, zero, nn.functional.logsigmoid(-self._logits) + each).sum(1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """(B, G), whole numbers."""
        shown = draw_uniform(self._logits, generator) >= self._logits.sigmoid()
        return self._counts.sample(generator) * shown


class _Net(nn.Module):
    """The module of an SCVI model with the methods of a `VectorVAE`, of which the adapter knows what follows."""

    library: Tensor
    frequencies: Tensor
    split: Any = VectorVAE.split
    seen: Any = VectorVAE.seen
    of_counts = True

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.module = model.module
        self.columns = tuple(map(str, model.adata.var_names))
        batches = model.adata_manager.get_state_registry("batch").categorical_mapping
        self.covariates = tuple(f"batch={name}" for name in batches) if len(batches) > 1 else ()
        self.config = {"latents": int(model.module.n_latent)}
        counts = model.adata_manager.get_from_registry("X")
        log_library = torch.as_tensor(counts.sum(1)).flatten().float().clamp_min(1).log()
        self.register_buffer("library", torch.stack([log_library.mean(), log_library.std(correction=0)]))
        places = torch.as_tensor(model.adata_manager.get_from_registry("batch")).flatten().long()
        share = places.bincount(minlength=len(batches)) / len(places)
        self.register_buffer("frequencies", share[: len(self.covariates)])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        counts, covariates = self.split(x)
        posterior = self.module.inference(counts, self._batch(covariates, len(x)))["qz"]
        return posterior.loc, 2 * posterior.scale.log()

    def decode(self, latent: Tensor, log_library: Tensor, covariates: Tensor) -> Likelihood:
        made = self.module.generative(latent, log_library[:, None], self._batch(covariates, len(latent)))["px"]
        if not hasattr(made, "theta"):
            return PoissonCounts(made.mean)
        counts = NegativeBinomialCounts(made.mu, made.theta.log())
        return ZeroInflatedCounts(counts, made.zi_logits) if hasattr(made, "zi_logits") else counts

    def _batch(self, covariates: Tensor, rows: int) -> Tensor:
        """Numbers (B, 1)."""
        if not self.covariates:
            return torch.zeros(rows, 1, dtype=torch.int64, device=self.library.device)
        return covariates.argmax(1, keepdim=True)


class SCVIAdapter(VectorAdapter):
    """Shows an SCVI model.

    Args:
        model: a trained ``scvi.model.SCVI``.

    Raises:
        AdapterError: for one with further covariates, or whose library is not observed.
    """

    name = "scvi"
    load_options = ()

    def __init__(self, model: Any) -> None:
        sizes = model.summary_stats
        further = sizes.get("n_extra_categorical_covs", 0) + sizes.get("n_extra_continuous_covs", 0)
        if further or not model.module.use_observed_lib_size:
            raise AdapterError(
                "an SCVI base takes a batch and no further covariates, and has its library observed: this one has "
                f"{further} of these, use_observed_lib_size={model.module.use_observed_lib_size}"
            )
        super().__init__(_Net(model))  # type: ignore[arg-type]
        self.source = None

    def decoder_parts(self) -> list[nn.Module]:
        module: Any = self.net.module
        return [module.decoder]

    @classmethod
    def load(cls, path: str | Path, **hub: Any) -> SCVIAdapter:
        raise CheckpointError(
            f"{path}: files of scvi-tools are pickled, and nothing is unpickled here. Load the model yourself, "
            "scvi.model.SCVI.load(...), and pass it as the base"
        )

    @classmethod
    def pretraining(cls) -> type[Pretraining]:
        raise ValueError("an scvi base is trained by scvi-tools; --base vector_vae is of its kind")

    def save(self, directory: str | Path) -> None:
        raise CheckpointError("an SCVI base is saved by scvi-tools: model.save(...)")

    @classmethod
    def matches(cls, base: object) -> bool:
        scvi = sys.modules.get("scvi.model")
        return scvi is not None and isinstance(base, scvi.SCVI)

    @classmethod
    def wrap(cls, base: Any) -> SCVIAdapter:
        return cls(base)
