"""A baseline as a subject: what metrics ask for, of a system that was never told what contexts are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.baselines.gaussian import bernoulli_error
from context_module.baselines.labelled import LabelledBaseline
from context_module.baselines.vae import Baseline
from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.data import ContextDataset
from context_module.metrics import Subject

__all__ = ["BaselineSubject"]

_ENCODED = 2000  # images of a context that stand for all
_BATCH = 250


class BaselineSubject(Subject):
    """A baseline, to be scored.

    Its codes are posterior means, then the numbers of the likeliest categories. Without contexts its samples are of
    the prior. With images in contexts they are of the context's aggregate posterior: an image is drawn, its code is
    drawn from q(z|x), and decoded. In a composition, which it has no images of, every part of the code (a dimension,
    or a discrete code) comes from that one of the composed contexts in which it differs most from the observational
    one: codes that are disentangled compose so. Methods that learn from labels can do more: without contexts, and of
    given images, an intervention sets the factor to values drawn from the range that its labels have.

    Args:
        model: the baseline.
        images: that it was trained on; where they are of several contexts, those are what it is asked for.
    """

    def __init__(self, model: Baseline, images: ContextDataset | None = None) -> None:
        self.model = self.network = model
        self.image_shape, self.device = model.image_shape, model.device
        self.images = images if images is not None and len(images.context_names) > 1 else None
        self.concepts = None if self.images is None else self.images.concepts
        latents = model.settings.latents
        self.categorical = tuple(range(latents, latents + len(model.categories)))
        if isinstance(model, LabelledBaseline):
            self.labelled = model.labelled
            self.concepts = self.concepts or Concepts(model.scale.names)
        self._moved: dict[str, Tensor] = {}

    def sample(self, n: int, context: str, generator: torch.Generator) -> Tensor:
        if self.images is None:
            code = self.model.prior(n, generator)
            return self._images(code) if self.concepts is None else self._done(code, context, generator)
        names = [context] if context in self.images.context_names else list(self.images.concepts.parse(context))
        drawn = torch.stack([self._codes_in(name, n, generator) for name in names])
        if len(names) == 1:
            return self._images(drawn[0])
        # of every part, the context in which it moved most
        chosen = torch.stack([self._moves(name) for name in names]).argmax(0)
        code = torch.empty_like(drawn[0])
        for number, columns in zip(chosen.tolist(), self.model.parts(), strict=True):
            code[:, columns] = drawn[number][:, columns]
        return self._images(code)

    def baseline(self, n: int, generator: torch.Generator) -> Tensor:
        return self._images(self.model.prior(n, generator))

    def codes(self, images: Tensor) -> Tensor:
        centre, parts = self.model.centre(images), self.model.parts()
        latents = self.model.settings.latents
        numbers = [centre[:, columns].argmax(1, keepdim=True).to(centre) for columns in parts[latents:]]
        return torch.cat([centre[:, :latents], *numbers], dim=1)

    def nats(self, images: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        code, kl = self.model.draw(images, generator)
        return bernoulli_error(self.model.decode(code), images) + kl

    def counterfactuals(
        self, images: Tensor, contexts: Sequence[str], generator: torch.Generator
    ) -> dict[str, Tensor]:
        code = self.model.centre(images)
        return {context: self._done(code, context, generator) for context in contexts}

    def unable(self, method: str) -> str | None:
        if method == "counterfactuals" and not isinstance(self.model, LabelledBaseline):
            return "the method knows no interventions on given images"
        if method == "nats" and not self.model.comparable:
            return "the method has no likelihood"
        return super().unable(method)

    def _done(self, code: Tensor, context: str, generator: torch.Generator) -> Tensor:
        """Images of codes with the context's concepts set to values that their labels have."""
        assert isinstance(self.model, LabelledBaseline)
        assert self.concepts is not None
        names = list(self.concepts.parse(context))
        values = self.model.draw_values(names, len(code), generator)
        return self.model.do(code, values) if names else self._images(code)

    def _images(self, code: Tensor) -> Tensor:
        return torch.cat([self.model.decode(part).sigmoid() for part in code.split(_BATCH)])

    def _codes_in(self, context: str, n: int, generator: torch.Generator) -> Tensor:
        """n codes of the aggregate posterior of a context."""
        assert self.images is not None
        places = self.images.places(context, _ENCODED)
        chosen = places[torch.randint(len(places), (n,), generator=generator)]
        parts = [self._read(rows) for rows in chosen.split(_BATCH)]
        return torch.cat([self.model.draw(x, generator)[0] for x in parts])

    def _read(self, rows: Tensor) -> Tensor:
        assert self.images is not None
        return self.images.batch(rows)["x"].to(self.device)

    def _moves(self, context: str) -> Tensor:
        """How far every part of the code is from where it is in the observational context, in nats.

        Of dimensions the KL between Gaussians of the same moments, of discrete codes that between their frequencies.
        """
        assert self.images is not None
        names = self.images.context_names
        reference = OBSERVATIONAL if OBSERVATIONAL in names else names[0]
        for name in {reference, context} - set(self._moved):
            rows = self.images.places(name, _ENCODED)
            self._moved[name] = torch.cat([self.model.centre(self._read(part)) for part in rows.split(_BATCH)])
        here, there = self._moved[context], self._moved[reference]
        return torch.stack([_divergence(here[:, columns], there[:, columns]) for columns in self.model.parts()])


def _divergence(codes: Tensor, others: Tensor) -> Tensor:
    if codes.shape[1] > 1:
        share, other = (F.normalize(each.mean(0) + 1e-6, p=1, dim=0) for each in (codes, others))
        return (share * (share / other).log()).sum()
    variance, other_variance = (each.var() + 1e-6 for each in (codes, others))
    ratio = variance / other_variance
    return 0.5 * (ratio - 1 - ratio.log() + (codes.mean() - others.mean()).square() / other_variance)
