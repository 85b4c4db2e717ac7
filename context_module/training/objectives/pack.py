"""Training a concept pack: one concept alone, on its own context, with base and module fixed."""

from __future__ import annotations

import torch
from torch import Tensor

from context_module.base import fingerprint
from context_module.model import ContextualDecoder
from context_module.nn import ConceptPack, ConceptPackConfig, evaluating
from context_module.normal import draw_normal
from context_module.training.encodings import EncodedDataset
from context_module.training.objectives.directions import PICTURES
from context_module.training.objectives.embedding import EmbeddingObjective
from context_module.training.objectives.matching import matching_distance

__all__ = ["PackObjective", "new_pack"]

_PROBED, _CHUNK = 4096, 256  # decoder inputs that the mean and standard deviation are those of


@torch.no_grad()
def new_pack(model: ContextualDecoder, concept: str, **widths: int) -> ConceptPack:
    """A pack for a model that changes nothing yet.

    Args:
        model: with the module that the concept is to be added to.
        concept: its name.
        widths: ``rank``, ``noise_width`` and ``hidden_width`` of `ConceptPackConfig`.

    Raises:
        ConceptError, ValueError: for a name or a width that cannot be.
    """
    config = ConceptPackConfig(
        concept=concept,
        latent_shape=model.config.latent_shape,
        base_fingerprint=fingerprint(model.base),
        module_fingerprint=fingerprint(model.module),
        **widths,
    )
    pack = ConceptPack(config)
    generator = torch.Generator().manual_seed(0)
    with evaluating(model):
        made = [_decoder_inputs(model, _CHUNK, generator).flatten(1).cpu() for _ in range(_PROBED // _CHUNK)]
    spread, center = torch.std_mean(torch.cat(made).float(), dim=0)
    pack.center.copy_(center)
    pack.spread.copy_(spread.clamp_min(1e-4))
    return pack.to(model.module.device, model.module.dtype)


class PackObjective(EmbeddingObjective):
    """Observational decoder inputs as the pack changes them matched to the encodings of a context, and little changed.

    Two terms:

    - matching: the squared sliced Wasserstein distance between the batch's embeddings and as many decoder inputs that
      the module generates and the pack changes;
    - change: the squared change of the decoder input, in standard deviations of what the module makes. Of all maps to
      the context it asks for the nearest, in the manner of optimal transport: counterfactuals keep the rest.

    Base, module and posterior heads are frozen, and in eval mode.

    Args:
        model: a wrapped base with ``latent_noise=True``, to which the pack was added.
        concept: the pack's.
        encodings: those of the images of the concept's context, and of no others.
        matching, change: weights of these terms.
        posterior_share: as for `EmbeddingObjective`.

    Raises:
        ValueError: for a model without latent noise.
    """

    def __init__(
        self,
        model: ContextualDecoder,
        concept: str,
        encodings: EncodedDataset,
        *,
        matching: float = 300.0,
        change: float = 0.1,
        posterior_share: float = 0.3,
    ) -> None:
        with torch.no_grad(), evaluating(model):
            unchanged = _decoder_inputs(model, min(len(encodings), PICTURES), torch.Generator().manual_seed(0))
        super().__init__(model.requires_grad_(False), encodings, posterior_share, others=unchanged)
        self.concept, self.matching, self.change = concept, matching, change
        model.packs[concept].requires_grad_(True)

    def train(self, mode: bool = True) -> PackObjective:
        super().train(mode)
        self.model.eval()  # nor do its batch norms move
        return self

    def after_step(self) -> None:
        self.model.packs[self.concept].orthonormalise()

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """Losses of one batch of an `EncodedDataset`: ``loss`` and its terms, each (B,)."""
        return super().forward(batch, progress)

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        pack, target = self.model.packs[self.concept], self.target(batch)
        with torch.no_grad():
            latent = _decoder_inputs(self.model, len(target))
        noise = torch.randn(len(latent), pack.config.noise_width, device=latent.device)
        change = pack(latent, noise)
        generated = self.standardised((latent + change).flatten(1).float())
        moved = (change.flatten(1) / pack.spread).square().sum(1)
        return {"mask": batch["mask"], "target": target, "generated": generated, "change": moved}

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        given = (parts["target"], parts["generated"], parts["mask"])
        distance = matching_distance(*given, self.directions, self.spread)
        loss = self.matching * distance + self.change * parts["change"]
        return {"loss": loss, "matching": distance.expand_as(loss), "change": parts["change"]}


def _decoder_inputs(model: ContextualDecoder, n: int, generator: torch.Generator | None = None) -> Tensor:
    """n observational decoder inputs from fresh noise, (n, *latent_shape), normalised."""
    noise = model.module.sample_noise(n, generator=generator)
    mean = model.module(noise, noise.new_zeros(n, len(model.config.concepts), dtype=torch.bool))
    return mean + model.module.scale * draw_normal(mean, generator)
