"""A decoder that came without an encoder, such as a GAN's generator: a small encoder is made for it, and trained.

Posterior heads and the latent objective read an encoding of every image, so noise must be found for given images. A
small encoder is trained for that once, by the ELBO through the fixed decoder (`context_module.training.encoder`),
rather than the noise of each image by optimisation: it costs a few thousand decoder passes instead of hundreds an
image, it gives a variance beside the point, and it is a continuous function of the image, where the optima that
descents end in are not. It is saved with the module.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from context_module.adapters.contract import Encoding
from context_module.adapters.modules import ModulesAdapter
from context_module.adapters.outputs import Output
from context_module.errors import UnfittedError

__all__ = ["DecoderOnlyAdapter", "SmallEncoder"]


class SmallEncoder(nn.Module):
    """Images (B, C, H, W) in [0, 1] to mean and log-variance of latents, (B, *latent_shape) each.

    Strided convolutions halve the sides until the shorter one is 4 or less, channels double from 32 up to 256.

    Attributes:
        fitted: whether it was trained.
    """

    fitted: Tensor

    def __init__(self, image_shape: tuple[int, int, int], latent_shape: tuple[int, ...], width: int = 256) -> None:
        super().__init__()
        channels, height, width_of_image = image_shape
        layers: list[nn.Module] = []
        outs = 32
        while min(height, width_of_image) > 4 or not layers:
            layers += [nn.Conv2d(channels, outs, 3, stride=2, padding=1), nn.GroupNorm(8, outs), nn.GELU()]
            height, width_of_image = -(-height // 2), -(-width_of_image // 2)
            channels, outs = outs, min(2 * outs, 256)
        self.latent_shape = latent_shape
        self.trunk = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels * height * width_of_image, width), nn.GELU()
        )
        self.head = nn.Linear(width, 2 * math.prod(latent_shape))
        self.register_buffer("fitted", torch.tensor(False))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of a batch."""
        mean, log_var = self.head(self.trunk(x)).unflatten(1, (2, *self.latent_shape)).unbind(1)
        return mean, log_var

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior(x)


class DecoderOnlyAdapter(ModulesAdapter):
    """Shows a decoder alone, for latents from N(0, I).

    Train its encoder before it is wrapped or used (`fit_encoder` in `context_module.training.encoder`); loading a
    module brings the one that was trained with it. Subclass it to give a family of such decoders a name and a `load`.

    Args:
        decoder: latents (B, *latent_shape) from N(0, I) to images (B, C, H, W), as `output` says.
        latent_shape: shape of one latent, without the batch.
        image_shape: (C, H, W).
        output: as for `ModulesAdapter`: ``tanh`` for the generators of most GANs.

    Raises:
        TypeError: if the decoder does not return a tensor.
        ShapeError: if the decoder does not fit the shapes; found by a trial run. And for another `output`.
    """

    name = "decoder_only"
    own_parts = ("encoder",)
    encoder: SmallEncoder

    def __init__(
        self,
        decoder: nn.Module,
        latent_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        output: Output = "logits",
    ) -> None:
        first = next(decoder.parameters(), torch.empty(0))
        encoder = SmallEncoder(image_shape, tuple(latent_shape)).to(first.device, first.dtype)
        super().__init__(encoder, decoder, latent_shape, image_shape, output=output)

    def encode(self, x: Tensor) -> Encoding:
        if not self.encoder.fitted:
            raise UnfittedError(
                f"the encoder of this {self.name!r} base is untrained: fit_encoder(base, images) of "
                "context_module.training.encoder trains it"
            )
        return super().encode(x)
