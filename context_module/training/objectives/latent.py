"""Training on embeddings: their ELBO, and terms that make generated ones like those encoded, and compose."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from context_module.model import ContextualDecoder
from context_module.nn import ContextModule
from context_module.normal import standard_normal_kl
from context_module.training.encodings import EncodedDataset
from context_module.training.objectives.critic import Adversarial
from context_module.training.objectives.edges import Acyclicity, Sparsity
from context_module.training.objectives.embedding import EmbeddingObjective
from context_module.training.objectives.gap import prior_gap
from context_module.training.objectives.interaction import Interaction
from context_module.training.objectives.matching import Matching
from context_module.training.objectives.overlap import Overlap
from context_module.training.objectives.terms import LatentStep, Term

__all__ = ["LATENT_TERMS", "LatentObjective", "latent_terms"]

#: The terms of the latent objective; each has a flag of its weight in recipes/finetune.py.
LATENT_TERMS: tuple[type[Term], ...] = (Matching, Interaction, Overlap, Sparsity, Acyclicity, Adversarial)

_MOST_BETA, _DIMENSIONS_PER_BETA = 1.5, 50  # measured: about 20 nats of noise on every base
_SEARCH_SHARE = 0.5  # of the training, in which the graph is looked for


def latent_terms(**weights: float) -> list[Term]:
    """New terms of all kinds in `LATENT_TERMS`, with weights by name where they are not to have their own.

    Raises:
        TypeError: for a name that no term has.
    """
    known = {term.name: term for term in LATENT_TERMS}
    if unknown := [name for name in weights if name not in known]:
        raise TypeError(f"unknown term {unknown[0]!r} of the latent objective; its terms: {', '.join(known)}")
    return [term(weights.get(name)) for name, term in known.items()]


class LatentObjective(EmbeddingObjective):
    """The same ELBO with the base's own embedding in the image's place, and generated matched to encoded embeddings.

    Encodings are computed once (`context_module.training.encodings`): the base does not run in training. The loss of
    an embedding e with posterior q(z | e, m) is

        -log N(e; module(z, m), scale^2) + beta KL(q || N(0, I)) + sum of the terms, each with its weight,

    and the terms are `LATENT_TERMS`: matching, a critic, additivity, overlap and two penalties on edges. Each says in
    its own file what it asks for.

    The penalties on edges find a graph, and make all edges weaker than they should be. So halfway through the training
    the strong edges become the module's graph (`ContextualDecoder.fix_graph`), and the rest of the training learns
    them without penalties. Where a graph is given there is nothing to find, and no penalty; the paper's reduced form
    has no graph, and keeps them.

    Source of this last: the relaxed lasso (Meinshausen 2007, "Relaxed Lasso").

    Args:
        model: a wrapped base with ``latent_noise=True``.
        encodings: those of the training images.
        terms: of the loss, made for this objective; those of no weight are left out. Default: `latent_terms`.
        start: start the module from the encodings (`ContextModule.fit_latents`); not for one that is trained already.
        beta, warmup_share: as for `PixelObjective`; beta is by default a fiftieth of the number of dimensions of the
            embeddings that carry signal, and at most 1.5.
        edge_threshold: edges of less than this share of the strongest one's strength, in [0, 1], are dropped halfway;
            see `CausalGraph`. Zero: none are, and the penalties stay to the end.
        posterior_share: as for `EmbeddingObjective`.

    Raises:
        ValueError: for a model without latent noise, or an edge threshold outside [0, 1].
    """

    kept_edges: Tensor

    def __init__(
        self,
        model: ContextualDecoder,
        encodings: EncodedDataset,
        terms: Iterable[Term] | None = None,
        *,
        start: bool = True,
        beta: float | None = None,
        warmup_share: float = 0.3,
        edge_threshold: float = 0.05,
        posterior_share: float = 0.3,
    ) -> None:
        super().__init__(model, encodings, posterior_share)
        # the likelihood grows with the dimensions that carry signal, the information that generation wants does not
        self.beta = min(_MOST_BETA, self.dimensions / _DIMENSIONS_PER_BETA) if beta is None else beta
        self.warmup_share = warmup_share
        if not 0 <= edge_threshold <= 1:
            raise ValueError(
                f"edge_threshold is a share of the strongest edge's strength, in [0, 1]: {edge_threshold}"
            )
        self.edge_threshold = edge_threshold
        concepts = len(model.config.concepts)
        searches = edge_threshold > 0 and concepts > 1 and model.config.graph is None
        self.stages = (_SEARCH_SHARE,) if searches and model.config.form == "structural" else ()
        # causes in columns; saved in checkpoints, and a graph again when they are loaded
        self.register_buffer("kept_edges", torch.ones(concepts, concepts, dtype=torch.uint8))
        self.register_load_state_dict_post_hook(lambda loaded, _: loaded._fix_graph())
        chosen = latent_terms() if terms is None else terms
        self.terms = nn.ModuleList(term for term in chosen if term.weight and term.prepare(self, encodings))
        if start:
            cast("ContextModule", model.module).fit_latents(self.center, self.spread)

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """Losses of one batch of an `EncodedDataset`; arguments and result as for `PixelObjective`."""
        return super().forward(batch, progress)

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        if self.training and self.model.config.graph is None and any(progress >= share for share in self.stages):
            self._select_edges()
        mask, target = batch["mask"], self.target(batch)
        assert self.model.posterior_heads is not None
        posterior = self.model.posterior_heads(batch["features"], mask)
        module, scale = self.model.module, self._scale
        predicted = self.standardised(module(posterior.rsample(), mask).flatten(1).float())
        neg_log_likelihood = (
            0.5 * ((target - predicted) / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)
        ).sum(1)
        generated = self.standardised(module(torch.randn_like(posterior.mean), mask).flatten(1).float())
        return {
            "mask": mask,
            "target": target,
            "generated": generated + scale * torch.randn_like(generated),
            "neg_log_likelihood": neg_log_likelihood,
            "kl_noise": standard_normal_kl(posterior.mean, posterior.variance),
        }

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        mask, target, generated = parts["mask"], parts["target"], parts["generated"]
        logged = {name: parts[name] for name in ("neg_log_likelihood", "kl_noise")}
        step = LatentStep(self.model.module, self.directions, self.spread, target, generated, mask, self.training)
        loss = logged["neg_log_likelihood"] + self.beta * self.warm(progress) * logged["kl_noise"]
        for term in cast("Iterable[Term]", self.terms):
            for name, weight, value in term.values(step):
                loss = loss + weight * value
                logged[name] = value.expand_as(loss)
        return {"loss": loss, **logged}

    @property
    def _scale(self) -> Tensor:
        """The standard deviation of decoder inputs around the module's, standardised."""
        return torch.as_tensor(self.model.module.scale).flatten().float() / self.spread

    def after_step(self) -> None:
        if self.model.config.reference:
            cast("ContextModule", self.model.module).intervention.clamp_effects()

    def monitor(self, val_data: EncodedDataset) -> dict[str, float]:
        """The prior gap, by the encodings of the validation part."""
        return prior_gap(self.model, val_data, self.directions.to("cpu"))

    def _select_edges(self) -> None:
        """Make the strong edges the module's graph."""
        names = self.model.config.concepts
        self.kept_edges.zero_()
        for cause, effect in self.model.graph().acyclic_edges(self.edge_threshold):
            self.kept_edges[names.index(effect), names.index(cause)] = 1
        self._fix_graph()

    def _fix_graph(self) -> None:
        """Make the edges that were kept the module's graph, if any was not."""
        if not self.kept_edges.all():
            names = self.model.config.concepts
            self.model.fix_graph([(names[j], names[i]) for i, j in self.kept_edges.nonzero().tolist()])
