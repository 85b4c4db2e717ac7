"""A critic that tells generated embeddings from encoded ones, context by context, for the module to learn from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from context_module.training.encodings import EncodedDataset
from context_module.training.objectives.terms import LatentStep, Term

if TYPE_CHECKING:
    from context_module.training.objectives.embedding import EmbeddingObjective

__all__ = ["Adversarial", "Critic", "CriticLosses"]

_WIDTH = 256
_SCALED = 4096  # embeddings that what the critic sees is scaled by
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


class Adversarial(Term):
    """How well the module deceives a `Critic` that trains with it, and the critic's own loss; in training only.

    The critic sees coordinates along the directions of the latent space, in all of unit variance.

    Attributes:
        critic: made by `prepare`.
        scale: factor on the coordinates.
    """

    name = "adversarial"
    weight = 30.0
    help: ClassVar[str] = "a critic that tells generated from encoded embeddings"

    critic: Critic
    scale: Tensor

    def prepare(self, objective: EmbeddingObjective, encodings: EncodedDataset) -> bool:
        some = encodings.batch(torch.arange(0, len(encodings), 1 + len(encodings) // _SCALED))
        target = objective.target({name: value.to(objective.center.device) for name, value in some.items()})
        seen = objective.directions.along(target * objective.spread)
        self.critic = Critic(seen.shape[1], len(objective.model.config.concepts)).to(seen.device)
        self.register_buffer("scale", 1 / seen.var(0).mean().sqrt().clamp_min(1e-12), persistent=False)
        return True

    def values(self, step: LatentStep) -> Iterator[tuple[str, float, Tensor]]:
        if step.training:
            real, generated = (self.scale * step.along(latents) for latents in (step.target, step.generated))
            losses = self.critic.losses(real, generated, step.mask)
            yield self.name, self.weight, losses.adversarial
            yield "critic", 1.0, losses.critic
