"""Axes along which interventions are sparse: what many concepts have in common, found in closed-form edits.

Where every concept shifts few of the same latents, their shifts say which latents these are, up to order, sign and
scale: in the right axes most of them are zero (Lachapelle et al., CLeaR 2022; Lopez et al., CLeaR 2023, who learn the
axes with a model). Here a base and its edits stay as they are, and axes are a rotation of its embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from context_module.errors import DataError
from context_module.model import ContextualDecoder
from context_module.nn import EditModule

__all__ = ["ShiftAxes", "rotated_sparse", "shift_axes"]

_STARTS, _STEPS, _RATE = 8, 1500, 0.02
_CORNER = 0.1  # standard deviations: below it |s| is rounded off, so that it has a slope


@dataclass(frozen=True, kw_only=True)
class ShiftAxes:
    """d axes of a model's embeddings, in which observational embeddings have unit variance and no correlation.

    Attributes:
        shifts: (K, d), how far each concept moves observational embeddings along each axis on average, in standard
            deviations.
        directions: (r, d), from the module's whitened coordinates to the axes.
        model: whose axes these are.
    """

    shifts: Tensor
    directions: Tensor
    model: ContextualDecoder

    @torch.no_grad()
    def codes(self, images: Tensor) -> Tensor:
        """Where the embeddings of images (B, C, H, W), or of rows (B, G), are along the axes: float32 (B, d)."""
        model, module = self.model, self.model.module
        assert isinstance(module, EditModule)
        latents = model.held.encode(model.base.check_inputs(images)).mean
        return module.whitened(module.coordinates(latents)) @ self.directions


@torch.no_grad()
def shift_axes(model: ContextualDecoder, *, seed: int = 0) -> ShiftAxes:
    """Axes along which the edits of a model are as sparse as a rotation can make them.

    There are as many as embeddings have coordinates, or as many as there are concepts, if these are fewer.

    Args:
        model: with fitted edits (`fit_maps`).
        seed: of where the search starts.

    Raises:
        ValueError: for a model of another form.
        DataError: where no concept changes anything.
    """
    module = model.module
    if not isinstance(module, EditModule):
        reason = f"axes are those of edits, form='edits'; this model has form={model.config.form!r}"
        raise ValueError(reason)  # noqa: TRY004 -- a setting, not a type
    memory = module.memory
    moved = torch.stack([module.edits(memory, k).mean(0) for k in range(len(module.config.concepts))])
    shifts = module.whitened(module.mean + moved)
    if not shifts.abs().max() > 1e-6:
        raise DataError("the edits of this model change nothing: fit them first (fit_maps)")
    _, _, spanned = torch.linalg.svd(shifts, full_matrices=False)
    rotation = rotated_sparse(shifts @ spanned.mT, seed=seed)
    directions = spanned.mT @ rotation
    return ShiftAxes(shifts=shifts @ directions, directions=directions, model=model)


@torch.enable_grad()
def rotated_sparse(shifts: Tensor, *, seed: int = 0) -> Tensor:
    """The rotation Q (d, d) with the least sum of |shifts @ Q|, rounded off near zero; of the best of eight starts.

    Rotation to a simple structure by a component loss (Jennrich, Psychometrika 2006), here that of a sparse code.

    Args:
        shifts: (K, d), in standard deviations.
        seed: of the starts.
    """
    size = shifts.shape[1]
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randn(_STARTS, size, size, generator=generator).to(shifts)
    found = torch.linalg.qr(starts).Q.requires_grad_()
    optimizer = torch.optim.Adam([found], lr=_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, _STEPS)
    for _ in range(_STEPS):
        loss = _length(shifts, found)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        best = _length(shifts, found).argmin()
        return torch.linalg.qr(found[best]).Q


def _length(shifts: Tensor, starts: Tensor) -> Tensor:
    return ((shifts @ torch.linalg.qr(starts).Q).square() + _CORNER**2).sqrt().sum((1, 2))
