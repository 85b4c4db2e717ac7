"""The shape of a context module, as a dataclass that goes to JSON and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, get_args

from context_module.contexts import Concepts
from context_module.errors import CheckpointError, ConceptError

__all__ = ["Composition", "ContextModuleConfig", "Edge", "Form", "Inversion", "ancestors_of", "auto_widths"]

Edge = tuple[str, str]  # cause, effect
Form = Literal["structural", "reduced", "edits"]
Composition = Literal["do", "published"]
Inversion = Literal["dense", "factorised"]

LARGE = 4 * 64 * 64  # values in a spatial latent from which on the inversion is factorised, unless told otherwise
MANY = 50  # concepts


@dataclass(frozen=True, kw_only=True)
class ContextModuleConfig:
    """Widths, form and concepts of a context module and of the posterior heads that go with it.

    Attributes:
        concepts: names of the K concepts, in order; none for a module of free blocks alone, to add concept packs to.
        latent_shape: shape of the base's decoder input, without the batch.
        num_features: width of the base's encoder features, read by the posterior heads.
        noise_width: w_z, width of each noise block.
        concept_width: w_c, width of each concept block.
        depth: number of layers from noise to exogenous values; widths go linearly from w_z to w_c.
        free_blocks: F, noise blocks that no context intervenes on; they hold what no concept explains.
        form: the intervention layer: ``structural`` (effects travel along the learned graph, joint interventions
            compose) or ``reduced`` (the paper's: total effects are added); or ``edits``, an `EditModule`, which has no
            such layer: its noise has free blocks alone, and graph is what is known of causes among concepts.
        graph: (cause, effect) pairs of concepts, without cycles: the edges that the intervention layer may learn;
            None: any.
        composition: for the reduced form and joint interventions: ``do`` cuts every edge into an intervened concept,
            ``published`` keeps those that come from intervened concepts, as the paper's code does.
        inversion_width: hidden width of a residual MLP after the concept inversion's linear map; 0: no MLP.
        inversion: the concept inversion and the posterior heads are ``dense``, or ``factorised`` over channels, rows
            and columns of a spatial latent (C, H, W), with parameters that hardly grow with its height and width;
            None: factorised for spatial latents of 4 x 64 x 64 values or more.
        reference: train as the paper's code does: dense observational noise weight, batch norm between the embedding's
            layers, intervention weights clamped to [0, 1], posterior heads of one Linear each on the features alone.
        latent_noise: the decoder input is Gaussian around e = W c + b, with a learned scale per element, as the latent
            objective trains it; otherwise it is e itself.
        posterior_width: hidden width of the posterior heads (unused with `reference`).

    Raises:
        ValueError: for a width, depth, form or composition out of range; names the field and what is accepted.
        ConceptError: for unusable names, neither concepts nor free blocks, or a graph with a cycle or of other
            concepts.
    """

    concepts: tuple[str, ...]
    latent_shape: tuple[int, ...]
    num_features: int
    noise_width: int = 32
    concept_width: int = 8
    depth: int = 2
    free_blocks: int = 0
    form: Form = "structural"
    graph: tuple[Edge, ...] | None = None
    composition: Composition = "do"
    inversion_width: int = 0
    inversion: Inversion | None = None
    reference: bool = False
    latent_noise: bool = False
    posterior_width: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "concepts", tuple(Concepts(self.concepts)))
        object.__setattr__(self, "latent_shape", tuple(self.latent_shape))
        if self.graph is not None:
            object.__setattr__(self, "graph", _checked_graph(self.graph, self.concepts))
        for name, least in {
            "num_features": 1,
            "noise_width": 1,
            "concept_width": 1,
            "depth": 1,
            "free_blocks": 0,
            "inversion_width": 0,
            "posterior_width": 1,
        }.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        if not self.num_blocks:
            raise ConceptError(
                "no concepts given: name at least one concept that can be intervened on, or ask for free_blocks"
            )
        if not self.latent_shape or not all(isinstance(size, int) and size > 0 for size in self.latent_shape):
            raise ValueError(f"latent_shape must hold positive integers, got {self.latent_shape!r}")
        spatial = len(self.latent_shape) == 3
        if self.inversion is None:
            large = spatial and math.prod(self.latent_shape) >= LARGE and not self.reference
            object.__setattr__(self, "inversion", "factorised" if large else "dense")
        choices = {"form": get_args(Form), "composition": get_args(Composition), "inversion": get_args(Inversion)}
        for name, accepted in choices.items():
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")
        if self.depth == 1 and self.noise_width != self.concept_width:
            raise ValueError(
                f"depth 1 has no layer between the noise (width {self.noise_width}) and the concepts "
                f"(width {self.concept_width}): make the widths equal, or use depth 2"
            )
        if self.inversion == "factorised" and not spatial:
            raise ValueError(
                f"inversion='factorised' is for latents of (channels, height, width), got {self.latent_shape}: use "
                "inversion='dense'"
            )
        if self.form == "edits" and not (self.concepts and self.free_blocks and self.inversion_width):
            raise ValueError("form='edits' needs concepts, free_blocks and an inversion_width of at least 1")
        dense = self.inversion == "dense"
        if self.reference and (self.form != "reduced" or self.free_blocks or self.inversion_width or not dense):
            raise ValueError(
                "reference=True is the paper's module: it needs form='reduced', free_blocks=0, inversion_width=0 and "
                "inversion='dense'"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the embedding, from noise to concept: the integer part of `depth` even steps."""
        if self.depth == 1:
            return (self.noise_width,)
        span, last = self.concept_width - self.noise_width, self.depth - 1
        return tuple(self.noise_width + math.floor(span * step / last) for step in range(self.depth))

    @property
    def num_blocks(self) -> int:
        """K + F."""
        return len(self.concepts) + self.free_blocks

    @property
    def noise_size(self) -> int:
        """(K+F) w_z, the width of the noise; of edits F w_z, at most as many as the decoder input has values."""
        if self.form == "edits":
            return min(self.free_blocks * self.noise_width, math.prod(self.latent_shape))
        return self.num_blocks * self.noise_width

    @property
    def feature_maps(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of encoder features that are as high and wide as a spatial latent, else None."""
        if len(self.latent_shape) != 3:
            return None
        _, height, width = self.latent_shape
        channels, rest = divmod(self.num_features, height * width)
        return None if rest else (channels, height, width)

    def to_dict(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ContextModuleConfig:
        """The configuration of a saved module; CheckpointError for unknown, missing or impossible fields."""
        if not isinstance(content, Mapping):
            raise CheckpointError(f"the module's configuration cannot be used: got {content!r}, expected an object")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(content) - known):
            raise CheckpointError(
                f"unknown fields in the module's configuration: {', '.join(unknown)}; it was written by a newer "
                "version of context_module: upgrade with pip install -U context-module"
            )
        try:
            return cls(**{"inversion": "dense", **content})  # the only one there was before the field
        except (TypeError, ValueError, ConceptError) as error:
            raise CheckpointError(f"the module's configuration cannot be used: {error}") from error


def auto_widths(latent_shape: tuple[int, ...], num_concepts: int, form: Form = "structural") -> dict[str, int]:
    """Widths and depth for a base's decoder input and a number of concepts, as fields of `ContextModuleConfig`.

    Two free blocks, and blocks so wide that together they have about as many values as the decoder input, between 8
    and 32 each; then a residual MLP four times as wide as the decoder input, between 64 and 512. Of edits: as many
    coordinates as the decoder input has values, up to 256; two values a concept, maps of width 256, of more than 50
    concepts of width 64.

    Args:
        latent_shape: of the decoder input, without the batch.
        num_concepts: K.
        form: as the configuration has it.

    >>> auto_widths((128,), num_concepts=6)
    {'noise_width': 16, 'concept_width': 16, 'depth': 2, 'free_blocks': 2, 'inversion_width': 512}
    """
    size, free_blocks = math.prod(latent_shape), 2
    if form == "edits":
        rank = min(256, size)
        return {
            "noise_width": rank,
            "concept_width": min(2, rank),
            "depth": 2,
            "free_blocks": 1,
            "inversion_width": 256 if num_concepts <= MANY else 64,
        }
    width = min(32, max(8, 8 * math.ceil(size / (8 * (num_concepts + free_blocks)))))
    return {
        "noise_width": width,
        "concept_width": width,
        "depth": 2,
        "free_blocks": free_blocks,
        "inversion_width": min(512, max(64, 4 * size)),
    }


def ancestors_of(edges: Iterable[Edge], concepts: Sequence[str]) -> dict[str, frozenset[str]]:
    """Of every concept those that it follows from, by one edge or more.

    >>> ancestors_of([("a", "b"), ("b", "c")], ("a", "b", "c"))["c"] == {"a", "b"}
    True
    """
    causes: dict[str, set[str]] = {name: set() for name in concepts}
    for cause, effect in edges:
        causes[effect].add(cause)
    found: dict[str, frozenset[str]] = {}
    for name in TopologicalSorter(causes).static_order():
        found[name] = frozenset(causes[name]).union(*(found[cause] for cause in causes[name]))
    return {name: found[name] for name in concepts}


def _checked_graph(graph: Iterable[Any], concepts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The (cause, effect) pairs as tuples; ConceptError unless they make up an acyclic graph of these concepts."""
    edges: list[tuple[str, str]] = []
    causes: dict[str, list[str]] = {name: [] for name in concepts}
    for edge in graph:
        if isinstance(edge, str) or len(edge) != 2:
            raise ConceptError(f"graph must hold (cause, effect) pairs of concepts, got {edge!r}")
        cause, effect = edge
        if unknown := [name for name in (cause, effect) if name not in concepts]:
            raise ConceptError(
                f"unknown concept {unknown[0]!r} in the graph's edge {cause} -> {effect}: "
                f"the concepts are {', '.join(concepts)}"
            )
        if cause == effect:
            raise ConceptError(f"the graph has an edge from {cause!r} to itself: a concept is no cause of itself")
        edges.append((cause, effect))
        causes[effect].append(cause)
    try:
        TopologicalSorter(causes).prepare()
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        raise ConceptError(f"the graph has a cycle, {cycle}: leave out one of its edges") from None
    return tuple(edges)
