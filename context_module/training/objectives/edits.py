"""Training the edits of an `EditModule`: from observational embeddings to those of every context, and no further."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from context_module.contexts import OBSERVATIONAL
from context_module.model import ContextualDecoder
from context_module.nn import EditModule
from context_module.normal import draw_normal
from context_module.training.encodings import EncodedDataset
from context_module.training.objectives.critic import Adversarial
from context_module.training.objectives.directions import Directions
from context_module.training.objectives.embedding import EmbeddingObjective
from context_module.training.objectives.gap import prior_gap
from context_module.training.objectives.matching import Matching, matching_distance
from context_module.training.objectives.terms import LatentStep, Term

__all__ = ["EDIT_TERMS", "EditObjective", "LeastChange"]

_POOL = 16_384  # observational embeddings in memory
_CHUNK = 128  # pictures at a time
_PROJECTIONS = 128


class LeastChange(Term):
    """How much an intervention changes in pictures, as the mean square along the directions of the latent space.

    Of all edits that match a context it asks for the one that moves least, which optimal transport is.
    """

    name = "least_change"
    weight = 3.0
    help: ClassVar[str] = "edits: changing as little of a picture as matching its context allows"

    def forward(self, step: LatentStep) -> Tensor:
        assert step.change is not None
        return step.directions.energy(step.change)


#: The terms of the objective on edits; each has a flag of its weight in recipes/finetune.py.
EDIT_TERMS: tuple[type[Term], ...] = (Matching, Adversarial, LeastChange)


class EditObjective(EmbeddingObjective):
    """Curved edits, started from those in closed form: edited observational embeddings match every context's.

    Encodings are computed once: the base does not run in training. The loss of a batch is the sum of the terms, each
    with its weight, over its interventional part: a distance of edited to encoded embeddings in every context, a
    critic that tells the two apart, and how much was changed. In evaluation it is the distance of the pictures that
    the base makes of both: what is best is chosen by them, the closed form among it, so that training only gains.

    Args:
        model: wrapped with ``form="edits"``.
        encodings: those of the training images.
        terms: of the loss, made for this objective. Default: one of each in `EDIT_TERMS`.
        start: fit the closed form first (`fit_maps`); not for a module that is trained already.

    Raises:
        ValueError, DataError: as `fit_maps`.
    """

    explains = 0.3  # of pictures, by a sketch: measured on an NVAE, with .48 it is far the better choice
    ready = True

    pool: Tensor

    def __init__(
        self,
        model: ContextualDecoder,
        encodings: EncodedDataset,
        terms: Iterable[Term] | None = None,
        *,
        start: bool = True,
    ) -> None:
        from context_module.training.maps import fit_maps

        super().__init__(model, encodings, posterior_share=0.0)
        if start:
            fit_maps(model, encodings, sketch=self.sketch)
        places = encodings.places(OBSERVATIONAL, _POOL)
        rows = [
            self._module.coordinates(encodings.batch(p)["mean"].to(self.center.device)) for p in places.split(4096)
        ]
        self.register_buffer("pool", torch.cat(rows), persistent=False)
        chosen = [term() for term in EDIT_TERMS] if terms is None else terms
        self.terms = nn.ModuleList(term for term in chosen if term.weight and term.prepare(self, encodings))

    @property
    def _module(self) -> EditModule:
        return cast("EditModule", self.model.module)

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """Losses of one batch of an `EncodedDataset`; arguments and result as for `PixelObjective`."""
        return super().forward(batch, progress)

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        return {"mask": batch["mask"], "target": self.target(batch)}

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        rows = parts["mask"].any(1)
        if not rows.any():  # observational images are what edits start from
            nothing = sum(0.0 * parameter.sum() for parameter in self.parameters() if parameter.requires_grad)
            return {"loss": nothing + rows.new_zeros(len(rows), dtype=torch.float32)}
        mask, target = parts["mask"][rows], parts["target"][rows]
        before = self.pool[torch.randint(len(self.pool), (len(target),), device=self.pool.device)]
        changed = self._module.changed(before, mask)
        if not self.training and self.model.base.kind != "texts":
            distance = self._picture_distance(target * self.spread + self.center, changed, mask)
            return {"loss": distance.expand(len(mask))}
        generated = self.standardised(self._module.place(changed).flatten(1).float())
        change = ((changed - before) @ self._module.synthesis).float()
        step = LatentStep(
            self._module, self.directions, self.spread, target, generated, mask, self.training, change=change
        )
        loss, logged = target.new_zeros(len(target)), {}
        for term in cast("Iterable[Term]", self.terms):
            for name, weight, value in term.values(step):
                loss = loss + weight * value
                logged[name] = value.expand_as(loss)
        return {"loss": loss, **logged}

    @torch.no_grad()
    def _picture_distance(self, target: Tensor, changed: Tensor, mask: Tensor) -> Tensor:
        """The squared sliced Wasserstein distance of pictures, context by context: a scalar, in thousandths."""
        generator = torch.Generator().manual_seed(0)
        base, directions = self.model.base, None
        shown: list[list[Tensor]] = [[], []]
        for latents, projected in zip((target, self._module.place(changed)), shown, strict=True):
            for part in latents.reshape(len(mask), *self.model.config.latent_shape).split(_CHUNK):
                decoded = base.decode(part.to(base.dtype), temperature=0.0, generator=generator)
                pictures = base.seen(decoded.mean).flatten(1)
                if directions is None:
                    size = pictures.shape[1]
                    directions = draw_normal(pictures.new_empty(size, _PROJECTIONS), generator) / size**0.5
                projected.append(pictures @ directions)
        even = Directions(torch.eye(_PROJECTIONS, device=mask.device))
        real, generated = (torch.cat(parts) for parts in shown)
        return 1000 / _PROJECTIONS * matching_distance(real, generated, mask, even, torch.ones_like(real[0]))

    def monitor(self, val_data: EncodedDataset) -> dict[str, float]:
        """The prior gap, by the encodings of the validation part."""
        return prior_gap(self.model, val_data, self.directions.to("cpu"))
