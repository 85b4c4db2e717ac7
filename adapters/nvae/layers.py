"""The pieces of NVAE: weight-normalised convolutions, cells and combiners.

Attribute names are those of the public checkpoints, so that their tensors load by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from context_module.adapters.nvae.config import parse_mconv

__all__ = ["BatchNorm", "Cell", "DecoderCombiner", "EncoderCombiner", "WeightNormConv2d"]


class WeightNormConv2d(nn.Conv2d):
    """A convolution whose output channels each have a learned norm, with zero padding that keeps the size.

    The weight in use is exp(log_weight_norm) * weight / (||weight|| + 1e-5), norms being per output channel. With a
    `mask` of the weight's shape it is the masked weight that is normalised.
    """

    mask: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        mask: Tensor | None = None,
    ) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.register_buffer("mask", mask, persistent=False)
        self.log_weight_norm = nn.Parameter(torch.empty(out_channels, 1, 1, 1))
        self.reset_norm()

    def _direction(self) -> Tensor:
        return self.weight if self.mask is None else self.weight * self.mask

    @torch.no_grad()
    def reset_norm(self, factor: float = 1.0) -> None:
        """Set the norms to those of the weight, times `factor`."""
        norm = torch.linalg.vector_norm(self._direction(), dim=(1, 2, 3), keepdim=True)
        self.log_weight_norm.copy_((factor * norm + 1e-2).log())

    def effective_weight(self) -> Tensor:
        """The weight in use, (C_out, C_in / groups, k, k)."""
        weight = self._direction()
        norm = torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True)
        return weight * (self.log_weight_norm.exp() / (norm + 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.effective_weight(), self.bias)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with NVAE's momentum."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-5, momentum=0.05)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What it does in eval, each (C,), float32."""
        scale = self.weight * torch.rsqrt(self.running_var.float() + self.eps)
        return scale, self.bias - self.running_mean.float() * scale


