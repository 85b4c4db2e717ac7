"""A VAE of vectors, such as gene counts of cells, as a base: one level, of the kind of scVI.

With counts it is the model of Lopez et al. (2018, "Deep generative modeling for single-cell transcriptomics"): z ~
N(0, I), the share of every gene a softmax of a network of z and of the batch, counts negative binomial around share
times library, the sum of a cell's counts, which is observed. Differences from scVI: the encoder sees log(1 + 10,000
c / library) in place of log(1 + c), so that an embedding does not tell how deep a cell was sequenced; layers are
normalised by layer and not by batch, so that a frozen base is a function of single cells; no dropout; dispersions
are of genes alone. Generated cells draw their library from a log-normal fitted to the training data, and their batch
by its frequency; what is explained keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.adapters.contract import DecoderAdapter, Decoding, Encoding, LatentSpec, no_wider_than_the_prior
from context_module.adapters.pretrained import source_of
from context_module.adapters.pretraining import Pretraining
from context_module.adapters.vector_likelihoods import VectorLikelihood, VectorOutput
from context_module.contexts import Kind
from context_module.errors import DataError, ShapeError
from context_module.io import (
    CONFIG_FILE,
    HUB_OPTIONS,
    WEIGHTS_FILE,
    load_network,
    local_folder,
    recorded,
    save_network,
)
from context_module.normal import draw_normal, draw_uniform, standard_normal_kl
from context_module.objective import Objective
from context_module.options import argument

if TYPE_CHECKING:
    from context_module.adapters.contract import Likelihood
    from context_module.data import ContextDataset

__all__ = ["VectorAdapter", "VectorVAE", "VectorVAEObjective", "layers"]

_MOST = 20_000  # rows that libraries and batches are counted in


def layers(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """`depth` hidden layers, each a linear one, layer normalisation and a ReLU, then a linear one."""
    found: list[nn.Module] = []
    for _ in range(depth):
        found += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*found, nn.Linear(inputs, outputs))


class VectorVAE(nn.Module):
    """A VAE of vectors (B, G + C): G numbers to be explained, and C that say the batch or the like, one-hot.

    Args:
        columns: names of the G numbers.
        covariates: names of the C.
        latents: of the decoder input.
        width, depth: of hidden layers, and their number, of encoder and decoder alike.
        likelihood: ``negative_binomial`` or ``poisson``, of counts; or ``gaussian``.

    Attributes:
        name_or_path: where it was read from; None if it was not.

    Raises:
        ValueError: for another likelihood, or sizes below 1.
    """

    name_or_path: str | None = None
    library: Tensor
    frequencies: Tensor

    def __init__(
        self,
        columns: Sequence[str],
        covariates: Sequence[str] = (),
        latents: int = 20,
        width: int = 128,
        depth: int = 1,
        likelihood: VectorLikelihood = "negative_binomial",
    ) -> None:
        super().__init__()
        if min(latents, width, depth, len(columns)) < 1:
            raise ValueError(
                f"columns, latents, width and depth must be at least 1, got {len(columns)}, {latents}, {width} and "
                f"{depth}"
            )
        self.columns, self.covariates = tuple(columns), tuple(covariates)
        self.config = {"latents": latents, "width": width, "depth": depth, "likelihood": likelihood}
        self.encoder = layers(len(columns), width, depth, 2 * latents)
        self.decoder = layers(latents + len(self.covariates), width, depth, len(columns))
        self.output = VectorOutput(len(columns), likelihood)
        self.register_buffer("library", torch.tensor([0.0, 0.0]))  # mean and deviation of its logarithm
        share = 1 / len(self.covariates) if self.covariates else 1.0
        self.register_buffer("frequencies", torch.full((len(self.covariates),), share))

    @property
    def of_counts(self) -> bool:
        """Whether the likelihood is one of counts."""
        return self.output.likelihood != "gaussian"

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Start from rows (N, G + C): libraries, frequencies of covariates, and columns' means and spreads."""
        values, covariates = self.split(x)
        if self.of_counts:
            log_library = values.sum(1).clamp_min(1).log()
            self.library.copy_(torch.stack([log_library.mean(), log_library.std(correction=0)]))
        self.frequencies.copy_(covariates.mean(0))
        last = self.decoder[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(self.output.fit(values))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers (B, G) and the covariates (B, C) of rows."""
        return x[:, : len(self.columns)].float(), x[:, len(self.columns) :].float()

    def seen(self, mean: Tensor) -> Tensor:
        """Rows (B, G) as the encoder sees them, and distances do."""
        if not self.of_counts:
            return mean
        from context_module.data import log_normalised

        return log_normalised(mean)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, latents) of the posterior of rows (B, G + C)."""
        mean, log_var = self.encoder(self.seen(self.split(x)[0])).chunk(2, dim=1)
        return mean, log_var.clamp(-12, 12)

    def decode(self, latent: Tensor, log_library: Tensor, covariates: Tensor) -> Likelihood:
        """p(x | latent, library, covariates) of latents (B, latents), logarithms (B,) and one-hots (B, C)."""
        outputs: Likelihood = self.output(self.decoder(torch.cat([latent, covariates], dim=1)), log_library.exp())
        return outputs

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors."""
        names = {"columns": list(self.columns), "covariates": list(self.covariates)}
        save_network(directory, self, {"base": VectorAdapter.name, **names, **self.config})

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> VectorVAE:
        """Read what `save_pretrained` wrote, in eval mode; CheckpointError for anything else."""
        net = load_network(directory, cls, "VAE of vectors", {"base": VectorAdapter.name}).eval()
        net.name_or_path = str(directory)
        return net


class VectorAdapter(DecoderAdapter):
    """Shows a `VectorVAE`: decoder input (latents,), one level.

    Behind it there are a row's library, and its covariates: in place of deeper latents they are the residuals of
    `decode`, so that a counterfactual cell is as deep as the cell was, and of the same batch.
    """

    name = "vector_vae"
    kind: ClassVar[Kind] = "vectors"
    draws = True
    load_options: ClassVar[tuple[str, ...]] = HUB_OPTIONS

    def __init__(self, net: VectorVAE) -> None:
        super().__init__()
        self.net, self.source = net, source_of(net)
        self.latent = LatentSpec((net.config["latents"],))  # type: ignore[arg-type]
        self.num_features = self.latent.shape[0]
        self.columns = net.columns

    @classmethod
    def matches(cls, base: object) -> bool:
        return isinstance(base, VectorVAE)

    @classmethod
    def wrap(cls, base: Any) -> VectorAdapter:
        return cls(base)

    @classmethod
    def load(cls, path: str | Path, **hub: Any) -> VectorAdapter:
        found = local_folder(path, (CONFIG_FILE, WEIGHTS_FILE), expected="a folder of a VAE of vectors", **hub)
        adapter = cls(VectorVAE.from_pretrained(found))
        adapter.source, adapter.options = str(path), recorded(hub)
        return adapter

    @classmethod
    def pretraining(cls) -> type[Pretraining]:
        return VectorPretraining

    def save(self, directory: str | Path) -> None:
        self.net.save_pretrained(directory)

    def decoder_parts(self) -> list[nn.Module]:
        return [self.net.decoder]

    @property
    def takes(self) -> str:
        return f"vectors of {len(self.columns)} columns"

    def data_settings(self) -> dict[str, Any]:
        return {"columns": (*self.columns, *self.net.covariates), "base": self}

    def seen(self, mean: Tensor) -> Tensor:
        return self.net.seen(mean.float())

    def encode(self, x: Tensor) -> Encoding:
        mean, log_var = self.net.encode(x)
        counts, covariates = self.net.split(x)
        return Encoding(mean, mean, no_wider_than_the_prior(log_var), states=(counts.sum(1), covariates))

    def decode(
        self,
        latent: Tensor,
        encoding: Encoding | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Decoding:
        center, spread = self.net.library
        if encoding is not None and encoding.states is not None:
            library, covariates = encoding.states
            noise = (library.clamp_min(1).log() - center) / spread.clamp_min(1e-6)
        elif residuals:
            noise, covariates = residuals
        else:
            noise = temperature * draw_normal(latent[:, 0], generator)
            covariates = self._drawn_covariates(latent, generator)
        likelihood = self.net.decode(latent, center + spread.clamp_min(1e-6) * noise, covariates)
        return Decoding(likelihood, latent.new_zeros(len(latent)), (noise, covariates))

    def _drawn_covariates(self, latent: Tensor, generator: torch.Generator | None) -> Tensor:
        """One-hot (B, C), by their frequencies."""
        if not self.net.covariates:
            return latent.new_zeros(len(latent), 0)
        chosen = torch.searchsorted(self.net.frequencies.cumsum(0), draw_uniform(latent[:, 0], generator))
        return F.one_hot(chosen.clamp_max(len(self.net.covariates) - 1), len(self.net.covariates)).to(latent)

    def check_inputs(self, x: Any) -> Tensor:
        """x as it is, or as floats.

        Raises:
            ShapeError: unless x is a tensor (B, G + C).
            DataError: for values that are not finite; of counts for negative or fractional ones, and empty rows.
        """
        from context_module.data import check_counts

        width = len(self.columns) + len(self.net.covariates)
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != width:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ShapeError(
                f"the base {self.name!r} takes vectors of shape (batch, {width}): {len(self.columns)} columns, "
                f"{', '.join(self.columns[:3])}, ..., and {len(self.net.covariates)} covariates; got {found}"
            )
        x = x if x.is_floating_point() else x.float()
        if torch.compiler.is_compiling() or not len(x):
            return x
        if not x.isfinite().all():
            raise DataError("vectors hold values that are not finite: leave these rows out")
        if self.net.of_counts:
            counts = self.net.split(x)[0]
            check_counts(counts, f"vectors for a {self.name} base of counts")
            if (counts.sum(1) == 0).any():
                raise DataError("a row has no count at all: leave empty rows out")
        return x


class VectorVAEObjective(Objective):
    """Pretraining: the negative ELBO on pooled contexts, the KL weighted by beta.

    Args:
        net: the VAE.
        beta: weight of the KL.
        warmup: share of the training over which that weight rises from zero.
    """

    def __init__(self, net: VectorVAE, beta: float = 1.0, warmup: float = 0.0) -> None:
        super().__init__()
        self.net, self.beta, self.warmup_share = net, beta, warmup

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        counts, covariates = self.net.split(batch["x"])
        mean, log_var = self.net.encode(batch["x"])
        latent = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        log_library = counts.sum(1).clamp_min(1).log()
        neg_log_likelihood = -self.net.decode(latent, log_library, covariates).log_prob(counts)
        kl = standard_normal_kl(mean.float(), log_var.float().exp(), log_var.float())
        loss = neg_log_likelihood + self.beta * self.warm(progress) * kl
        return {"loss": loss, "neg_log_likelihood": neg_log_likelihood, "kl": kl}


@dataclass(kw_only=True)
class VectorPretraining(Pretraining):
    """A VAE of vectors: of counts negative binomial, of other numbers Gaussian."""

    latents: int = argument(20, help="values of the decoder input")
    width: int = argument(128, help="of hidden layers")
    depth: int = argument(1, help="hidden layers of encoder and decoder, each")
    likelihood: VectorLikelihood | None = argument(
        None, help="negative_binomial, poisson or gaussian; default: the first for counts, else the last"
    )
    beta: float = argument(1.0, help="weight of the KL")
    kl_warmup: float = argument(0.2, help="share of the training over which that weight rises from zero")

    def build(self, data: ContextDataset) -> tuple[VectorAdapter, VectorVAEObjective]:
        if data.kind != "vectors":
            raise DataError(f"a vector_vae base is of vectors, this data holds {data.kind}: use another --base")
        of_counts: bool = data.of_counts  # type: ignore[attr-defined]
        likelihood: VectorLikelihood = self.likelihood or ("negative_binomial" if of_counts else "gaussian")
        if likelihood != "gaussian" and not of_counts:
            raise DataError(f"likelihood {likelihood} is of counts, this data has none: use gaussian")
        columns, covariates = data.columns, data.covariates  # type: ignore[attr-defined]
        net = VectorVAE(columns, covariates, self.latents, self.width, self.depth, likelihood)
        some = torch.linspace(0, len(data) - 1, min(len(data), _MOST)).long()
        net.fit(data.batch(some)["x"])
        return VectorAdapter(net), VectorVAEObjective(net, self.beta, self.kl_warmup)
