"""A base of vectors with edits as a subject: what metrics of perturbation screens ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextDataset
from context_module.evaluation.module_subject import ModuleSubject
from context_module.metrics import SHIFTED, TRANSFER_DRAWS
from context_module.model import ContextualDecoder
from context_module.nn import EditModule
from context_module.normal import draw_normal
from context_module.training import ShiftAxes, encode_dataset, map_to, shift_axes

__all__ = ["ScreenSubject"]

_ROWS = 1000


class ScreenSubject(ModuleSubject):
    """A base of vectors, with edits in front of it, beside samples of that base.

    Its codes are along the axes in which its edits are sparse (`shift_axes`). Of a perturbation that it was not
    trained on it explains rows by a map in closed form, fitted to other rows of it: by the Gaussian that this map
    makes of the moments of observational embeddings.

    Args:
        model: the wrapped base.
    """

    def __init__(self, model: ContextualDecoder) -> None:
        super().__init__(model)
        self.code_width = None
        self.learned = (OBSERVATIONAL, *model.concepts)

    @cached_property
    def axes(self) -> ShiftAxes:
        return shift_axes(self.model)

    def codes(self, images: Tensor) -> Tensor:
        return self.axes.codes(images)

    def targets(self) -> Tensor:
        """bool (K, d): along which axes it moves embeddings by a deviation or more."""
        return (self.axes.shifts.abs() > SHIFTED).cpu()

    @torch.no_grad()
    def transfer(
        self, train: ContextDataset, test: ContextDataset, contexts: Sequence[str], seed: int
    ) -> tuple[Tensor, Tensor]:
        """The ELBO and the importance-weighted bound (n,) of test rows of contexts that it was not trained on."""
        module = self.model.module
        assert isinstance(module, EditModule)
        encodings = encode_dataset(self.model.base, train.only(contexts), progress=False)
        generator = torch.Generator().manual_seed(seed)
        bounds = []
        for context in contexts:
            prior = module.edited(*map_to(module, encodings, context))
            for places in test.places(context).split(_ROWS):
                weights = self._weights(test.batch(places)["x"].to(self.device), prior, generator)
                bounds.append(torch.stack([weights.mean(0), weights.logsumexp(0) - math.log(len(weights))]))
        elbo, weighted = torch.cat(bounds, dim=1).cpu()
        return elbo, weighted

    def _weights(self, x: Tensor, prior: MultivariateNormal, generator: torch.Generator) -> Tensor:
        """log p(x, e) - log q(e | x) (n, B) of rows (B, G), for n draws of each embedding e from the base's q."""
        base = self.model.base
        encoding = base.encode(base.check_inputs(x).to(base.dtype))
        assert encoding.log_var is not None
        q = Normal(encoding.mean.float().flatten(1), (0.5 * encoding.log_var.float().flatten(1)).exp())

        def weight() -> Tensor:
            latent = q.mean + q.stddev * draw_normal(q.mean, generator)
            given = latent.view_as(encoding.mean).to(base.dtype)
            explained = base.decode(given, encoding, generator=generator).log_prob(x)
            return explained + prior.log_prob(latent) - q.log_prob(latent).sum(1)

        return torch.stack([weight() for _ in range(TRANSFER_DRAWS)])

    def unable(self, method: str) -> str | None:
        if method == "transfer" and not self.model.config.latent_noise:
            return "without latent noise the module's embeddings have no density"
        return super().unable(method)
