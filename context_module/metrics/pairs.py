"""Two sets of images or feature vectors, made ready to be compared."""

from __future__ import annotations

import torch
from torch import Tensor

from context_module.errors import DataError, ShapeError
from context_module.metrics.estimate import check_samples

__all__ = ["distances", "flat_pair"]


def flat_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets as float32 vectors (n, D) and (m, D) on the first one's device.

    Args:
        a, b: images (n, C, H, W) or feature vectors (n, D), and as many of the same shape as there are.

    Raises:
        ShapeError: for items of different shapes.
        DataError: for too few items for an interval, or values that are NaN or infinite.
    """
    if a.ndim < 2 or a.shape[1:] != b.shape[1:]:
        raise ShapeError(
            "two sets of images (n, C, H, W) or of vectors (n, D) of one shape are needed, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    check_samples(len(a), len(b))
    flat = [items.detach().to(a.device, torch.float32).flatten(1) for items in (a, b)]
    for name, items in zip(("first", "second"), flat, strict=True):
        if bad := (~items.isfinite().all(1)).sum().item():
            raise DataError(f"{bad} of the {len(items)} items of the {name} set hold NaN or infinite values")
    return flat[0], flat[1]


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (n, m) of vectors (n, D) and (m, D)."""
    # the fast formula |a|^2 + |b|^2 - 2ab loses digits where vectors are long beside their distances
    centre = a.mean(0)
    return torch.cdist(a - centre, b - centre)
