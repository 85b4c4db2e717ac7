"""How far the noise that images have is from the noise that `generate` draws, context by context."""

from __future__ import annotations

import torch
from torch import Tensor

from context_module.adapters import Encoding
from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.model import ContextualDecoder
from context_module.nn import evaluating
from context_module.normal import draw_normal
from context_module.training.encodings import EncodedDataset
from context_module.training.objectives.directions import Directions

__all__ = ["prior_gap"]

SAMPLES = 1000  # per context
PROJECTIONS = 100


@torch.no_grad()
def prior_gap(
    model: ContextualDecoder, encodings: EncodedDataset, directions: Directions, *, seed: int = 0
) -> dict[str, float]:
    """Two-sample distances between the aggregated posterior and the prior, as the decoder sees them.

    The noise that images have, drawn from q(z | x, context), and noise from N(0, I) go through the module alike; the
    distance is the sliced 2-Wasserstein one between the decoder inputs, along `Directions`: a share of their
    standard deviation over all contexts. Where it is large, what `generate` draws is not what images are explained by,
    and counterfactuals start from noise that generation never saw.

    Args:
        model: the wrapped base.
        encodings: of images that were not trained on.
        directions: of the latent space; on the CPU.
        seed: of all draws.

    Returns:
        ``gap/CONTEXT`` for every context of the encodings; ``gap_do/CONCEPT``, the same with the noise of
        observational images under an intervention on the concept, as counterfactuals use it; and ``gap/floor``, of
        two samples of the prior in the observational context.
    """
    generator = torch.Generator().manual_seed(seed)
    mixed = directions.random(PROJECTIONS, generator)
    device, concepts = model.module.device, Concepts(model.config.concepts)

    def seen(noise: Tensor, context: str) -> Tensor:
        mask = concepts.mask(context, len(noise)).to(device)
        return (model.module(noise, mask).flatten(1).float().cpu() @ mixed).sort(0).values

    def prior(n: int, context: str) -> Tensor:
        return seen(model.module.sample_noise(n, generator=generator), context)

    gaps: dict[str, float] = {}
    with evaluating(model):
        for label, context in enumerate(encodings.context_names):
            rows = (encodings.labels == label).nonzero().flatten()[:SAMPLES]
            batch = encodings.batch(rows)
            mask = batch.pop("mask").to(device)
            posterior = model.slot.posterior(Encoding(**{name: part.to(device) for name, part in batch.items()}), mask)
            noise = posterior.mean + posterior.stddev * draw_normal(posterior.mean, generator)
            gaps[f"gap/{context}"] = _distance(seen(noise, context), prior(len(noise), context))
            if context == OBSERVATIONAL:
                for concept in concepts:
                    gaps[f"gap_do/{concept}"] = _distance(seen(noise, concept), prior(len(noise), concept))
                gaps["gap/floor"] = _distance(prior(len(noise), context), prior(len(noise), context))
    return gaps


def _distance(a: Tensor, b: Tensor) -> float:
    """Of sorted projections (n, P) of equally many samples each."""
    return (a - b).square().mean().sqrt().item()
