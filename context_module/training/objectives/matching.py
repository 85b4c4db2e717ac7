"""Generated embeddings matched to encoded ones, context by context, direction by direction."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.rows import number_in_group
from context_module.training.objectives.directions import Directions
from context_module.training.objectives.terms import LatentStep, Term

__all__ = ["Matching", "matching_distance"]


class Matching(Term):
    """`matching_distance` between the batch's embeddings and as many generated from N(0, I) noise.

    The ELBO alone leaves a gap between the noise that ``generate`` draws and the noise that images have, and does not
    show it.

    Args:
        weight: as for `Term`.
        projections: number of random directions.
    """

    name = "matching"
    weight = 300.0
    help: ClassVar[str] = "matching generated to encoded embeddings, per context"

    def __init__(self, weight: float | None = None, projections: int = 64) -> None:
        super().__init__(weight)
        self.projections = projections

    def forward(self, step: LatentStep) -> Tensor:
        given = (step.target, step.generated, step.mask, step.directions, step.spread)
        return matching_distance(*given, projections=self.projections)


def matching_distance(
    real: Tensor, generated: Tensor, mask: Tensor, directions: Directions, spread: Tensor, projections: int = 64
) -> Tensor:
    """Squared sliced 2-Wasserstein distance within each context, averaged over the samples: a scalar.

    With the quantile functions Q of projections on n random directions u it is mean_u |Q_real(u) - Q_generated(u)|^2,
    where both samples have the same size.

    Args:
        real, generated: standardised embeddings (B, D).
        mask: their contexts, bool (B, K).
        directions: of the latent space.
        spread: (D,), the unit of the embeddings.
        projections: number of random directions.
    """
    drawn = spread[:, None] * directions.random(projections)
    both = torch.cat([real @ drawn, generated @ drawn], dim=1)
    contexts = F.pad(mask, (0, 1)).unique(dim=0, return_inverse=True)[1]  # without concepts there is one, too
    # one sort of all contexts, each with rows that are the same in both samples to fill it up
    counts = contexts.bincount()
    height = int(counts.max())
    places = contexts * height + number_in_group(contexts)
    filled = both.new_full((len(counts) * height, 2 * projections), torch.finfo(both.dtype).max)
    by_context = filled.index_copy(0, places, both).unflatten(0, (len(counts), height)).transpose(1, 2).contiguous()
    quantiles_real, quantiles_generated = by_context.sort(dim=2).values.split(projections, dim=1)
    return (quantiles_real - quantiles_generated).square().mean(1).sum() / len(real)
