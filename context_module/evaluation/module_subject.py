"""Our own systems as subjects: a base with a context module, and a base alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter
from context_module.base import base_output, base_samples
from context_module.contexts import OBSERVATIONAL
from context_module.errors import DataError
from context_module.metrics import Subject
from context_module.model import ContextualDecoder
from context_module.nn import CausalGraph
from context_module.training import wants_encoder

__all__ = ["BaseSubject", "ModuleSubject"]


class BaseSubject(Subject):
    """A base alone: samples of its prior are its answer in every context.

    Its codes are its encodings.

    Args:
        base: the base.
    """

    def __init__(self, base: DecoderAdapter) -> None:
        self.base = self.network = base
        self.kind, self.device = base.kind, base.device
        if base.kind == "images":
            self.image_shape = base.image_shape

    def sample(self, n: int, context: str, generator: torch.Generator) -> Any:
        return base_samples(self.base, n, sample=self.kind != "images", generator=generator)

    def codes(self, images: Tensor) -> Tensor:
        return self.base.encode(images.to(self.base.dtype)).mean.flatten(1)

    def nats(self, images: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        self.base.check_inputs(images)
        encoding = self.base.encode(images.to(self.base.dtype))
        if encoding.log_var is None:
            raise DataError(
                f"the {self.base.name!r} base encodes deterministically, so it has no ELBO: score it with a context "
                "module"
            )
        return base_output(self.base, images, encoding, generator).loss

    def unable(self, method: str) -> str | None:
        interventional = method in ("graph", "counterfactuals", "reverted")
        return "the model knows no interventions" if interventional else super().unable(method)


class ModuleSubject(Subject):
    """A base with a context module, beside samples of that base.

    Its codes are the posterior means of its noise, block by block; of edits the values of its concepts.

    Args:
        model: the wrapped base.
        pooled: it was trained without being told of contexts, so that it generates and explains every image as
            observational.
    """

    def __init__(self, model: ContextualDecoder, *, pooled: bool = False) -> None:
        self.model = self.network = model
        self.pooled, self.concepts = pooled, model.concepts
        base = model.base
        self.decoder = None if model.base_trains or base.kind != "images" else base
        self.embedder = self.decoder if base.embeds and not wants_encoder(base) else None
        self.kind, self.device = base.kind, base.device
        if base.kind == "images":
            self.image_shape = base.image_shape
        edits = model.config.form == "edits"
        self.code_width = model.config.concept_width if edits else model.config.noise_width

    def sample(self, n: int, context: str, generator: torch.Generator) -> Any:
        drawn: dict[str, Any] = {} if self.kind == "images" else {"sample": True}
        return self.model.generate(n, do=OBSERVATIONAL if self.pooled else context, generator=generator, **drawn)

    def baseline(self, n: int, generator: torch.Generator) -> Any:
        return base_samples(self.model.base, n, sample=self.kind != "images", generator=generator)

    def codes(self, images: Tensor) -> Tensor:
        model = self.model
        if model.config.form != "edits":
            return model.posterior(images).mean
        mask = torch.zeros(len(images), len(model.config.concepts), dtype=torch.bool, device=model.slot.device)
        return model.slot.concept_values(model.held.encode(model.base.check_inputs(images)), mask).flatten(1)

    def nats(self, images: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        self.model.base.check_inputs(images)
        return self.model(images, torch.zeros_like(mask) if self.pooled else mask, generator=generator).loss

    def counterfactuals(
        self, images: Tensor, contexts: Sequence[str], generator: torch.Generator
    ) -> dict[str, Tensor]:
        noise = self.model.abduct(images, OBSERVATIONAL)
        return {context: self.model.generate(noise=noise, do=context, generator=generator) for context in contexts}

    def reverted(self, images: Tensor, context: str, generator: torch.Generator) -> Tensor:
        return self.model.generate(noise=self.model.abduct(images, context), generator=generator)

    def graph(self, seed: int = 0) -> CausalGraph:
        return self.model.graph(seed=seed)

    def unable(self, method: str) -> str | None:
        if method in ("graph", "counterfactuals", "reverted") and self.pooled:
            return "the model knows no interventions"
        if method in ("codes", "nats", "counterfactuals", "reverted") and wants_encoder(self.model.base):
            return "its base has no encoder, and none was trained for it (fit_encoder)"
        if method == "graph" and len(self.model.config.concepts) < 2:
            return "it takes two concepts to have an edge"
        if method == "nats" and self.model.config.form == "edits":
            return "edits draw embeddings by example, without a density of images that could be bounded"
        if method == "nats" and len(self.model.packs):
            return "the module does not explain images that take a concept pack"
        return super().unable(method)
