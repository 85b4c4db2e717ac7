"""Principal components as a base: the smallest family of bases that has all a family can have.

`PCA` is the model: it knows nothing of context modules. `PCAAdapter` shows it to the library.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from context_module.adapters import DecoderAdapter, Decoding, Encoding, LatentSpec
from context_module.adapters.likelihoods import DiscretisedLogistic
from context_module.errors import CheckpointError
from context_module.io import load_strictly, load_tensors, save_tensors

__all__ = ["PCA", "PCAAdapter"]

WEIGHTS = "model.safetensors"


class PCA(nn.Module):
    """Images (B, C, H, W) to coordinates (B, components) along principal components, and back."""

    def __init__(self, image_shape: tuple[int, int, int], components: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.decoder = nn.Linear(components, math.prod(image_shape))  # its bias is the mean image

    @classmethod
    def fit(cls, images: Tensor, components: int) -> PCA:
        """From images (N, C, H, W) in [0, 1]; coordinates have unit variance."""
        flat = images.flatten(1)
        model = cls(tuple(images.shape[1:]), components)
        _, singular, directions = torch.pca_lowrank(flat, components)
        with torch.no_grad():
            model.decoder.weight.copy_(directions * singular / math.sqrt(len(flat)))
            model.decoder.bias.copy_(flat.mean(0))
        return model

    def encode(self, x: Tensor) -> Tensor:
        weight = self.decoder.weight
        return (x.flatten(1) - self.decoder.bias) @ weight / weight.square().sum(0)

    def decode(self, coordinates: Tensor) -> Tensor:
        return self.decoder(coordinates).unflatten(1, self.image_shape)

    def save(self, directory: str | Path) -> None:
        Path(directory).mkdir(parents=True, exist_ok=True)
        save_tensors(Path(directory) / WEIGHTS, {**self.state_dict(), "image_shape": torch.tensor(self.image_shape)})

    @classmethod
    def load(cls, directory: str | Path) -> PCA:
        tensors = load_tensors(Path(directory) / WEIGHTS)
        try:
            channels, height, width = tensors.pop("image_shape").tolist()
            model = cls((channels, height, width), tensors["decoder.weight"].shape[1])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{directory} holds no PCA: {error}") from error
        load_strictly(model, tensors, directory)
        return model


class PCAAdapter(DecoderAdapter):
    """A `PCA` as a base: one level, a deterministic encoder, a logistic likelihood around the mean."""

    name = "pca"  # that of the entry point

    def __init__(self, net: PCA, source: str | None = None) -> None:
        super().__init__()
        self.net, self.source = net, source
        self.likelihood = DiscretisedLogistic(0.05)
        components = net.decoder.in_features
        self.latent = LatentSpec((components,))  # coordinates have unit variance: no scale, no shift
        self.image_shape, self.num_features = net.image_shape, components

    # what `wrap_decoder(PCA(...), ...)` and `--base pca --base_checkpoint DIR` need

    @classmethod
    def matches(cls, base: object) -> bool:
        return isinstance(base, PCA)

    @classmethod
    def wrap(cls, base: Any) -> PCAAdapter:
        return cls(base)

    @classmethod
    def load(cls, path: str | Path) -> PCAAdapter:
        return cls(PCA.load(path), source=str(path))

    # what every base needs

    def encode(self, x: Tensor) -> Encoding:
        coordinates = self.net.encode(x)
        return Encoding(features=coordinates, mean=coordinates)

    def decode(
        self,
        latent: Tensor,
        encoding: Encoding | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Decoding:
        return Decoding(self.likelihood(self.net.decode(latent)), kl=latent.new_zeros(len(latent)))

    # for bases that train: LoRA on the decoder, and saving what trained

    def decoder_parts(self) -> list[nn.Module]:
        return [self.net.decoder]

    def save(self, directory: str | Path) -> None:
        self.net.save(directory)
