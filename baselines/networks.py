"""Networks, the same for every method: the field's common pair for 64x64 images, small VAEs, and DEAR's."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from context_module.adapters import lightweight
from context_module.baselines import sagan
from context_module.errors import ShapeError

__all__ = ["ARCHITECTURES", "make_networks"]

#: ``simple64bn``, ``simple32bn`` and ``conv3`` are `context_module.adapters.lightweight`'s.
ARCHITECTURES = ("conv64", *lightweight.ARCHITECTURES, "resnet_sagan64")
_FEATURES = 256


def make_networks(
    architecture: str, image_shape: tuple[int, int, int], outputs: int, inputs: int
) -> tuple[nn.Module, nn.Module]:
    """An encoder, images (B, C, H, W) to (B, outputs), and a decoder, (B, inputs) to logits (B, C, H, W).

    ``conv64`` is that of Locatello et al. (2019, "Challenging Common Assumptions"): convolutions of 32, 32, 64 and 64
    channels, 4x4 with stride 2, a layer of 256, and its mirror image. ``resnet_sagan64`` is that of DEAR: a ResNet-50
    and a residual generator with self-attention, in twenty times the time.

    Args:
        architecture: one of `ARCHITECTURES`.
        image_shape: (C, H, W).
        outputs: of the encoder.
        inputs: of the decoder.

    Raises:
        ValueError: for another architecture.
        ShapeError: for images of a size that it does not take.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
    shape = "x".join(map(str, image_shape))
    if architecture.endswith("64") and tuple(image_shape[1:]) != (64, 64):
        raise ShapeError(
            f"the {architecture} networks take images of 64x64 pixels, got {shape}: load the data at resolution 64, "
            f"or choose another architecture: {', '.join(lightweight.ARCHITECTURES)}"
        )
    if architecture == "conv64":
        return _conv64(image_shape[0], outputs, inputs)
    if architecture == "resnet_sagan64":
        return sagan.resnet50(image_shape[0], outputs), sagan.sagan_decoder(image_shape[0], inputs)
    build, takes = lightweight.ARCHITECTURES[architecture]
    if takes != tuple(image_shape):
        raise ShapeError(
            f"the {architecture} networks take images of {'x'.join(map(str, takes))}, got {shape}: choose another "
            f"architecture or resolution"
        )
    encoder, decoder = build()
    width = lightweight.FEATURES
    return nn.Sequential(*encoder, nn.Linear(width, outputs)), nn.Sequential(nn.Linear(inputs, width), *decoder)


def _conv64(channels: int, outputs: int, inputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    widths = [channels, 32, 32, 64, 64]
    encoder: list[nn.Module] = []
    for before, after in pairwise(widths):
        encoder += [nn.Conv2d(before, after, 4, 2, 1), nn.ReLU()]
    encoder += [nn.Flatten(), nn.Linear(1024, _FEATURES), nn.ReLU(), nn.Linear(_FEATURES, outputs)]
    decoder: list[nn.Module] = [nn.Linear(inputs, _FEATURES), nn.ReLU(), nn.Linear(_FEATURES, 1024), nn.ReLU()]
    decoder += [nn.Unflatten(1, (64, 4, 4))]
    for before, after in pairwise(widths[::-1]):
        decoder += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*encoder), nn.Sequential(*decoder[:-1])
