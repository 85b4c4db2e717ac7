"""A critic that tells generated embeddings from encoded ones, context by context, for the module to learn from."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

__all__ = ["Critic", "CriticLosses"]

_WIDTH = 256
_PENALTY = 0.1  # of the squared slope at real embeddings, which have unit variance


class CriticLosses(NamedTuple):
    """One value per sample, float32: what the critic minimises, and what the generated samples minimise."""

    critic: Tensor
    adversarial: Tensor


class Critic(nn.Module):
    """A discriminator of embeddings: the logit that one is real, given its context.

    Sliced distances compare one direction at a time; a critic finds where samples of several directions together lie
    off the data, such as between two shapes, and so makes pictures sharp.

    Sources: the loss is that of Goodfellow et al. 2014 ("Generative Adversarial Nets"), in its non-saturating form;
    the gradient penalty on real samples that of Mescheder et al. 2018 ("Which Training Methods for GANs do actually
    Converge?").

    Args:
        size: of an embedding, of about unit variance in each of its coordinates.
        concepts: number of concepts.
    """

    def __init__(self, size: int, concepts: int) -> None:
        super().__init__()
        widths = (size + concepts, _WIDTH, _WIDTH, _WIDTH)
        layers = ((nn.Linear(a, b), nn.LeakyReLU(0.2)) for a, b in itertools.pairwise(widths))
        self.layers = nn.Sequential(*itertools.chain.from_iterable(layers), nn.Linear(_WIDTH, 1))

    def forward(self, embedding: Tensor, mask: Tensor) -> Tensor:
        """Logits (B,) of embeddings (B, size) in the contexts of a mask (B, K), bool."""
        return self.layers(torch.cat([embedding, mask.to(embedding.dtype)], dim=1))[:, 0]

    def losses(self, real: Tensor, generated: Tensor, mask: Tensor) -> CriticLosses:
        """Both players' losses, of as many real as generated embeddings (B, size) in the same contexts.

        One backward pass of their weighted sum serves both: the critic's has no gradient at the generated embeddings,
        the adversarial one has none at the critic's weights.
        """
        with torch.autocast(real.device.type, enabled=False):  # second derivatives are not for half precision
            real, generated = real.detach().float().requires_grad_(), generated.float()
            judged = self(real, mask)
            (slope,) = torch.autograd.grad(judged.sum(), real, create_graph=True)
            critic = F.softplus(-judged) + F.softplus(self(generated.detach(), mask))
            critic = critic + _PENALTY * slope.square().sum(1)
            fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
            adversarial = F.softplus(-functional_call(self, fixed, (generated, mask)))
        return CriticLosses(critic, adversarial)
