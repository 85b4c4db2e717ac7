"""What labellers that took no part in a training find in its pictures: one set of people, every intervention.

The same observational pictures are changed by a context module and by what costs nothing, so that what should stay
can be compared, too: with the picture it was before, and with those of all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextData, Labeller
from context_module.errors import ConceptError, DataError
from context_module.evaluation.costless import Costless
from context_module.evaluation.tables import COSTLESS
from context_module.metrics import MIN_SAMPLES, Estimate, mean_estimate, share_estimate
from context_module.model import ContextualDecoder
from context_module.nn import evaluating

__all__ = ["LabelScores", "labels_table", "score_by_labellers"]

MODULE, REAL = "context module", "real images"
_SIDE = 16  # pixels, to which pictures are averaged to compare what they are of
_BATCH = 100

#: By context, by way of making its pictures, by figure.
LabelScores = dict[str, dict[str, dict[str, Estimate]]]


@torch.no_grad()
def score_by_labellers(
    model: ContextualDecoder,
    data: ContextData,
    labellers: Mapping[str, Labeller],
    *,
    contexts: Iterable[str] | None = None,
    samples: int = 400,
    seed: int = 0,
) -> LabelScores:
    """The same generated pictures under interventions, by the module and by what costs nothing, as labellers see them.

    Figures are: by concept, the share that is labelled as showing it; ``asked``, the share that shows what was
    intervened on and nothing else; ``own``, the share that is still nearer to the picture it was than to any other
    one's, averaged down to 16 pixels a side; ``moved``, how far it is from that one, in units of the average distance
    of two pictures; and ``sharpness``, the mean square of differences of neighbouring pixels, in units of that of real
    images of the context. Of real images only the first two are told.

    Args:
        model: of images, with embeddings, or trained on a base's own samples.
        data: training images, which Gaussian maps and latent arithmetic are taken from; and real images of contexts.
        labellers: by concept; other ones than sorted the data.
        contexts: default: all of the data, those held out too.
        samples: pictures of each.
        seed: of their noise.

    Raises:
        ConceptError: for a concept without a labeller.
        DataError: for fewer than `MIN_SAMPLES` samples.
    """
    if samples < MIN_SAMPLES:
        raise DataError(f"samples must be at least {MIN_SAMPLES}, got {samples}")
    if missing := [name for name in model.concepts if name not in labellers]:
        raise ConceptError(f"no labeller of {', '.join(missing)}: give one for every concept of the model")
    asked = list(data.context_names) if contexts is None else [data.concepts.name(context) for context in contexts]
    with evaluating(model):
        noise = model.module.sample_noise(samples, 1.0, torch.Generator().manual_seed(seed))
        mask = torch.zeros(samples, len(model.concepts), dtype=torch.bool, device=model.device)
        start = model.slot.latent_mean(noise, mask).flatten(1).float().cpu()
        costless = Costless(model.base, data, samples, _BATCH, seed, start=start)

        def made(context: str) -> Tensor:
            parts = [model.generate(noise=part, do=context, seed=seed).cpu() for part in noise.split(_BATCH)]
            return torch.cat(parts)

        before, found = made(OBSERVATIONAL), LabelScores()
        for context in asked:
            concepts, real = data.concepts.parse(context), _real(data, context, samples)
            ways = {MODULE: before if context == OBSERVATIONAL else made(context)}
            if concepts:
                ways[COSTLESS["maps"]] = costless.maps(concepts)
                ways[COSTLESS["arithmetic"]] = costless.arithmetic(concepts)
            found[context] = {way: _shares(pictures, concepts, labellers) for way, pictures in ways.items()}
            for way, pictures in ways.items():
                sharpness = mean_estimate(_sharpness(pictures) / _sharpness(real).mean())
                found[context][way] |= {**_kept(pictures, before), "sharpness": sharpness}
            found[context][REAL] = _shares(real, concepts, labellers)
    return found


def labels_table(found: LabelScores) -> str:
    """The same as Markdown: a row for every context and way, shares with their intervals."""
    figures = list(next(iter(next(iter(found.values())).values())))
    lines = [f"| do | way | {' | '.join(figures)} |", "|---|---" + "|---" * len(figures) + "|"]
    for context, ways in found.items():
        for way, scores in ways.items():
            cells = [f"{scores[figure]:.2f}" if figure in scores else "" for figure in figures]
            lines.append(f"| {context} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _real(data: ContextData, context: str, samples: int) -> Tensor:
    """Up to so many real images of a context, never trained on where there are such."""
    for part in (data.held_out, data.test, data.train):
        if part is not None and context in part.context_names:
            return part.select(context, min(samples, part.counts[context]))
    raise DataError(f"no real images of {context}: the data has {', '.join(data.context_names)}")


def _shares(pictures: Tensor, concepts: Iterable[str], labellers: Mapping[str, Labeller]) -> dict[str, Estimate]:
    labelled = {
        name: torch.cat([torch.as_tensor(labeller(part)).cpu() > 0 for part in pictures.split(_BATCH)])
        for name, labeller in labellers.items()
    }
    asked = torch.stack([shown == (name in concepts) for name, shown in labelled.items()]).all(0)
    return {**{name: share_estimate(shown) for name, shown in labelled.items()}, "asked": share_estimate(asked)}


def _kept(pictures: Tensor, before: Tensor) -> dict[str, Estimate]:
    """Whether pictures are still of what they were of, and how far they moved."""
    small, others = (F.adaptive_avg_pool2d(part, _SIDE).flatten(1) for part in (pictures, before))
    apart = torch.cdist(others, others)
    far = apart.sum() / (len(others) * (len(others) - 1))
    own = torch.cdist(small, others).argmin(1) == torch.arange(len(small))
    return {"own": share_estimate(own), "moved": mean_estimate((small - others).norm(dim=1) / far)}


def _sharpness(pictures: Tensor) -> Tensor:
    """(n,), the mean square of differences of neighbouring pixels."""
    across, down = pictures.diff(dim=3).square().flatten(1).mean(1), pictures.diff(dim=2).square().flatten(1).mean(1)
    return across + down