class _BNSwish(BatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(super().forward(x))


class _NamedBN(nn.Module):
    """A batch norm one level down, where the public checkpoints have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x)


def _normed(x: Tensor, conv: nn.Module, before: BatchNorm | None, after: Any) -> Tensor:
    """A convolution, of 1x1 if there is a batch norm `before` it, and the batch norm `after` it.

    With fixed statistics all of it is one convolution with other weights, which saves passes over the feature maps.
    """
    norms = [norm for norm in (before, after) if norm is not None]
    hooked = any(norm.training or norm._forward_pre_hooks or norm._forward_hooks for norm in norms)
    if hooked or type(conv) is not nn.Conv2d:  # they see what passes; LoRA has put another layer there
        return after(conv(x if before is None else before(x)))
    weight, bias = conv.weight.float(), torch.zeros(())
    if before is not None:
        scale, shift = before.scale_and_shift()
        bias = weight.flatten(1) @ shift
        weight = weight * scale[:, None, None]
    scale, shift = after.scale_and_shift()
    weight, bias = weight * scale[:, None, None, None], bias * scale + shift
    x = conv._conv_forward(x, weight.to(conv.weight.dtype), bias.to(conv.weight.dtype))
    return functional.silu(x) if isinstance(after, _BNSwish) else x


def _upsample() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="nearest")


class _TwoLayerOp(nn.Module):
    """Activation, upsampling for stride -1, 3x3 convolution."""

    def __init__(self, op: str, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if op == "res_bnelu":
            self.bn = _NamedBN(in_channels)
        if op.startswith("res_bnswish"):
            self.bn_act = _BNSwish(in_channels)
        else:
            self.elu = nn.ELU()
        self.upsample = _upsample() if stride == -1 else nn.Identity()
        dilation = 2 if op == "res_bnswish5" else 1
        self.conv_0 = WeightNormConv2d(in_channels, out_channels, 3, stride=abs(stride), dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():  # in the order of their assignment
            x = layer(x)
        return x


class _ConvBNSwish(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int) -> None:
        super().__init__()
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False
        )
        self.conv = nn.Sequential(conv, _BNSwish(out_channels))

    def forward(self, x: Tensor, before: BatchNorm | None = None) -> Tensor:
        conv, norm = self.conv
        return _normed(x, conv, before, norm)


class _InvertedBottleneck(nn.Module):
    """The "mconv" ops: expand with 1x1, KxK by groups, contract with 1x1."""

    def __init__(
        self, expansion: float, kernel_size: int, groups: int, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        hidden = round(expansion * in_channels)
        self.conv = nn.Sequential(
            *([_upsample()] if stride == -1 else []),
            _NamedBN(in_channels),
            _ConvBNSwish(in_channels, hidden, 1, 1, 1),
            _ConvBNSwish(hidden, hidden, kernel_size, abs(stride), groups or hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            _NamedBN(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        *upsample, first, expand, mix, contract, last = self.conv
        # what is done to each pixel by itself is done once, not for all four copies; in training the copies count, for
        # the statistics of batch norm
        for layer in upsample if self.training else ():
            x = layer(x)
        x = expand(x, before=first.bn)
        for layer in () if self.training else upsample:
            x = layer(x)
        return _normed(mix(x), contract, None, last.bn)


def _make_op(op: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    mconv = parse_mconv(op)
    if mconv:
        return _InvertedBottleneck(*mconv, in_channels, out_channels, stride)
    return _TwoLayerOp(op, in_channels, out_channels, stride)


class _FactorisedReduce(nn.Module):
    """Halves the size with four 1x1 convolutions, each on another quarter of the pixels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        quarter = out_channels // 4
        self.conv_1 = WeightNormConv2d(in_channels, quarter, 1)
        self.conv_2 = WeightNormConv2d(in_channels, quarter, 1)
        self.conv_3 = WeightNormConv2d(in_channels, quarter, 1)
        self.conv_4 = WeightNormConv2d(in_channels, out_channels - 3 * quarter, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(x)
        quarters = (
            self.conv_1(x[:, :, ::2, ::2]),
            self.conv_2(x[:, :, 1::2, 1::2]),
            self.conv_3(x[:, :, ::2, 1::2]),
            self.conv_4(x[:, :, 1::2, ::2]),
        )
        return torch.cat(quarters, dim=1)


class _Reversed(nn.Sequential):
    """Upsampling and a 1x1 convolution, which may change places: the convolution first, on a quarter of the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        upsample, convolution = self
        return upsample(convolution(x))


def _make_skip(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1:
        return nn.Identity()
    if stride == 2:
        return _FactorisedReduce(in_channels, out_channels)
    bilinear = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    return _Reversed(bilinear, WeightNormConv2d(in_channels, out_channels, 1, bias=False))


class _SqueezeExcite(nn.Module):
    """Rescales each channel by a gate computed from all channels' spatial means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.se = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.se(x.mean(dim=(2, 3)))[:, :, None, None]


class Cell(nn.Module):
    """A residual cell, skip(x) + 0.1 * SE(ops(x)).

    Args:
        in_channels: of the input.
        stride: 1 keeps size and channels, 2 halves the size and doubles the channels, -1 the other way round.
        ops: op names; the first one strides.
        use_se: whether to end in squeeze-and-excitation.
    """

    def __init__(self, in_channels: int, stride: int, ops: Sequence[str], use_se: bool) -> None:
        super().__init__()
        out_channels = {1: in_channels, 2: in_channels * 2, -1: in_channels // 2}[stride]
        self.skip = _make_skip(in_channels, out_channels, stride)
        first = _make_op(ops[0], in_channels, out_channels, stride)
        self._ops = nn.ModuleList([first, *(_make_op(op, out_channels, out_channels, 1) for op in ops[1:])])
        self.se = _SqueezeExcite(out_channels) if use_se else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(x)
        for op in self._ops:
            x = op(x)
        return skip + 0.1 * self.se(x)


class EncoderCombiner(nn.Module):
    """Adds a projection of the decoder's state to the encoder's, for the posterior of one group."""

    def __init__(self, encoder_channels: int, decoder_channels: int) -> None:
        super().__init__()
        self.conv = WeightNormConv2d(decoder_channels, encoder_channels, 1)

    def forward(self, encoder_state: Tensor, decoder_state: Tensor) -> Tensor:
        return encoder_state + self.conv(decoder_state)


class DecoderCombiner(nn.Module):
    """Merges one group's latent into the decoder's state."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.conv = WeightNormConv2d(channels + latent_channels, channels, 1)

    def forward(self, state: Tensor, latent: Tensor) -> Tensor:
        return self.conv(torch.cat((state, latent), dim=1))
