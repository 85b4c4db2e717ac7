"""The values of a linear structural equation model under interventions: what of each concept follows from its causes.

Row by row c = own + (1 - m) * (c A): with A (n, n) the effects, causes in rows, and m how far each value is cut off
from its causes, 0 being not at all and 1 wholly. Two ways to the same values, where effects die out along the paths of
A, as they do in an acyclic one.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["iterated", "solved"]

_CELLS = 2**24  # numbers of all rows' systems in memory


def iterated(exogenous: Tensor, bias: Tensor, strengths: Tensor, effects: Tensor) -> Tensor:
    """Effects passed on along the graph, step by step, as many times as there are blocks; exact for an acyclic A.

    Args:
        exogenous: (B, n), float; what effects are passed on from at first.
        bias: (n,); own = exogenous + bias.
        strengths: m by blocks of n / N values, (B, N).
        effects: A, (n, n).
    """
    own, blocks = exogenous + bias, strengths.shape[1]
    uncut = 1 - strengths.repeat_interleave(exogenous.shape[1] // blocks, dim=1)
    values = exogenous
    for _ in range(blocks):
        values = torch.addcmul(own, uncut, values @ effects)
    return values


def solved(exogenous: Tensor, bias: Tensor, strengths: Tensor, effects: Tensor) -> Tensor:
    """The equations solved: once for all rows as if nothing were cut off, then corrected for the blocks that are.

    With T = (I - A)^-1, c = (own - y m) T, where y is what the blocks S that are cut off would have got from their
    causes: y (diag(1 - m) + diag(m) T_SS) = (own T - own)_S, a small system for each row. The time does not grow with
    the length of paths: some products of n x n, in place of a product for each block.

    Arguments as for `iterated`. Where effects do not die out, c is their equilibrium, and not finite if there is none.
    """
    own = (exogenous + bias).float()
    with torch.autocast(own.device.type, enabled=False):  # no solver takes half precision
        total = torch.linalg.inv_ex(torch.eye(len(effects), device=own.device) - effects.float()).inverse
        values = own @ total
        most = int(strengths.count_nonzero(dim=1).max()) if len(strengths) else 0
        if most:
            size = most * exogenous.shape[1] // strengths.shape[1]
            parts = (tensor.split(max(1, _CELLS // size**2)) for tensor in (own, values, strengths.float()))
            lost = [_lost(own_, values_, cut, total, most) for own_, values_, cut in zip(*parts, strict=True)]
            values = (own - torch.cat(lost)) @ total
    return values.to(exogenous.dtype)


def _lost(own: Tensor, values: Tensor, strengths: Tensor, total: Tensor, most: int) -> Tensor:
    """y m, (B, n): what each row gets less than it would if nothing were cut off."""
    width = own.shape[1] // strengths.shape[1]
    blocks = strengths.abs().topk(most, dim=1).indices  # where a row has fewer of them, some are cut off by nothing
    cut = strengths.gather(1, blocks)
    places = (blocks[..., None] * width + torch.arange(width, device=own.device)).flatten(1)
    cut = cut.repeat_interleave(width, dim=1)
    system = cut[:, :, None] * total[places[:, :, None], places[:, None, :]] + torch.diag_embed(1 - cut)
    missed = torch.linalg.solve_ex(system, (values - own).gather(1, places)[:, None], left=False).result[:, 0]
    return torch.zeros_like(own).scatter_add(1, places, cut * missed)
