"""What each intervention changes of an observational decoder input: a map for every concept, in coordinates."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.rows import number_in_group

__all__ = ["EditMaps"]


class EditMaps(nn.Module):
    """For each of K concepts a map of coordinates, c -> c + (c L_k + b_k + MLP_k(c)): what is added is its change.

    Args:
        concepts: K.
        size: of the coordinates.
        width: of the two hidden layers.
    """

    def __init__(self, concepts: int, size: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(concepts, size, size))
        self.shift = nn.Parameter(torch.zeros(concepts, size))
        widths = (size, width, width)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(concepts, a, b) / math.sqrt(a)) for a, b in itertools.pairwise(widths)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(concepts, b)) for b in widths[1:])
        self.last = nn.Parameter(torch.zeros(concepts, width, size))  # zero: the closed form as it is

    def forward(self, coordinates: Tensor, concepts: Tensor | int) -> Tensor:
        """The change (B, size) that an intervention makes to coordinates (B, size).

        Args:
            coordinates: float.
            concepts: the number of one concept, or of each row's own, int64 (B,): whatever they mix, it is one batched
                product a layer, over tiles of as many rows of one concept as the average one has.
        """
        if isinstance(concepts, int):
            return self._changes(coordinates[None], torch.tensor([concepts], device=coordinates.device))[0]
        counts = concepts.bincount(minlength=len(self.linear))
        height = -(-len(concepts) // max(int(counts.count_nonzero()), 1))
        tiles = (counts + height - 1) // height
        places = (tiles.cumsum(0) - tiles)[concepts] * height + number_in_group(concepts)
        of_tile = torch.arange(len(tiles), device=tiles.device).repeat_interleave(tiles)
        tiled = coordinates.new_zeros(len(of_tile) * height, coordinates.shape[1]).index_copy(0, places, coordinates)
        return self._changes(tiled.unflatten(0, (len(of_tile), height)), of_tile).flatten(0, 1)[places]

    def _changes(self, tiles: Tensor, concepts: Tensor) -> Tensor:
        """The changes of tiles (T, B, size), each of one concept."""
        every = len(concepts) == len(self.linear) and bool((concepts.diff() == 1).all())

        def of_tiles(weight: Tensor) -> Tensor:
            return weight if every else weight[concepts]

        hidden = tiles
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = F.gelu(torch.baddbmm(of_tiles(bias)[:, None], hidden, of_tiles(weight)))
        changed = torch.baddbmm(of_tiles(self.shift)[:, None], tiles, of_tiles(self.linear))
        return torch.baddbmm(changed, hidden, of_tiles(self.last))
