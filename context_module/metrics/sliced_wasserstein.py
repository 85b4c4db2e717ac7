"""Sliced Wasserstein distance between two sets of images: the paper's measure of concept and composition."""

from __future__ import annotations

from torch import Tensor

from context_module.errors import ShapeError

__all__ = ["sliced_wasserstein"]


def sliced_wasserstein(a: Tensor, b: Tensor, *, projections: int = 200, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance of two sets of images, each flattened to a vector of pixels.

    Bonneel et al. 2015, as implemented by POT. Zero for equal sets; for samples of one distribution it has a floor
    that shrinks with their number, so give both sets the same size and read it beside real against real.

    Args:
        a, b: (n, C, H, W) and (m, C, H, W), in [0, 1].
        projections: random directions (the paper: 50).
        seed: of the directions.

    Raises:
        ShapeError: for images of different shapes, or fewer than two of either.
    """
    import ot

    if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise ShapeError(
            f"two sets of at least two images of one shape are needed, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    flat = (images.flatten(1).float().cpu().numpy() for images in (a, b))
    return float(ot.sliced_wasserstein_distance(*flat, n_projections=projections, seed=seed))
