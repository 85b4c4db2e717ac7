"""What can be scored: whatever can generate under an intervention."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from context_module.adapters import DecoderAdapter
from context_module.contexts import OBSERVATIONAL, Concepts, Kind

__all__ = ["Subject"]


class Subject(ABC):
    """A system that draws samples in a context, as metrics see it: they ask for its methods, never for its class.

    A subclass sets the attributes and writes `sample`. Where the system can do more, it defines what metrics ask for:

    - ``codes(images)``: its representation of images (B, C, H, W) in [0, 1] on `device`, float (B, d); it is not told
      of contexts.
    - ``contextual_codes(vectors, mask)``: the same, told of the interventions, of a system that wants to be.
    - ``transfer(train, test, contexts, seed)``: the ELBO and a tighter bound (n,) of test rows of contexts that are
      not among its attribute ``learned``, their own parameters fitted to training rows.
    - ``targets()``: bool (K, d), which dimensions of its codes each of its concepts shifts.
    - ``nats(images, mask, generator)``: the negative ELBO (B,) of images (B, C, H, W) in [0, 1], likewise on the
      `device`, under the interventions of a bool mask (B, K) over `concepts`.
    - ``counterfactuals(images, contexts, generator)``: by context, what observational images (B, C, H, W) on the
      `device` become in it, each (B, C, H, W); ``obs`` is their reconstruction.
    - ``reverted(images, context, generator)``: what images (B, C, H, W) on the `device`, seen in a context, would have
      been without its interventions, (B, C, H, W).
    - ``graph(seed)``: a `CausalGraph`, what it has learned of how concepts act on each other.

    Attributes:
        concepts: the K concepts it knows; None for one that knows none: its samples are its answer in every context.
        image_shape: (C, H, W), of one that makes images.
        kind: what samples are.
        device: where images are to be put for its methods.
        embedder: of a system in front of a base with embeddings, that `DecoderAdapter`: what costs nothing on it is
            shown beside the system.
        decoder: of a system in front of a base that does not train, that `DecoderAdapter`, with embeddings or without.
        network: is in eval mode while it is scored, where there is one.
        code_width: of codes made of equal blocks, how many numbers a block has; None where every code is one part.
        categorical: columns of codes that hold numbers of categories.
        labelled: how many of the first columns of codes stand for factors whose labels it was told.
    """

    concepts: Concepts | None = None
    image_shape: tuple[int, int, int]
    kind: Kind = "images"
    device: str | torch.device = "cpu"
    network: nn.Module | None = None
    embedder: DecoderAdapter | None = None
    decoder: DecoderAdapter | None = None
    code_width: int | None = None
    categorical: tuple[int, ...] = ()
    labelled: int = 0

    @abstractmethod
    def sample(self, n: int, context: str, generator: torch.Generator) -> Any:
        """n images, float (n, C, H, W) in [0, 1], texts, a list, or vectors (n, G), in the context of that name."""

    def baseline(self, n: int, generator: torch.Generator) -> Any:
        """What its samples are compared with: as `sample`, told of no context. Here: in the observational one."""
        return self.sample(n, OBSERVATIONAL, generator)

    def unable(self, method: str) -> str | None:
        """Why it cannot do what a metric asks for, or None if it can. Here: it must have such a method."""
        if callable(getattr(self, method, None)):
            return None
        return f"{type(self).__name__} has no method {method!r}"
