"""Whether interventions move concepts to values that they take without interventions, too."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from context_module.nn import ContextModule
from context_module.training.objectives.terms import LatentStep, Term

__all__ = ["Overlap", "overlap"]

_RIDGE = 1e-4  # of the mean variance of observational values: what is constant stays in bounds


class Overlap(Term):
    """How far interventional values of the concepts are from those they take without: see `overlap`.

    It keeps effects of concepts where interventions on these effects can cut them.
    """

    of_interventions = True
    name = "overlap"
    weight = 0.2
    help: ClassVar[str] = "keeping concepts' values under interventions near those they take without"

    def forward(self, step: LatentStep) -> Tensor:
        return overlap(step.context_module)


def overlap(module: ContextModule, samples: int = 128) -> Tensor:
    """How far concepts' interventional values lie from their observational ones, as Gaussians: zero if they agree.

    A module is free to give an intervention values of its own, far from all others, that say no more than "this
    concept was intervened on". They may write what is an effect of the concept straight into the picture, where an
    intervention on that effect cannot cut it, and compositions fail. Near the values that a concept takes anyway, its
    effects must be those that all contexts show. Overlap, or positivity, is what causal inference calls the assumption
    that interventional values occur observationally.

    Args:
        module: of at least one concept; else it is zero.
        samples: draws of noise for either side, more than a concept has values.

    Returns:
        a scalar, float32: the sum over the concepts of log(1 + d), where d is the KL divergence of interventional
        values (under an intervention on that concept) from observational ones, each described by mean and covariance,
        in nats. It does not depend on the coordinates of concept values. The logarithm lets go of concepts whose
        ranges the data keep apart: d grows with the square of the distance, and would pull at what is right.
    """
    config = module.config
    concepts = len(config.concepts)
    noise = module.sample_noise(2 * samples)
    if not concepts:
        return noise.new_zeros((), dtype=torch.float32)
    nothing = torch.zeros(samples, concepts, dtype=torch.bool, device=noise.device)
    observed = module.concepts(noise[:samples], nothing)[:, :concepts]
    bias = module.intervention.bias.unflatten(0, (-1, config.concept_width))[:concepts]
    forced = module.exogenous(noise[samples:], ~nothing)[:, :concepts] + bias  # an intervention cuts all causes
    with torch.autocast(noise.device.type, enabled=False):  # factorisations are not for half precision
        observed, forced = observed.float(), forced.float()
        ridge = _RIDGE * observed.detach().var(0).mean(1).clamp_min(1e-6)
        return kl_divergence(_gaussian(forced, ridge), _gaussian(observed, ridge)).log1p().sum()


def _gaussian(values: Tensor, ridge: Tensor) -> MultivariateNormal:
    """With the moments of values (n, K, w): a batch of K."""
    mean = values.mean(0)
    centered = (values - mean).transpose(0, 1)
    covariance = centered.mT @ centered / (len(values) - 1)
    covariance = covariance + torch.diag_embed(ridge[:, None].expand_as(mean))
    return MultivariateNormal(mean, covariance, validate_args=False)
