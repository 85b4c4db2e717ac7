"""What objectives on encodings share."""

from __future__ import annotations

import torch
from torch import Tensor

from context_module.model import ContextualDecoder
from context_module.objective import BatchObjective
from context_module.training.encodings import EncodedDataset
from context_module.training.objectives.directions import Directions, decoder_sketch

__all__ = ["EmbeddingObjective"]


class EmbeddingObjective(BatchObjective):
    """What objectives on encodings share: targets, standardised by the encodings, and the distance to generated ones.

    Distances are taken along directions that pictures show, where a linear sketch of the decoder explains most of
    them; otherwise along the latents' own dimensions, weighted by their signal.

    Args:
        model: a wrapped base with ``latent_noise=True``.
        encodings: those of the training images.
        posterior_share: the embedding modelled is the posterior's mean plus this share of its noise. With none,
            details that the decoder never sees would be modelled; with all, the noise would drown the image.
        others: decoder inputs to tell from the encodings, if those the module starts from differ in ways of their own.

    Raises:
        ValueError: for a model without latent noise.

    Attributes:
        sketch: what `decoder_sketch` says of the base.
        explains: a sketch is used if it explains more than this share of the variance of pictures; measured: with .83
            it is the better choice, with .18 the worse.
    """

    explains: float = 0.5
    per_context = 8  # distances of fewer say little, and are least where nothing varies

    center: Tensor
    spread: Tensor
    sketch: tuple[Tensor, float]

    def __init__(
        self,
        model: ContextualDecoder,
        encodings: EncodedDataset,
        posterior_share: float,
        others: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not model.config.latent_noise:
            raise ValueError("the latent objective models the decoder input: wrap the base with latent_noise=True")
        self.model, self.posterior_share = model, posterior_share
        center, signal, noise = encodings.moments()
        # dimensions the base does not use keep their tiny signal beside their noise, instead of being blown up
        spread = (signal + posterior_share**2 * noise).sqrt().clamp_min(1e-4)
        device = model.module.device
        self.register_buffer("center", center.to(device), persistent=False)
        self.register_buffer("spread", spread.to(device), persistent=False)
        self.dimensions = (signal / spread.square()).sum().item()  # of the embedding that carry signal
        sketch, explained = self.sketch = decoder_sketch(model.base, encodings, others=others)
        weights = signal.sqrt() / spread
        own = weights / spread / weights.norm()
        self.directions = Directions(sketch if explained > self.explains else own).to(device)

    def target(self, batch: dict[str, Tensor]) -> Tensor:
        """The embeddings to model, standardised (B, D)."""
        noise_std = (0.5 * batch["log_var"].flatten(1)).exp() * self.posterior_share
        return self.standardised(batch["mean"].flatten(1) + noise_std * torch.randn_like(noise_std))

    def standardised(self, latent: Tensor) -> Tensor:
        """Decoder inputs (B, D) in the units of the encodings."""
        return (latent - self.center) / self.spread
