"""The two small VAEs of the paper, as bases: `simple64bn` for 3x64x64 images, `conv3` for 1x28x28 ones.

Source: 'Intervening to Learn and Compose Causally Disentangled Representations' (CLeaR 2026). For 3x32x32 images
`simple32bn` is `simple64bn` without its last and widest stage.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from context_module.adapters.contract import DecoderAdapter, Decoding, Encoding, LatentSpec, no_wider_than_the_prior
from context_module.adapters.likelihoods import BernoulliLikelihood
from context_module.adapters.pretrained import source_of
from context_module.adapters.pretraining import Pretraining
from context_module.io import (
    CONFIG_FILE,
    HUB_OPTIONS,
    WEIGHTS_FILE,
    load_network,
    local_folder,
    recorded,
    save_network,
)
from context_module.normal import standard_normal_kl
from context_module.objective import BatchObjective, ParameterGroup
from context_module.options import argument

if TYPE_CHECKING:
    from context_module.data import ContextDataset

__all__ = ["ARCHITECTURES", "LightweightAdapter", "LightweightObjective", "LightweightVAE"]

FEATURES = 128


def _simple(*widths: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Stages that halve an image each, down to 4x4 pixels."""
    stages, flat = list(itertools.pairwise(widths)), 16 * widths[-1]
    encoder: list[nn.Module] = []
    for ins, outs in stages:
        encoder += [nn.Conv2d(ins, outs, 4, 2, 1), nn.ReLU(), nn.BatchNorm2d(outs)]
    encoder += [nn.Flatten(), nn.Linear(flat, FEATURES), nn.ReLU()]
    decoder: list[nn.Module] = [nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, flat), nn.ReLU()]
    decoder += [nn.Unflatten(1, (widths[-1], 4, 4))]
    for outs, ins in reversed(stages[1:]):
        decoder += [nn.ConvTranspose2d(ins, outs, 4, 2, 1), nn.ReLU(), nn.BatchNorm2d(outs)]
    return nn.Sequential(*encoder), nn.Sequential(*decoder, nn.ConvTranspose2d(widths[1], widths[0], 4, 2, 1))


def _conv3() -> tuple[nn.Sequential, nn.Sequential]:
    encoder: list[nn.Module] = []
    for conv in (nn.Conv2d(1, 32, 4, 2, 1), nn.Conv2d(32, 64, 4, 2, 1), nn.Conv2d(64, FEATURES, 7)):
        encoder += [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]
    encoder += [nn.Flatten(), nn.Linear(FEATURES, FEATURES), nn.ReLU()]
    decoder: list[nn.Module] = [nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES), nn.ReLU()]
    decoder += [nn.Unflatten(1, (FEATURES, 1, 1))]
    for up in (nn.ConvTranspose2d(FEATURES, 64, 7), nn.ConvTranspose2d(64, 32, 4, 2, 1)):
        decoder += [up, nn.BatchNorm2d(up.out_channels), nn.ReLU()]
    return nn.Sequential(*encoder), nn.Sequential(*decoder, nn.ConvTranspose2d(32, 1, 4, 2, 1))


# name -> (builder, image shape). The last sigmoid is the likelihood's: decoders end in logits.
ARCHITECTURES: dict[str, tuple[Callable[[], tuple[nn.Sequential, nn.Sequential]], tuple[int, int, int]]] = {
    "simple64bn": (partial(_simple, 3, 32, 64, 128, 256), (3, 64, 64)),
    "simple32bn": (partial(_simple, 3, 32, 64, 128), (3, 32, 32)),
    "conv3": (_conv3, (1, 28, 28)),
}


class LightweightVAE(nn.Module):
    """A small convolutional VAE with 128 encoder features and a decoder input of 128 values.

    Args:
        architecture: ``simple64bn``, ``simple32bn`` or ``conv3``.
        heads: with posterior heads of its own (features -> latent); the published checkpoints have none, their
            decoder input comes from the context module alone.

    Attributes:
        name_or_path: where it was read from; None if it was not.

    Raises:
        ValueError: for another architecture.
    """

    name_or_path: str | None = None

    def __init__(self, architecture: str = "simple64bn", heads: bool = True) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
        build, self.image_shape = ARCHITECTURES[architecture]
        self.architecture = architecture
        self.encoder, self.decoder = build()
        self.fc_mu = nn.Linear(FEATURES, FEATURES) if heads else None
        self.fc_var = nn.Linear(FEATURES, FEATURES) if heads else None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features (B, 128), latent mean (B, 128) and log-variance (None without heads) of images in [0, 1]."""
        features = self.encoder(x)
        if self.fc_mu is None or self.fc_var is None:
            return features, features, None
        return features, self.fc_mu(features), self.fc_var(features)

    def decode(self, latent: Tensor) -> BernoulliLikelihood:
        """p(x | latent) of latents (B, 128)."""
        return BernoulliLikelihood(self.decoder(latent))

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors."""
        config = {"base": "lightweight", "architecture": self.architecture, "heads": self.fc_mu is not None}
        save_network(directory, self, config)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> LightweightVAE:
        """Read what `save_pretrained` wrote, in eval mode; CheckpointError for anything else."""
        net = load_network(directory, cls, "lightweight VAE", {"base": "lightweight"}).eval()
        net.name_or_path = str(directory)
        return net


