"""Directions of a base's latent space to take distances along: as its pictures show them, as far as that is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter
from context_module.normal import draw_normal
from context_module.training.encodings import EncodedDataset

__all__ = ["Directions", "decoder_sketch"]

PICTURES = 2048  # decoded to fit the sketch
WIDTH = 256  # random directions of the pictures that it keeps
_BATCH = 128
_RIDGE = 1e-3  # of the mean diagonal: more latents than pictures have a least-norm fit
_KEPT = 0.999  # of the variance of random directions: few of them are of any account
_HELD_OUT = 4  # every so manieth latent says how much the sketch explains


@dataclass(frozen=True)
class Directions:
    """Random directions of a latent space of D dimensions.

    Attributes:
        matrix: (D, P), whose Gaussian combinations they are; or (D,), the diagonal of such a matrix.
    """

    matrix: Tensor

    def random(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n directions, the columns of (D, n), on the matrix's device (drawn on the generator's)."""
        weights = draw_normal(self.matrix.new_empty(self.matrix.shape[-1], n), generator)
        return self.matrix[:, None] * weights if self.matrix.ndim == 1 else self.matrix @ weights

    def along(self, latents: Tensor) -> Tensor:
        """Coordinates (B, P) of latents (B, D), whose Gaussian combinations are those along random directions."""
        return latents * self.matrix if self.matrix.ndim == 1 else latents @ self.matrix

    def energy(self, latents: Tensor) -> Tensor:
        """The mean square of latents (B, D) along random directions: (B,)."""
        return self.along(latents).square().sum(1)

    def to(self, device: torch.device | str) -> Directions:
        return Directions(self.matrix.to(device))


@torch.no_grad()
def decoder_sketch(
    base: DecoderAdapter, encodings: EncodedDataset, *, others: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, float]:
    """A matrix (D, P) whose random combinations are directions of the latent space, as far as pictures show them.

    A sliced distance between pictures projects them on random directions u. As far as the decoder is linear, that is
    to project decoder inputs on J^T u, with J the decoder's mean Jacobian: the coefficients of a linear regression of
    the pictures' projections on the latents, drawn from the base's posterior as the decoder was trained on (or near
    the embedding, for a deterministic encoder). So distances in the latent space weigh what pictures show, and leave
    out dimensions that the decoder ignores.

    Args:
        base: its decoder runs on about two thousand latents.
        encodings: of the training images.
        others: further decoder inputs (n, *latent_shape) that distances are to tell from these: what pictures of the
            training images never show, they may.
        seed: of the latents and directions.

    Returns:
        the matrix, float32, on the CPU; ``encodings @ (matrix @ torch.randn(P, n))`` has a mean variance of one. The
        latents are those that the module makes, normalised and flattened. And the share of the variance of pictures,
        in [0, 1], that it explains, on every fourth of these latents, which it was not fitted to.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(encodings), generator=generator)[:PICTURES].sort().values
    embeddings, latents, projected, spread = [], [], [], encodings.moments()[1].sqrt()

    def drawn() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in map(encodings.batch, rows.split(_BATCH)):
            mean, deviation = batch["mean"], (0.5 * batch["log_var"]).exp()
            if not deviation.any():  # deterministic: a tenth of the embeddings' own spread
                deviation = 0.1 * spread.view_as(mean[0])
            yield mean, mean + deviation * torch.randn(mean.shape, generator=generator)
        for latent in () if others is None else others.cpu().split(_BATCH):
            yield latent, latent

    sketch = None
    for mean, latent in drawn():
        decoded = base.decode(latent.to(base.device, base.dtype), temperature=0.0, generator=generator)
        pictures = base.seen(decoded.mean).cpu().flatten(1)
        if sketch is None:
            sketch = torch.randn(pictures.shape[1], WIDTH, generator=generator)
        embeddings.append(mean.flatten(1))
        latents.append(latent.flatten(1))
        projected.append(pictures @ sketch)
    x, y = torch.cat(latents), torch.cat(projected)
    x, y = x - x.mean(0), y - y.mean(0)
    held_out = torch.arange(len(x)) % _HELD_OUT == 0
    directions = _ridge(x[~held_out], y[~held_out])
    errors = (y[held_out] - x[held_out] @ directions).square().sum()
    explained = 1 - (errors + 1e-12) / (y[held_out].square().sum() + 1e-12)  # nothing, where nothing is to explain
    # as many columns as there is to see, with the same covariance of their Gaussian combinations
    basis, strength, _ = torch.linalg.svd(directions, full_matrices=False)
    rank = int((strength.square().cumsum(0) < _KEPT * strength.square().sum()).sum()) + 1
    directions = basis[:, :rank] * strength[:rank]
    seen = torch.cat(embeddings) @ directions
    return directions / seen.var(0).sum().sqrt().clamp_min(1e-12), explained.clamp(0, 1).item()


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """The ridge regression (D, P) of y (n, P) on x (n, D)."""
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x  # the smaller of the two
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    return x.T @ torch.linalg.solve(gram, y) if len(x) < x.shape[1] else torch.linalg.solve(gram, x.T @ y)
