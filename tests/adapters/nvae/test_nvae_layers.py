"""Layers compute what the network's description says, whatever order or layout is fastest."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from context_module.adapters.nvae import NVAE
from context_module.adapters.nvae.layers import BatchNorm, Cell, _FactorisedReduce, _InvertedBottleneck, _make_skip


@pytest.mark.parametrize("training", [False, True])
def test_bottleneck_upsamples_first(training: bool) -> None:
    """As nn.Sequential has it: what comes before the spatial convolution may be computed on fewer pixels."""
    torch.manual_seed(0)
    bottleneck = _InvertedBottleneck(3, 5, 0, 4, 2, stride=-1).train(training)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(bottleneck(x), bottleneck.conv(x))


def layer_by_layer(bottleneck: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Every convolution and batch norm by itself."""
    first, expand, mix, contract, last = bottleneck.conv
    for convolution, norm in ((None, first.bn), tuple(expand.conv), tuple(mix.conv), (contract, last.bn)):
        if convolution is not None:
            x = functional.conv2d(x, convolution.weight, padding=convolution.padding, groups=convolution.groups)
        x = functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        x = functional.silu(x) if norm in (expand.conv[1], mix.conv[1]) else x
    return x


def bottleneck_of_fixed_statistics() -> nn.Module:
    torch.manual_seed(0)
    bottleneck = _InvertedBottleneck(3, 5, 0, 4, 2, stride=1).eval()
    for module in bottleneck.modules():
        if isinstance(module, BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.2, 3)
    return bottleneck


def test_batch_norms_are_folded_into_convolutions() -> None:
    bottleneck = bottleneck_of_fixed_statistics()
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    expected, found = layer_by_layer(bottleneck, x), bottleneck(x)
    torch.testing.assert_close(found, expected)
    inputs = [x, *bottleneck.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    halved = bottleneck.to(torch.bfloat16)(x.bfloat16())
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), expected, rtol=0.1, atol=0.1)


def test_batch_norms_that_are_watched_or_learn_are_run() -> None:
    bottleneck, seen = bottleneck_of_fixed_statistics(), []
    norms = [module for module in bottleneck.modules() if isinstance(module, BatchNorm)]
    x = torch.randn(2, 4, 8, 8)
    expected = bottleneck(x)
    hooks = [norm.register_forward_pre_hook(lambda *_: seen.append("before")) for norm in norms[:2]]
    hooks += [norm.register_forward_hook(lambda *_: seen.append("after")) for norm in norms[2:]]
    torch.testing.assert_close(bottleneck(x), expected)
    assert seen == ["before", "before", "after", "after"]
    for hook in hooks:
        hook.remove()
    before = [norm.running_mean.clone() for norm in norms]
    norms[1].train()
    bottleneck(x)
    changed = [not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    assert changed == [False, True, False, False]


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
