"""Layers compute what the network's description says, whatever order or layout is fastest."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from context_module.adapters.nvae import NVAE
from context_module.adapters.nvae.layers import Cell, _FactorisedReduce, _InvertedBottleneck, _make_skip


@pytest.mark.parametrize("training", [False, True])
def test_bottleneck_upsamples_first(training: bool) -> None:
    """As nn.Sequential has it: what comes before the spatial convolution may be computed on fewer pixels."""
    torch.manual_seed(0)
    bottleneck = _InvertedBottleneck(3, 5, 0, 4, 2, stride=-1).train(training)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(bottleneck(x), bottleneck.conv(x))


def test_skip_upsamples_first() -> None:
    torch.manual_seed(0)
    skip, x = _make_skip(4, 2, -1), torch.randn(2, 4, 8, 8)
    assert list(dict(skip.named_parameters())) == ["1.weight", "1.log_weight_norm"]  # as the public files name them
    torch.testing.assert_close(skip(x), nn.Sequential(*skip)(x))


def test_reduction_takes_each_quarter_of_the_pixels() -> None:
    torch.manual_seed(0)
    reduce, x = _FactorisedReduce(4, 8), torch.randn(2, 4, 6, 6)
    y = functional.silu(x)
    convs = (reduce.conv_1, reduce.conv_2, reduce.conv_3, reduce.conv_4)
    shifted = dict(zip(convs, (y, y[:, :, 1:, 1:], y[:, :, :, 1:], y[:, :, 1:]), strict=True))
    parts = [functional.conv2d(part, conv.effective_weight(), conv.bias, stride=2) for conv, part in shifted.items()]
    torch.testing.assert_close(reduce(x), torch.cat(parts, dim=1))


def test_cell_is_its_description() -> None:
    torch.manual_seed(0)
    cell, x = Cell(4, -1, ("res_bnswish", "res_bnswish"), use_se=False).eval(), torch.randn(2, 4, 8, 8)
    y = x
    for op in cell._ops:
        y = op(y)
    torch.testing.assert_close(cell(x), nn.Sequential(*cell.skip)(x) + 0.1 * y)


def test_weights_lie_as_convolutions_are_fastest(make_net: Callable[..., NVAE], tmp_path: Path) -> None:
    net = make_net()
    net.save_pretrained(tmp_path)
    for found in (net, NVAE.from_pretrained(tmp_path)):
        assert found.stem.weight.is_contiguous(memory_format=torch.channels_last)
        assert found.encode(torch.rand(2, 3, 8, 8))[0].mean.is_contiguous(memory_format=torch.channels_last)
