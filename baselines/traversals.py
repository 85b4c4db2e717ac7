"""What each part of a code does: images along it, the rest as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from context_module.baselines.vae import Baseline

__all__ = ["traversals"]


@torch.no_grad()
def traversals(model: Baseline, image: Tensor, *, span: float = 2.0, columns: int = 8) -> dict[str, Tensor]:
    """Images along every dimension of the code of one image, and with each category: rows for `labelled_grid`.

    Args:
        model: in eval mode.
        image: (C, H, W) in [0, 1].
        span: dimensions go from -span to span, in standard deviations of the prior.
        columns: images of a dimension.

    Returns:
        by name, ``z1``, ``z2``, ... and ``category 1``, ..., images (n, C, H, W).
    """
    centre = model.centre(image[None].to(model.device))
    rows = {}
    for number, part in enumerate(model.parts()):
        width = part.stop - part.start
        name = f"z{number + 1}" if width == 1 else f"category {number + 1 - model.settings.latents}"
        values = torch.linspace(-span, span, columns)[:, None] if width == 1 else torch.eye(width)
        code = centre.repeat(len(values), 1)
        code[:, part] = values.to(code)
        rows[name] = model.decode(code).sigmoid()
    return rows
