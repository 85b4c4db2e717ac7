"""The flows are autoregressive, and see all that they may."""

import pytest
import torch

from context_module.adapters.nvae.flows import FlowCell, _channel_mask


@pytest.mark.parametrize("half", ["cell1", "cell2"])
def test_jacobian_is_strictly_triangular(half: str) -> None:
    torch.manual_seed(0)
    channels, size = 3, 5
    cell = getattr(FlowCell(channels), half)
    z = torch.randn(1, channels, size, size)
    jacobian = torch.autograd.functional.jacobian(lambda value: value - cell(value), z)
    pixels = torch.arange(size**2)
    order = pixels if half == "cell1" else pixels.flip(0)
    rank = (order[None] * channels + torch.arange(channels)[:, None]).flatten()  # of each (channel, pixel)
    seen = jacobian.reshape(len(rank), len(rank))[rank.argsort()][:, rank.argsort()] != 0
    assert not seen.triu().any()
    # in the middle, the elements right before: all channels of the neighbour, earlier channels of the own pixel
    middle = (size**2 // 2) * channels
    for channel in range(channels):
        assert seen[middle + channel, middle - channels : middle + channel].all()


def test_keeps_volumes() -> None:
    torch.manual_seed(0)
    cell = FlowCell(2)
    z = torch.randn(1, 2, 3, 3)
    jacobian = torch.autograd.functional.jacobian(cell, z).reshape(18, 18)
    assert torch.allclose(jacobian.det(), torch.tensor(1.0), atol=1e-5)


def test_channel_masks() -> None:
    widen = _channel_mask(2, 4, see_own=False)
    assert widen.tolist() == [[0, 0], [0, 0], [1, 0], [1, 0]]
    narrow = _channel_mask(4, 2, see_own=True)
    assert narrow.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert _channel_mask(4, 2, see_own=False).tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]
