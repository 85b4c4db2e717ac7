"""Does it compose? Generated against real images for compositions that were never trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from context_module.data.base import ContextDataset
from context_module.errors import DataError
from context_module.metrics.sliced_wasserstein import sliced_wasserstein
from context_module.wrap import ContextualDecoder, evaluating

__all__ = ["CompositionScore", "composition_scores", "composition_table"]


@dataclass
class CompositionScore:
    """Sliced Wasserstein distances to the real images of one context.

    Attributes:
        context: its name.
        base: samples of the base alone, which knows no contexts.
        model: samples generated under the context's interventions.
        floor: other real images of the same context.
    """

    context: str
    base: float
    model: float
    floor: float

    @property
    def improvement(self) -> float:
        """1 - model / base: the share of the base's distance that is gone."""
        return 1 - self.model / self.base


@torch.no_grad()
def composition_scores(
    model: ContextualDecoder, data: ContextDataset, *, samples: int = 1000, seed: int = 0, batch_size: int = 250
) -> list[CompositionScore]:
    """Score every context of `data`.

    Args:
        model: the wrapped base.
        data: real images of held-out compositions, at least 2 * `samples` a context (the second half is the floor).
        samples: images compared, real and generated alike.
        seed: of the samples and of the metric's directions.
        batch_size: images generated at a time.

    Raises:
        DataError: for too few real images.
    """
    generator = torch.Generator().manual_seed(seed)

    def base_images(n: int) -> Tensor:
        return model.base.decode(model.base.sample_latent(n, generator), generator=generator).mean.cpu()

    def model_images(n: int, context: str) -> Tensor:
        return model.generate(n, do=context, generator=generator).cpu()

    sizes = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]
    with evaluating(model):
        base = torch.cat([base_images(n) for n in sizes])
        scores = []
        for context in data.context_names:
            real = data.select(context)
            if len(real) < 2 * samples:
                raise DataError(f"context {context!r} has {len(real)} images, scoring {samples} needs {2 * samples}")
            real, other = real[:samples], real[samples : 2 * samples]
            ours = torch.cat([model_images(n, context) for n in sizes])
            distances = (sliced_wasserstein(images, real, seed=seed) for images in (base, ours, other))
            scores.append(CompositionScore(context, *distances))
    return scores


def composition_table(scores: list[CompositionScore]) -> str:
    """The scores as a Markdown table with their mean in the last row."""
    mean = CompositionScore(
        "mean", *(sum(getattr(score, name) for score in scores) / len(scores) for name in ("base", "model", "floor"))
    )
    lines = ["| context | base | with context module | real against real | closer by |", "|---|---|---|---|---|"]
    for score in [*scores, mean]:
        lines.append(
            f"| {score.context} | {score.base:.3f} | {score.model:.3f} | {score.floor:.3f} | {score.improvement:.0%} |"
        )
    return "\n".join(lines)