class LightweightAdapter(DecoderAdapter):
    """Shows a `LightweightVAE`: decoder input (128,), one level."""

    name = "lightweight"
    load_options = HUB_OPTIONS
    latent = LatentSpec((FEATURES,))
    num_features = FEATURES

    def __init__(self, net: LightweightVAE) -> None:
        super().__init__()
        self.net, self.source = net, source_of(net)
        self.image_shape = net.image_shape

    @classmethod
    def matches(cls, base: object) -> bool:
        return isinstance(base, LightweightVAE)

    @classmethod
    def wrap(cls, base: Any) -> LightweightAdapter:
        return cls(base)

    @classmethod
    def load(cls, path: str | Path, **hub: Any) -> LightweightAdapter:
        found = local_folder(path, (CONFIG_FILE, WEIGHTS_FILE), expected="a folder of a lightweight VAE", **hub)
        adapter = cls(LightweightVAE.from_pretrained(found))
        adapter.source, adapter.options = str(path), recorded(hub)
        return adapter

    @classmethod
    def fresh(cls, image_shape: tuple[int, int, int]) -> LightweightAdapter:
        for name, (_, shape) in ARCHITECTURES.items():
            if shape == tuple(image_shape):
                return cls(LightweightVAE(name))
        known = ", ".join(f"{name}: {'x'.join(map(str, shape))}" for name, (_, shape) in ARCHITECTURES.items())
        raise ValueError(f"no lightweight architecture for images of shape {image_shape} ({known}): set --resolution")

    @classmethod
    def pretraining(cls) -> type[Pretraining]:
        return LightweightPretraining

    def save(self, directory: str | Path) -> None:
        self.net.save_pretrained(directory)

    def decoder_parts(self) -> list[nn.Module]:
        return [self.net.decoder]

    def encode(self, x: Tensor) -> Encoding:
        features, mean, log_var = self.net.encode(x)
        return Encoding(features, mean, None if log_var is None else no_wider_than_the_prior(log_var))

    def decode(
        self,
        latent: Tensor,
        encoding: Encoding | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Decoding:
        return Decoding(self.net.decode(latent), kl=latent.new_zeros(len(latent)))


class LightweightObjective(BatchObjective):
    """Pretraining: the beta-VAE loss on pooled contexts. Returns the same kind of dict as every objective.

    Args:
        net: with heads.
        beta: weight of the KL.
        regularizer: what is added to the reconstruction error in training in place of the KL: a
            `context_module.baselines.Regularizer`. In eval mode the loss is then the negative ELBO.
    """

    def __init__(self, net: LightweightVAE, beta: float = 1.0, regularizer: Any = None) -> None:
        super().__init__()
        self.net, self.beta, self.regularizer = net, beta, regularizer

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        _, mean, log_var = self.net.encode(batch["x"])
        if log_var is None:
            raise ValueError("a LightweightVAE without heads has no posterior to pretrain: build it with heads=True")
        latent = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        neg_log_likelihood = -self.net.decode(latent).log_prob(batch["x"])
        return {"neg_log_likelihood": neg_log_likelihood, "mean": mean, "log_var": log_var, "latent": latent}

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        neg_log_likelihood, mean, log_var = (
            parts["neg_log_likelihood"],
            parts["mean"].float(),
            parts["log_var"].float(),
        )
        if self.regularizer is not None and self.training:
            found = self.regularizer(mean, log_var, parts["latent"].float(), progress)
            loss = neg_log_likelihood + found.pop("penalty")
            return {"loss": loss, "neg_log_likelihood": neg_log_likelihood, **found}
        kl = standard_normal_kl(mean, log_var.exp(), log_var)
        return {"loss": neg_log_likelihood + self.beta * kl, "neg_log_likelihood": neg_log_likelihood, "kl": kl}

    def parameter_groups(self) -> list[ParameterGroup]:
        if self.regularizer is None:
            return super().parameter_groups()
        groups: list[ParameterGroup] = self.regularizer.groups(self.parameters())
        return groups


@dataclass(kw_only=True)
class LightweightPretraining(Pretraining):
    """The paper's lightweight VAEs."""

    beta: float = argument(1.0, help="weight of the KL")

    def build(self, data: ContextDataset) -> tuple[LightweightAdapter, LightweightObjective]:
        base = LightweightAdapter.fresh(data.image_shape)
        return base, LightweightObjective(base.net, self.beta)
