"""Transfer to perturbations that were never trained on: their own parameters are fitted, all others stand still.

What a model of few shifts has learned of all perturbations ought to do for further ones (Lopez et al. 2023): how well
it explains other rows of them tells how far that is so.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from context_module.baselines.gaussian import log_normal, reparameterised
from context_module.baselines.perturbation import PerturbationVAE
from context_module.data import ContextDataset

__all__ = ["fitted_to", "importance_bound"]

_RATE, _BATCH = 0.05, 512


def fitted_to(
    model: PerturbationVAE, data: ContextDataset, contexts: Sequence[str], *, steps: int = 300, seed: int = 0
) -> PerturbationVAE:
    """A copy whose parameters of these perturbations are fitted anew, by the ELBO of their rows.

    Args:
        model: in eval mode; it stays as it is.
        data: with rows of these contexts.
        contexts: single perturbations.
        steps: of Adam.
        seed: of batches and draws.
    """
    fitted = copy.deepcopy(model).eval().requires_grad_(False)
    places = [fitted.concepts.index(name) for name in contexts]
    fitted.start_anew(places)
    own = fitted.own_parameters()
    if not own:
        return fitted
    held = torch.ones(len(fitted.concepts), dtype=torch.bool)
    held[places] = False
    for parameter, axis in own:
        parameter.requires_grad_()
        shape = [-1 if number == axis else 1 for number in range(parameter.ndim)]
        still = held.view(shape).to(parameter.device)
        parameter.register_hook(lambda gradient, still=still: gradient.masked_fill(still, 0.0))
    optimizer = torch.optim.Adam([parameter for parameter, _ in own], lr=_RATE)
    rows = data.only(contexts)
    order = [data.concepts.index(name) for name in fitted.concepts]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(rows), (min(_BATCH, len(rows)),), generator=generator).tolist()
        items = rows.__getitems__(chosen)
        x, mask = (torch.stack([item[key] for item in items]).to(fitted.device) for key in ("x", "mask"))
        error, kl = fitted.bound_in(x, mask[:, order], generator)
        optimizer.zero_grad()
        (error + kl).mean().backward()
        optimizer.step()
    return fitted.requires_grad_(False)


@torch.no_grad()
def importance_bound(
    model: PerturbationVAE, x: Tensor, mask: Tensor, samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """The importance-weighted bound (B,) in nats of rows under interventions (Burda et al., ICLR 2016).

    It is no less than the ELBO on average, and rises to the log-likelihood with the number of samples.
    """
    x = model.values(x)
    mean, log_var = model.posterior(x, mask)
    prior = model.prior_of(mask)
    weights = []
    for _ in range(samples):
        latent = reparameterised(mean, log_var, generator)
        log_ratio = log_normal(latent, *prior).sum(1) - log_normal(latent, mean, log_var).sum(1)
        weights.append(model.explain(latent, x).log_prob(x) + log_ratio)
    return torch.stack(weights).logsumexp(0) - math.log(samples)
