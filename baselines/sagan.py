"""DEAR's networks for images of 64x64: a ResNet-50 as encoder, a generator and critics of SAGAN's kind.

ResNet: He et al. (CVPR 2016), that of transformers. Residual up- and down-sampling blocks with spectral normalisation
and self-attention at 32x32: Zhang et al. (ICML 2019). The generator is deterministic; DEAR's may add noise to feature
maps.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["image_critic", "resnet50", "sagan_decoder"]

_WIDTH = 32
_HIDDEN = 1024


def resnet50(channels: int, outputs: int) -> nn.Module:
    """Images (B, C, H, W) to (B, outputs), by a ResNet-50 and a residual layer behind it.

    Raises:
        ImportError: without transformers.
    """
    return nn.Sequential(_ResNet(channels), _Hidden(_ResNet.FEATURES), nn.Linear(_HIDDEN, outputs))


class _ResNet(nn.Module):
    FEATURES = 2048

    def __init__(self, channels: int) -> None:
        super().__init__()
        try:
            from transformers import ResNetConfig, ResNetModel
        except ImportError as error:
            raise ImportError("a ResNet-50 needs transformers: pip install context-module[transformers]") from error
        self.net = ResNetModel(ResNetConfig(num_channels=channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).pooler_output.flatten(1)


class _Hidden(nn.Module):
    """A layer, and a residual block of two."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(features, _HIDDEN), nn.BatchNorm1d(_HIDDEN), nn.ReLU())
        self.block = nn.Sequential(
            nn.Linear(_HIDDEN, _HIDDEN), nn.BatchNorm1d(_HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN)
        )
        self.norm = nn.BatchNorm1d(_HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return F.relu(self.norm(hidden + self.block(hidden)))


def sagan_decoder(channels: int, inputs: int) -> nn.Sequential:
    """Codes (B, inputs) to logits (B, channels, 64, 64)."""
    widths = [16 * _WIDTH, 8 * _WIDTH, 4 * _WIDTH, 2 * _WIDTH, _WIDTH]
    layers: list[nn.Module] = [spectral_norm(nn.Linear(inputs, widths[0] * 16)), nn.Unflatten(1, (widths[0], 4, 4))]
    for size, (before, after) in zip((8, 16, 32, 64), pairwise(widths), strict=True):
        layers.append(_Block(before, after, up=True))
        if size == 32:
            layers.append(_SelfAttention(after))
    last = spectral_norm(nn.Conv2d(_WIDTH, channels, 3, padding=1))
    return nn.Sequential(*layers, nn.BatchNorm2d(_WIDTH), nn.ReLU(), last)


def image_critic(channels: int, features: int) -> nn.Sequential:
    """Images (B, channels, 64, 64) to features (B, features)."""
    widths = [channels, _WIDTH, 2 * _WIDTH, 4 * _WIDTH, 8 * _WIDTH]
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths)):
        layers.append(_Block(before, after, up=False))
        if not number:  # images of 64x64 are 32x32 here
            layers.append(_SelfAttention(after))
    return nn.Sequential(
        *layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), spectral_norm(nn.Linear(widths[-1], features))
    )


class _Block(nn.Module):
    """Two convolutions beside a skip, to twice or half the size."""

    def __init__(self, before: int, after: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.first_norm: nn.Module = nn.BatchNorm2d(before) if up else nn.Identity()
        self.second_norm: nn.Module = nn.BatchNorm2d(after) if up else nn.Identity()
        self.first = spectral_norm(nn.Conv2d(before, after, 3, padding=1))
        self.second = spectral_norm(nn.Conv2d(after, after, 3, padding=1))
        self.skip = spectral_norm(nn.Conv2d(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first_norm(x))
        if self.up:
            hidden, x = F.interpolate(hidden, scale_factor=2), F.interpolate(x, scale_factor=2)
        hidden = self.second(F.relu(self.second_norm(self.first(hidden))))
        if not self.up:
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        return hidden + self.skip(x)


class _SelfAttention(nn.Module):
    """Every place looks at every other, on maps of a quarter of the places; it starts as doing nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = spectral_norm(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.key = spectral_norm(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.value = spectral_norm(nn.Conv2d(channels, channels // 2, 1, bias=False))
        self.out = spectral_norm(nn.Conv2d(channels // 2, channels, 1, bias=False))
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)
        key, value = (F.max_pool2d(layer(x), 2).flatten(2) for layer in (self.key, self.value))
        query, key, value = (each.transpose(1, 2)[:, None] for each in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, scale=1)[:, 0]
        return x + self.gain * self.out(attended.transpose(1, 2).unflatten(2, x.shape[2:]))
