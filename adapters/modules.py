"""Any encoder and decoder that are plain modules of torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from context_module.adapters.contract import DecoderAdapter, Decoding, Encoding, LatentSpec
from context_module.adapters.likelihoods import BernoulliLikelihood
from context_module.errors import ShapeError

__all__ = ["ModulesAdapter"]


class ModulesAdapter(DecoderAdapter):
    """Shows an (encoder, decoder) pair of one-level networks.

    Args:
        encoder: images (B, C, H, W) in [0, 1] to embeddings (B, *latent_shape), the decoder's own inputs; they are
            also the features of the posterior heads.
        decoder: embeddings to the logits of the images (before any sigmoid), (B, C, H, W).
        latent_shape: shape of one embedding, without the batch.
        image_shape: (C, H, W).
        scale, shift: bring embeddings to about zero mean and unit variance, ``(embedding - shift) * scale``; numbers,
            or one for each channel.

    Raises:
        ShapeError: if the two networks do not fit the shapes; found by a trial run on a blank image. And if their
            parameters are of different types.
    """

    name = "modules"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        scale: float | tuple[float, ...] = 1.0,
        shift: float | tuple[float, ...] = 0.0,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder.eval(), decoder.eval()
        self.latent = LatentSpec(tuple(latent_shape), scale, shift)
        self.image_shape = image_shape
        self.num_features = math.prod(latent_shape)
        types = sorted({str(p.dtype) for p in self.parameters() if p.is_floating_point()})
        if len(types) > 1:
            raise ShapeError(f"encoder and decoder mix parameters of {' and '.join(types)}: convert them to one type")
        with torch.no_grad():
            embedding = encoder(torch.zeros(1, *image_shape).to(self.device, self.dtype))
            if tuple(embedding.shape[1:]) != self.latent.shape:
                raise ShapeError(
                    f"the encoder gives embeddings of shape {tuple(embedding.shape[1:])} for images of shape "
                    f"{image_shape}, not latent_shape={self.latent.shape}"
                )
            logits = decoder(embedding)
            if tuple(logits.shape[1:]) != tuple(image_shape):
                raise ShapeError(f"the decoder gives images of shape {tuple(logits.shape[1:])}, not {image_shape}")

    def decoder_parts(self) -> list[nn.Module]:
        return [self.decoder]

    def encode(self, x: Tensor) -> Encoding:
        embedding = self.latent.normalise(self.encoder(x))
        return Encoding(features=embedding.flatten(1), mean=embedding)

    def decode(
        self,
        latent: Tensor,
        encoding: Encoding | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Decoding:
        logits = self.decoder(self.latent.denormalise(latent))
        return Decoding(BernoulliLikelihood(logits), kl=latent.new_zeros(len(latent)))
