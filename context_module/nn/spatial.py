"""Linear maps between a coarse grid and large spatial latents, in factors: they take the place of dense layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["GridToMaps", "MapsToGrid"]

RANK = 16  # channels of the grid
CELLS = 8  # at most, along the grid's height and width


class _Factors(nn.Module):
    """The factors of a linear map between a grid (r, h, w) and maps (C, H, W): entry by entry, the product

    ``mix[C, r] * rows[r, H, h] * columns[r, w, W]``.

    So every channel of the grid has bases of its own for rows and columns, which start as linear interpolation: cells
    see their surroundings, until training says otherwise. That is r (C + h H + w W) parameters where a dense map has
    r h w C H W, and C H W (r h) multiplications, and fewer, where that has C H W (r h w).

    Args:
        shape: (C, H, W) of the maps.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = shape
        self.maps, self.grid = tuple(shape), (RANK, min(height, CELLS), min(width, CELLS))
        # 1.5 makes up for the variance that interpolation between independent cells takes
        self.mix = nn.Parameter(torch.randn(channels, RANK) * 1.5 / math.sqrt(RANK))
        self.rows = nn.Parameter(_interpolation(height, self.grid[1]))
        self.columns = nn.Parameter(_interpolation(width, self.grid[2]).transpose(1, 2).contiguous())

    @property
    def grid_size(self) -> int:
        """r h w, the number of values in a grid."""
        return math.prod(self.grid)

    def _tall(self) -> Tensor:
        """Mix and rows in one matrix (C H, r h)."""
        return torch.einsum("cr,ryh->cyrh", self.mix, self.rows).flatten(2).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"grid={'x'.join(map(str, self.grid))}, maps={'x'.join(map(str, self.maps))}"


class GridToMaps(_Factors):
    """Grids (B, r h w) to maps (B, C, H, W): the linear map of `_Factors` and a bias for every entry, standardised.

    Mean and spread (C, H, W) are fixed: what is learned is in units of the spread, so that one learning rate fits
    entries that hardly vary and those that do.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.bias = nn.Parameter(torch.zeros(self.maps))
        self.register_buffer("mean", torch.zeros(self.maps))
        self.register_buffer("spread", torch.ones(self.maps))

    def forward(self, grid: Tensor) -> Tensor:
        wide = (grid.unflatten(1, self.grid) @ self.columns).flatten(1, 2)  # (B, r h, W)
        return ((self._tall() @ wide).unflatten(1, self.maps[:2]) + self.bias) * self.spread + self.mean


class MapsToGrid(_Factors):
    """Maps (B, C H W), flattened, to grids (B, r h w): the transpose of the linear map of `_Factors`."""

    def forward(self, maps: Tensor) -> Tensor:
        tall = self._tall().t() @ maps.unflatten(1, (-1, self.maps[2]))  # (B, r h, W)
        return (tall.unflatten(1, self.grid[:2]) @ self.columns.transpose(1, 2)).flatten(1)


def _interpolation(size: int, cells: int) -> Tensor:
    """(r, size, cells): linear interpolation between the cells, with a tenth of noise that tells channels apart."""
    weights = F.interpolate(torch.eye(cells)[None], size=size, mode="linear")[0].t()
    return weights + 0.1 * weights.std() * torch.randn(RANK, size, cells)
