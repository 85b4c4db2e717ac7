"""Any encoder and decoder that are plain modules of torch."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from context_module.adapters.contract import DecoderAdapter, Decoding, Encoding, LatentSpec
from context_module.adapters.outputs import Output, checked_output, contradiction, likelihood_of
from context_module.errors import ShapeError
from context_module.normal import draw_normal

__all__ = ["ModulesAdapter"]


class ModulesAdapter(DecoderAdapter):
    """Shows an (encoder, decoder) pair of one-level networks.

    Args:
        encoder: images (B, C, H, W) in [0, 1] to embeddings (B, *latent_shape), the decoder's own inputs, or to the
            pair (mean, log-variance) of a Gaussian posterior of them; the mean is also the features of the posterior
            heads.
        decoder: embeddings to images (B, C, H, W), as `output` says.
        latent_shape: shape of one embedding, without the batch.
        image_shape: (C, H, W).
        scale, shift: bring embeddings to about zero mean and unit variance, ``(embedding - shift) * scale``; numbers,
            or one for each channel.
        output: what the decoder ends in: ``logits`` of the images, before any sigmoid; images with values in [-1, 1],
            as after a ``tanh``; or images with values in [0, 1] (``unit``), as after a sigmoid. The last two are
            handed out as they are, and are the probabilities of a Bernoulli likelihood. A UserWarning says if images
            that the decoder makes on trial contradict it.

    Raises:
        TypeError: for an encoder that returns anything but a tensor or a pair of them, or a decoder that does not
            return a tensor.
        ShapeError: if the two networks do not fit the shapes; found by a trial run. If their parameters are of
            different types. And for another `output`.
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
        output: Output = "logits",
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder.eval(), decoder.eval()
        self.latent = LatentSpec(tuple(latent_shape), scale, shift)
        self.image_shape = image_shape
        self.num_features = math.prod(latent_shape)
        self.output = checked_output(output)
        types = sorted({str(p.dtype) for p in self.parameters() if p.is_floating_point()})
        if len(types) > 1:
            raise ShapeError(f"encoder and decoder mix parameters of {' and '.join(types)}: convert them to one type")
        self._try_encoder()
        self._try_decoder()

    def decoder_parts(self) -> list[nn.Module]:
        return [self.decoder]

    def encode(self, x: Tensor) -> Encoding:
        mean, log_var = _posterior(self.encoder(x))
        embedding = self.latent.normalise(mean)
        log_var = None if log_var is None else self.latent.normalise_log_var(log_var)
        return Encoding(embedding.flatten(1), embedding, log_var)

    def decode(
        self,
        latent: Tensor,
        encoding: Encoding | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Decoding:
        decoded = self.decoder(self.latent.denormalise(latent))
        return Decoding(likelihood_of(decoded, self.output), kl=latent.new_zeros(len(latent)))

    @torch.no_grad()
    def _try_encoder(self) -> None:
        blank = torch.zeros(1, *self.image_shape).to(self.device, self.dtype)
        for part in _posterior(self.encoder(blank)):
            if part is not None and tuple(part.shape[1:]) != self.latent.shape:
                raise ShapeError(
                    f"the encoder gives embeddings of shape {tuple(part.shape[1:])} for images of shape "
                    f"{self.image_shape}, not latent_shape={self.latent.shape}"
                )

    @torch.enable_grad()  # which tells the decoder's last step
    def _try_decoder(self) -> None:
        drawn = draw_normal(torch.empty(1, *self.latent.shape), torch.Generator().manual_seed(0))
        latent = self.latent.denormalise(torch.cat([drawn, -drawn]).to(self.device, self.dtype)).requires_grad_()
        decoded = self.decoder(latent)
        if not isinstance(decoded, Tensor):
            raise TypeError(f"the decoder must return images, a tensor (B, C, H, W); got {_described(decoded)}")
        if tuple(decoded.shape[1:]) != tuple(self.image_shape):
            raise ShapeError(f"the decoder gives images of shape {tuple(decoded.shape[1:])}, not {self.image_shape}")
        if (reason := contradiction(decoded, self.output)) is not None:
            warnings.warn(
                f"the decoder is wrapped with output={self.output!r}, but {reason}", UserWarning, stacklevel=4
            )


def _posterior(returned: Any) -> tuple[Tensor, Tensor | None]:
    """Mean and log-variance, from what an encoder returned."""
    if isinstance(returned, Tensor):
        return returned, None
    if (
        isinstance(returned, tuple | list)
        and len(returned) == 2
        and all(isinstance(part, Tensor) for part in returned)
    ):
        return returned[0], returned[1]
    raise TypeError(
        "the encoder must return embeddings, a tensor (B, *latent_shape), or the pair of tensors (mean, log-variance) "
        f"of a Gaussian posterior; got {_described(returned)}: wrap it in a module that picks these"
    )


def _described(returned: Any) -> str:
    """In a few words: ``a dict of 'mean', 'std'``."""
    kind = type(returned).__name__
    if isinstance(returned, dict):
        return f"a {kind} of {', '.join(map(repr, returned))}"
    if isinstance(returned, tuple | list):
        return f"a {kind} of {len(returned)} ({', '.join(type(part).__name__ for part in returned)})"
    return f"a {kind}"
