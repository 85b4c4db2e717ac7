"""The losses, as modules that the training loop calls: one forward pass per batch, one value per sample and term."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.model import ContextualDecoder
from context_module.normal import standard_normal_kl
from context_module.training import EncodedDataset
from context_module.training.objectives.critic import Critic
from context_module.training.objectives.edges import acyclicity, relative_norms
from context_module.training.objectives.embedding import EmbeddingObjective
from context_module.training.objectives.interaction import interaction
from context_module.training.objectives.overlap import overlap

__all__ = ["LatentObjective"]

_MOST_BETA, _DIMENSIONS_PER_BETA = 1.5, 50  # measured: about 20 nats of noise on every base
_SCALED = 4096  # embeddings that what the critic sees is scaled by
_SEARCH_SHARE = 0.5  # of the training, in which the graph is looked for


class LatentObjective(EmbeddingObjective):
    """The same ELBO with the base's own embedding in the image's place, and generated matched to encoded embeddings.

    Encodings are computed once (`context_module.training.encodings`): the base does not run in training. Seven terms,
    the last two for the first half of the training alone:

    - the ELBO of the embedding under N(e, scale^2), e the module's output, with beta before the noise's KL;
    - matching: the squared sliced Wasserstein distance, context by context, between the batch's embeddings and as many
      generated from N(0, I) noise. The ELBO alone leaves a gap between the noise that `generate` draws and the noise
      that images have, and does not show it. Each process and accumulation pass matches its own share of a batch;
    - adversarial: how well the module deceives a critic that trains with it to tell the same two apart
      (`context_module.training.objectives.critic`), with the critic's own loss; in training only;
    - interaction: how far the decoder input is from additive in its blocks
      (`context_module.training.objectives.interaction`), which is what carries over to compositions;
    - overlap: how far interventional values of the concepts are from those they take without interventions
      (`context_module.training.objectives.overlap`), which keeps effects of concepts where interventions on these
      effects can cut them;
    - sparsity: the sum of the intervention layer's edges (`relative_norms`);
    - acyclicity: zero if these edges make up an acyclic graph (`acyclicity`). Around a cycle two concepts can carry
      one another's part of the picture, and an intervention on one cuts it.

    The penalties on edges find a graph, and make all edges weaker than they should be. So halfway through the training
    the strong edges become the module's graph (`ContextualDecoder.fix_graph`), and the rest of the training learns
    them without penalties. Where a graph is given there is nothing to find, and no penalty; the paper's reduced form
    has no graph, and keeps them.

    Source of this last: the relaxed lasso (Meinshausen 2007, "Relaxed Lasso").

    Args:
        model: a wrapped base with ``latent_noise=True``.
        encodings: those of the training images.
        start: start the module from the encodings (`ContextModule.fit_latents`); not for one that is trained already.
        beta, warmup_share: as for `PixelObjective`; beta is by default a fiftieth of the number of dimensions of the
            embeddings that carry signal, and at most 1.5.
        matching, adversarial, interaction, overlap, sparsity, acyclicity: weights of these terms; all but the first
            are left out if zero.
        edge_threshold: edges of less than this share of the strongest one's strength, in [0, 1], are dropped halfway;
            see `CausalGraph`. Zero: none are, and the penalties stay to the end.
        posterior_share, projections: as for `EmbeddingObjective`.

    Raises:
        ValueError: for a model without latent noise, or an edge threshold outside [0, 1].
    """

    kept_edges: Tensor

    def __init__(
        self,
        model: ContextualDecoder,
        encodings: EncodedDataset,
        *,
        start: bool = True,
        beta: float | None = None,
        warmup_share: float = 0.3,
        matching: float = 300.0,
        adversarial: float = 30.0,
        interaction: float = 300.0,
        overlap: float = 0.2,
        sparsity: float = 0.3,
        acyclicity: float = 100.0,
        edge_threshold: float = 0.05,
        posterior_share: float = 0.3,
        projections: int = 64,
    ) -> None:
        super().__init__(model, encodings, posterior_share, projections)
        # the likelihood grows with the dimensions that carry signal, the information that generation wants does not
        self.beta = min(_MOST_BETA, self.dimensions / _DIMENSIONS_PER_BETA) if beta is None else beta
        self.warmup_share = warmup_share
        # without interventions to learn from, nothing is known of interventional values
        self.matching = matching
        intervened = set(encodings.context_names) - {OBSERVATIONAL}
        self.interaction, self.overlap = (interaction, overlap) if intervened else (0.0, 0.0)
        self.sparsity, self.acyclicity = sparsity, acyclicity
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
        self.adversarial, self.critic = adversarial, None
        if adversarial:
            some = encodings.batch(torch.arange(0, len(encodings), 1 + len(encodings) // _SCALED))
            target = self._target({name: value.to(self.center.device) for name, value in some.items()})
            seen = self.directions.along(target * self.spread)
            self.critic = Critic(seen.shape[1], len(model.config.concepts)).to(seen.device)
            self.critic_scale = 1 / seen.var(0).mean().sqrt().clamp_min(1e-12)
        if start:
            model.module.fit_latents(self.center, self.spread)

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """Losses of one batch of an `EncodedDataset`; arguments and result as for `PixelObjective`."""
        if self.training and self.model.config.graph is None and any(progress >= share for share in self.stages):
            self._select_edges()
        mask, target = batch["mask"], self._target(batch)
        posterior = self.model.posterior_heads(batch["features"], mask)
        kl_noise = standard_normal_kl(posterior.mean, posterior.variance)
        module = self.model.module
        scale = torch.as_tensor(module.scale).flatten().float() / self.spread
        predicted = self._standardised(module(posterior.rsample(), mask).flatten(1).float())
        neg_log_likelihood = (
            0.5 * ((target - predicted) / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)
        ).sum(1)
        generated = self._standardised(module(torch.randn_like(posterior.mean), mask).flatten(1).float())
        generated = generated + scale * torch.randn_like(generated)
        distance = self._distance(target, generated, mask)
        loss = neg_log_likelihood + self.beta * self.warm(progress) * kl_noise + self.matching * distance
        shaping = self._shaping_terms(max(2, len(mask) // 4))
        loss = loss + sum(getattr(self, name) * value for name, value in shaping.items())
        terms = {
            "neg_log_likelihood": neg_log_likelihood,
            "kl_noise": kl_noise,
            "matching": distance.expand_as(loss),
            **{name: value.expand_as(loss) for name, value in shaping.items()},
        }
        if self.critic is not None and self.training:
            critic, adversarial = self.critic.losses(self._seen(target), self._seen(generated), mask)
            loss = loss + self.adversarial * adversarial + critic
            terms |= {"adversarial": adversarial, "critic": critic}
        return {"loss": loss, **terms}

    def _seen(self, standardised: Tensor) -> Tensor:
        """What the critic sees: coordinates along the directions, in all of unit variance."""
        return self.critic_scale * self.directions.along(standardised * self.spread)

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

    def _shaping_terms(self, samples: int) -> dict[str, Tensor]:
        """The terms of the module alone that have a weight, without it."""
        module, terms = self.model.module, {}
        if self.interaction:
            terms["interaction"] = interaction(module, samples, self.directions)
        if self.overlap:
            terms["overlap"] = overlap(module)
        if (self.sparsity or self.acyclicity) and module.config.graph is None:
            norms = relative_norms(module, samples)
            if self.sparsity:
                terms["sparsity"] = norms.sum()
            if self.acyclicity:
                terms["acyclicity"] = acyclicity(norms)
        return terms
