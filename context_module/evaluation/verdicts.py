"""Whether an intervention does what it should: in words, and why, by how far its samples are from real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from context_module.contexts import OBSERVATIONAL, SEPARATOR
from context_module.evaluation.result import ContextScores, Evaluation

__all__ = ["VERDICTS", "Judged", "headline", "judged", "verdict"]

_CLOSE = 0.002
_DIFFERENT = 1.25  # times the least distance there can be: what no intervention at all does worse than
_MOST = 0.8  # of the way from real images to observational ones
_IDLE = ("no", "not with this base", "cannot be told")  # of a concept alone: it says something of its compositions

_OTHERS = "other real images are {floor:.3f}"
#: The words of every verdict, best first -> whether the intervention works, and why, by the distances of `verdict`.
VERDICTS = {
    "as real images are": (
        "yes",
        f"{{model:.3f}} from real images; {_OTHERS}, the base's reconstructions {{recon:.3f}}.",
    ),
    "limited by the base": (
        "as far as the base allows",
        f"{{model:.3f}} from real images; {_OTHERS}, but the base's own reconstructions {{recon:.3f}}.",
    ),
    "better than what costs nothing": (
        "in part",
        f"{{model:.3f}} from real images, nearer than Gaussian maps, {{maps:.3f}}; {_OTHERS}.",
    ),
    "as what costs nothing": (
        "in part",
        f"{{model:.3f}} from real images, no nearer than Gaussian maps, {{maps:.3f}}; {_OTHERS}.",
    ),
    "worse than what costs nothing": (
        "in part",
        f"{{model:.3f}} from real images, farther than Gaussian maps, {{maps:.3f}}; {_OTHERS}.",
    ),
    "no visible effect": (
        "no",
        f"{{model:.3f}} from real images, as observational images are, {{unchanged:.3f}}; {_OTHERS}.",
    ),
    "not shown by the base": (
        "not with this base",
        "Observational images are {unchanged:.3f} from real ones, but the base's own reconstructions {recon:.3f}.",
    ),
    "hardly differs from observational images": (
        "cannot be told",
        f"Observational images are {{unchanged:.3f}} from real ones; {_OTHERS}, reconstructions {{recon:.3f}}.",
    ),
}


@dataclass(frozen=True)
class Judged:
    """What is said of one context.

    Attributes:
        context: its name.
        held_out: whether it is a composition that was never trained on; else it is a single concept.
        verdict: one of `VERDICTS`.
        works: yes, in part, as far as the base allows, no, not with this base, or cannot be told.
        why: in a sentence or two, with the distances.
    """

    context: str
    held_out: bool
    verdict: str
    works: str
    why: str


def judged(evaluation: Evaluation) -> list[Judged]:
    """A verdict on every intervention whose distances allow one: see `verdict`; none on ``obs``."""
    distances = {
        name: found
        for name, context in evaluation.contexts.items()
        if name != OBSERVATIONAL and {"model", "maps", "recon", "floor"} <= (found := _distances(context)).keys()
    }
    words = {name: verdict(found) for name, found in distances.items()}
    return [
        Judged(
            context=name,
            held_out=evaluation.contexts[name].held_out,
            verdict=words[name],
            works=VERDICTS[words[name]][0],
            why=" ".join(
                [
                    VERDICTS[words[name]][1].format_map(found),
                    *_of_its_concepts(name, words),
                    *_unfamiliar(evaluation.contexts[name]),
                ]
            ),
        )
        for name, found in distances.items()
    ]


def verdict(distances: Mapping[str, float]) -> str:
    """The distances of `headline` and the ``floor``, of real images, in words.

    Where it is known how far observational images are from the context, ``unchanged``, it also says whether an
    intervention is seen at all: in the data, as far as the base shows them, and in what the module makes of it.

    >>> verdict({"model": 0.09, "maps": 0.09, "recon": 0.08, "floor": 0.02})
    'limited by the base'
    >>> verdict({"model": 0.09, "maps": 0.09, "recon": 0.02, "floor": 0.02, "unchanged": 0.1})
    'no visible effect'
    >>> verdict({"model": 0.5, "maps": 0.5, "recon": 0.5, "floor": 0.02, "unchanged": 0.4})
    'not shown by the base'
    """
    model, maps, recon, floor = (distances[column] for column in ("model", "maps", "recon", "floor"))
    if unchanged := distances.get("unchanged"):
        if unchanged < _DIFFERENT * floor:
            return "hardly differs from observational images"
        if unchanged < _DIFFERENT * min(recon, model):
            return "not shown by the base"
        if model - recon > _MOST * (unchanged - recon):
            return "no visible effect"
    if recon > 2 * floor and model < 1.25 * recon:
        return "limited by the base"
    if model <= 1.25 * max(floor, recon):
        return "as real images are"
    if model > maps + _CLOSE:
        return "worse than what costs nothing"
    return "better than what costs nothing" if model < maps - _CLOSE else "as what costs nothing"


def headline(distances: Mapping[str, float]) -> float:
    """(d(maps) - d(model)) / (d(maps) - d(recon)): 0 is what costs nothing, 1 is all that the base allows.

    NaN where the maps are as good as the base allows.

    Args:
        distances: to real images, of the ``model``, Gaussian ``maps`` and the base's reconstructions, ``recon``.

    >>> headline({"model": 0.03, "maps": 0.04, "recon": 0.02})
    0.5
    """
    model, maps, recon = (distances[column] for column in ("model", "maps", "recon"))
    return round((maps - model) / (maps - recon), 12) if maps > recon else float("nan")


def _distances(context: ContextScores) -> dict[str, float]:
    return {column: figure.value for column, figure in context.scores.get("sliced_wasserstein", {}).items()}


def _of_its_concepts(context: str, words: Mapping[str, str]) -> list[str]:
    """What of a composition is so of one of its concepts already."""
    parts = context.split(SEPARATOR)
    odd = [part for part in parts if len(parts) > 1 and part in words and VERDICTS[words[part]][0] in _IDLE]
    return [f"{part} alone: {words[part]}." for part in odd]


def _unfamiliar(context: ContextScores) -> list[str]:
    share = context.strangers
    return [] if share is None else [f"{share:.0%} of its images are unlike anything that the base knows."]
