"""The concept packs that were added to a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.base import same_weights
from context_module.contexts import Concepts
from context_module.errors import CheckpointError, ConceptError
from context_module.nn import ConceptPack
from context_module.normal import derived_generator, draw_normal

__all__ = ["ConceptPacks", "T"]

T = TypeVar("T")


class ConceptPacks(nn.Module):
    """The packs that were added to a model.

    Args:
        own: the concepts of the model's module.
    """

    def __init__(self, own: tuple[str, ...]) -> None:
        super().__init__()
        self.own = own
        self.packs = nn.ModuleList()

    @property
    def concepts(self) -> Concepts:
        """The module's concepts, then those of the packs in the order in which they were added."""
        return Concepts([*self.own, *(pack.config.concept for pack in self)])

    def __iter__(self) -> Iterator[ConceptPack]:
        return cast("Iterator[ConceptPack]", iter(self.packs))

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, concept: str) -> ConceptPack:
        """The pack of that concept; KeyError if it is not a pack's."""
        return {pack.config.concept: pack for pack in self}[concept]

    def add(self, pack: ConceptPack, latent_shape: tuple[int, ...], fingerprints: tuple[str, str], name: str) -> None:
        """Add a pack to a model with decoder inputs of this shape, and of these fingerprints: base, module.

        Raises:
            ConceptError: for a concept that there is already.
            CheckpointError: for a pack that was trained on another base or module; `name` is what to call it.
        """
        config = pack.config
        if config.concept in self.concepts:
            raise ConceptError(
                f"there is a concept {config.concept!r} already; concepts: {', '.join(self.concepts)}. Train {name} "
                "under another name"
            )
        trained_on = (config.base_fingerprint, config.module_fingerprint)
        for what, expected, found in zip(("base", "module"), trained_on, fingerprints, strict=True):
            if not same_weights(expected, found):
                raise CheckpointError(
                    f"{name} was trained on another {what}: one with fingerprint {expected or '(none)'}, this model's "
                    f"has {found}. Add it to the model it was trained on, or train it on this one"
                )
        if config.latent_shape != latent_shape:
            raise CheckpointError(
                f"{name} is made for decoder inputs of shape {config.latent_shape}, this model's have {latent_shape}"
            )
        self.packs.append(pack)

    def warn_unsaved(self) -> None:
        """Say which concepts a saved module will lack."""
        if added := [pack.config.concept for pack in self]:
            warnings.warn(
                f"saved without the concept packs {', '.join(added)}, which are files of their own: add them again "
                "with add_concept after loading",
                stacklevel=3,
            )

    def widen(self, contexts: T) -> T | Tensor:
        """A mask that has columns for the module's own concepts only, with columns for the packs'; all else as is."""
        if not isinstance(contexts, Tensor) or not contexts.ndim or contexts.shape[-1] != len(self.own):
            return contexts
        return F.pad(contexts, (0, len(self.packs)))

    def own_columns(self, mask: Tensor) -> Tensor:
        """The columns (B, K) of the module's own concepts of a mask (B, K+P); ConceptError if others are set."""
        own, added = mask.split([len(self.own), len(self.packs)], dim=1)
        if len(self.packs) and added.any():
            context = self.concepts.name(mask[added.any(dim=1)][0])
            raise ConceptError(
                f"images seen in context {context!r} cannot be explained: it takes a concept pack, and the module "
                f"knows its own contexts alone, {', '.join(Concepts(self.own).training_contexts)}"
            )
        return own

    def sample_noise(self, n: int, temperature: float, generator: torch.Generator | None) -> list[Tensor]:
        """n draws from N(0, temperature^2 I) for every pack, (n, w_z) each; they leave the generator as it is."""
        noises = []
        for pack in self:
            like = pack.spread.new_empty(n, pack.config.noise_width)
            noises.append(draw_normal(like, derived_generator(generator, pack.config.concept)) * temperature)
        return noises

    def forward(self, latent: Tensor, strengths: Tensor, noises: Sequence[Tensor]) -> Tensor:
        """Decoder inputs (B, *latent_shape) as the packs change them, each in its strength (B, P), bool or float.

        All packs read the same decoder input, and their changes add up in the order of their names: the order in which
        they were added does not matter. A sample without packs stays as it is, bit for bit.
        """
        used = [number for number in range(len(self.packs)) if strengths[:, number].any()]
        if not used:
            return latent
        changes = torch.zeros_like(latent)
        wide = (-1, *[1] * (latent.ndim - 1))
        packs = list(self)
        for number in sorted(used, key=lambda number: packs[number].config.concept):
            pack, strength = packs[number], strengths[:, number].to(latent.dtype).view(wide)
            changes = changes + torch.where(strength != 0, strength * pack(latent, noises[number]), 0.0)
        return torch.where(strengths.any(dim=1).view(wide), latent + changes, latent)
