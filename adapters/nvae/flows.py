"""NVAE's autoregressive flows: volume-preserving shifts of a posterior draw by masked convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from context_module.adapters.nvae.layers import WeightNormConv2d

__all__ = ["FlowCell"]


def _channel_mask(in_channels: int, out_channels: int, see_own: bool) -> Tensor:
    """(out, in) ones where an output may depend on an input at its own pixel.

    The wider side's channels come in runs, one run for each channel of the narrower side.
    """
    narrow = min(in_channels, out_channels)
    input_run = torch.arange(in_channels) // (in_channels // narrow)
    output_run = torch.arange(out_channels) // (out_channels // narrow)
    before = input_run[None, :] < output_run[:, None]
    own = input_run[None, :] == output_run[:, None]
    return (before | own if see_own else before).float()


def _masked_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    see_own: bool,
    mirrored: bool,
    depthwise: bool = False,
    bias: bool = False,
) -> WeightNormConv2d:
    """A convolution that sees the pixels before its own in raster order, and earlier channels at its own.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: odd.
        see_own: whether the own channel at the own pixel is seen too.
        mirrored: whether to see the pixels after the own one instead; the order of the channels stays.
        depthwise: one group per channel.
        bias: whether to add one.
    """
    groups = in_channels if depthwise else 1
    mask = torch.zeros(out_channels, in_channels // groups, kernel_size, kernel_size)
    centre = kernel_size // 2
    mask[:, :, :centre] = 1
    mask[:, :, centre, :centre] = 1
    mask[:, :, centre, centre] = float(see_own) if depthwise else _channel_mask(in_channels, out_channels, see_own)
    mask = mask.flip(2, 3) if mirrored else mask
    return WeightNormConv2d(in_channels, out_channels, kernel_size, groups=groups, bias=bias, mask=mask)


class _Features(nn.Module):
    def __init__(self, channels: int, hidden: int, mirrored: bool) -> None:
        super().__init__()
        self.convz = nn.Sequential(
            _masked_conv(channels, hidden, 3, see_own=False, mirrored=mirrored),
            nn.ELU(),
            _masked_conv(hidden, hidden, 5, see_own=True, mirrored=mirrored, depthwise=True),
            nn.ELU(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.convz(z)


class _Shift(nn.Module):
    def __init__(self, channels: int, hidden: int, mirrored: bool) -> None:
        super().__init__()
        self.elu = nn.ELU()
        self.conv_0 = _masked_conv(hidden, channels, 1, see_own=True, mirrored=mirrored, bias=True)
        self.conv_0.reset_norm(0.1)  # near the identity at first

    def forward(self, features: Tensor) -> Tensor:
        return self.conv_0(self.elu(features))


class _HalfCell(nn.Module):
    def __init__(self, channels: int, mirrored: bool) -> None:
        super().__init__()
        self.conv = _Features(channels, 6 * channels, mirrored)
        self.mu = _Shift(channels, 6 * channels, mirrored)

    def forward(self, z: Tensor) -> Tensor:
        return z - self.mu(self.conv(z))


class FlowCell(nn.Module):
    """Two autoregressive shifts, the second in the reverse order of the pixels. The log-determinant is 0.

    Args:
        channels: of the latent.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cell1 = _HalfCell(channels, mirrored=False)
        self.cell2 = _HalfCell(channels, mirrored=True)

    def forward(self, z: Tensor) -> Tensor:
        return self.cell2(self.cell1(z))
