"""Gaussians in closed form: moments that few images support, the map between two that moves least, and readings.

The map from N(m0, S0) to N(m1, S1) that moves least is T(c) = m1 + M (c - m0), with
M = S0^(-1/2) (S0^(1/2) S1 S0^(1/2))^(1/2) S0^(-1/2) (Peyre and Cuturi 2019, "Computational Optimal Transport", remark
2.31).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments", "gaussian_map", "power", "reader"]

_SLIGHT = 0.05  # of the strongest direction's mean square


@dataclass(frozen=True)
class Moments:
    """Number, mean (r,) and covariance (r, r) of coordinates."""

    count: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Of coordinates (n, r), the covariance shrunk to its mean variance as far as few rows ask for.

        Chen et al. 2010, "Shrinkage Algorithms for MMSE Covariance Estimation": the oracle-approximating amount.
        """
        count, size = rows.shape
        mean = rows.mean(0)
        covariance = (rows - mean).mT @ (rows - mean) / max(count - 1, 1)
        trace, squares = covariance.diagonal().sum(), covariance.square().sum()
        top = (1 - 2 / size) * squares + trace.square()
        bottom = (count + 1 - 2 / size) * (squares - trace.square() / size)
        share = (top / bottom.clamp_min(1e-12)).clamp(1e-4, 1.0) if size > 1 else torch.tensor(0.0)
        target = trace / size * torch.eye(size, device=rows.device)
        return cls(count, mean, (1 - share) * covariance + (share + 1e-6) * target)


def gaussian_map(a: Moments, b: Moments, weigh: Tensor) -> tuple[Tensor, Tensor]:
    """L (r, r) and s (r,), with c + c L + s the map from one Gaussian to another that moves c * weigh least."""
    first, second = (m.covariance.double() * weigh.double() * weigh.double()[:, None] for m in (a, b))
    root = power(first, 0.5)
    inverse = power(first, -0.5)
    middle = inverse @ power(root @ second @ root, 0.5) @ inverse
    middle = weigh.double()[:, None] * middle / weigh.double()  # of rows c, in their own units
    linear = (middle - torch.eye(len(weigh), dtype=torch.float64, device=weigh.device)).float()
    return linear, b.mean - a.mean - a.mean @ linear


def reader(energy: Tensor, covariance: Tensor, weigh: Tensor, width: int, loaded: float) -> tuple[Tensor, Tensor]:
    """How to read, from coordinates, how far they are along the main directions of a change, and how to write it.

    The directions are the leading ones of the change's second moment; they are read by generalised least squares, so
    that what varies otherwise along them disturbs as little as it can.

    Args:
        energy: (r, r), the second moment of the change of observational coordinates.
        covariance: (r, r), of coordinates.
        weigh: (r,), how much of each coordinate pictures show.
        width: number of directions, at most; in place of slight ones there are zeros.
        loaded: what is added to the covariance's diagonal, times its mean.

    Returns:
        the reader (r, width) and the writer (width, r).
    """
    values, vectors = torch.linalg.eigh(energy * weigh * weigh[:, None])
    axes = vectors[:, -width:] * (values[-width:] >= _SLIGHT * values[-1])
    covariance = covariance * weigh * weigh[:, None]
    covariance = covariance + loaded * covariance.diagonal().mean() * torch.eye(len(weigh), device=weigh.device)
    solved = torch.linalg.solve(covariance, axes)
    return weigh[:, None] * solved @ torch.linalg.pinv(axes.mT @ solved, hermitian=True), axes.mT / weigh


def power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a symmetric positive matrix (n, n)."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return (vectors * values.clamp_min(1e-12 * values[-1].clamp_min(1e-300)).pow(exponent)) @ vectors.mT
