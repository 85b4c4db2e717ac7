"""Sentences of a small probabilistic grammar whose factors are known, drawn here, and read back by a parser.

``the cats did not find a red apple at home .``: number, tense, polarity, colour and object are the concepts; the
subject, the verb and the place vary freely. Nothing is downloaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.context_data import ContextData
from context_module.data.texts import TextContextDataset, Tokenize
from context_module.errors import DataError, ShapeError

__all__ = ["CONCEPTS", "FACTORS", "GRAPH", "PAIRS", "draw", "grammar", "parse", "sentences"]

#: Per factor its values, in the order of their numbers.
FACTORS: Mapping[str, tuple[str, ...]] = {
    "number": ("singular", "plural"),
    "tense": ("past", "present"),
    "polarity": ("affirmative", "negative"),
    "colour": ("red", "green", "blue", "white"),
    "object": ("apple", "ball", "book", "car"),
    "subject": ("cat", "dog", "girl", "boy", "bird", "horse"),
    "verb": ("find", "see", "take", "lose"),
    "place": ("", "at home", "in town", "outside"),
}
CONCEPTS = Concepts(["number", "tense", "polarity", "colour", "object"])
#: The held-out contexts: all pairs.
PAIRS = tuple("+".join(pair) for pair in itertools.combinations(CONCEPTS, 2))
#: (cause, effect): plurals come in the present more often, the present is seldom negated, an object has its colour.
GRAPH = (("number", "tense"), ("tense", "polarity"), ("object", "colour"))

# Observational: the probabilities of a factor's values, one row per value of its cause, where it has one.
_OBSERVED: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "number": ((0.75, 0.25),),
    "tense": ((0.85, 0.15), (0.4, 0.6)),
    "polarity": ((0.6, 0.4), (0.95, 0.05)),
    "object": ((0.45, 0.35, 0.1, 0.1),),
    "colour": ((0.7, 0.2, 0.05, 0.05), (0.1, 0.6, 0.2, 0.1), (0.1, 0.1, 0.7, 0.1), (0.05, 0.05, 0.1, 0.8)),
}
# Under an intervention: whatever the cause is.
_INTERVENED: Mapping[str, tuple[float, ...]] = {
    "number": (0.1, 0.9),
    "tense": (0.1, 0.9),
    "polarity": (0.1, 0.9),
    "object": (0.05, 0.1, 0.45, 0.4),
    "colour": (0.05, 0.05, 0.3, 0.6),
}
_PAST = {"find": "found", "see": "saw", "take": "took", "lose": "lost"}


def grammar(
    *,
    samples_per_context: int = 4_000,
    held_out_samples: int = 2_000,
    test_samples: int = 0,
    seed: int = 0,
    tokenize: Tokenize | None = None,
) -> ContextData:
    """Sentences of every context: an intervention draws its concept from a distribution of its own.

    What descends from the concept follows by its observational mechanism, unless it is intervened on, too.

    Args:
        samples_per_context: training sentences of the observational and of each single-concept context.
        held_out_samples: sentences of each of `PAIRS`; 0 for none.
        test_samples: further sentences of each training context; 0 for none.
        seed: the same seed gives the same sentences, those of a context whatever the counts of the others.
        tokenize: see `TextContextDataset`.

    Returns:
        ContextData whose factors (N, 8) are numbers of the values in `FACTORS`, with `parse` as its parser.

    Raises:
        DataError: for a bad count.
    """
    if samples_per_context < 1 or held_out_samples < 0 or test_samples < 0:
        raise DataError(
            "samples_per_context must be at least 1, held_out_samples and test_samples at least 0, got "
            f"{samples_per_context}, {held_out_samples} and {test_samples}"
        )

    def part(contexts: Sequence[str], n: int, test: bool = False) -> TextContextDataset | None:
        if not n:
            return None
        factors = torch.cat([draw(n, context, seed=seed, test=test) for context in contexts])
        labels = torch.arange(len(contexts)).repeat_interleave(n)
        return TextContextDataset(sentences(factors), labels, contexts, CONCEPTS, factors, FACTORS, tokenize)

    train = part(CONCEPTS.training_contexts, samples_per_context)
    assert train is not None
    test_part = part(CONCEPTS.training_contexts, test_samples, test=True)
    return ContextData(train, part(PAIRS, held_out_samples), test_part, GRAPH, parser=parse)


def draw(n: int, context: str = "obs", *, seed: int = 0, test: bool = False) -> Tensor:
    """Factors of n sentences of a context, float32 (n, 8), each context and part from a random stream of its own."""
    intervened = CONCEPTS.parse(context)
    number = sum(1 << CONCEPTS.index(name) for name in intervened)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number, 1) if test else (number,)))
    uniform = dict(zip(FACTORS, rng.random((n, len(FACTORS))).T, strict=True))
    causes = {effect: cause for cause, effect in GRAPH}
    values: dict[str, np.ndarray] = {}
    for name in ("number", "tense", "polarity", "object", "colour"):  # causes first
        if name in intervened:
            rows = np.broadcast_to(_INTERVENED[name], (n, len(FACTORS[name])))
        elif name in causes:
            rows = np.asarray(_OBSERVED[name])[values[causes[name]]]
        else:
            rows = np.broadcast_to(_OBSERVED[name][0], (n, len(FACTORS[name])))
        # rounding errors of the sum must not make a number too many
        values[name] = (uniform[name][:, None] > rows.cumsum(1)[:, :-1]).sum(1)
    for name in ("subject", "verb", "place"):
        values[name] = (uniform[name] * len(FACTORS[name])).astype(int)
    return torch.from_numpy(np.stack([values[name] for name in FACTORS], axis=1)).float()


def sentences(factors: Tensor) -> list[str]:
    """Sentences of factors (n, 8), numbers of the values in `FACTORS`: words, and a full stop, between spaces.

    Raises:
        ShapeError: for another shape, or a number that is none of a value.
    """
    counts = torch.tensor([len(values) for values in FACTORS.values()])
    if factors.ndim != 2 or factors.shape[1] != len(FACTORS):
        raise ShapeError(
            f"factors must have shape (n, {len(FACTORS)}) for {', '.join(FACTORS)}, got {tuple(factors.shape)}"
        )
    if not ((factors >= 0) & (factors < counts) & (factors == factors.round())).all():
        raise ShapeError(f"factors must be numbers of the values in FACTORS, 0 to {(counts - 1).tolist()}")
    return [
        _sentence({name: FACTORS[name][value] for name, value in zip(FACTORS, row, strict=True)})
        for row in factors.long().tolist()
    ]


def _sentence(values: Mapping[str, str]) -> str:
    plural, past, negative = (
        values[name] == value for name, value in (("number", "plural"), ("tense", "past"), ("polarity", "negative"))
    )
    verb = values["verb"]
    if negative:
        words = ["did" if past else "do" if plural else "does", "not", verb]
    else:
        words = [_PAST[verb] if past else verb if plural else f"{verb}s"]
    subject = values["subject"] + "s" * plural
    return " ".join(["the", subject, *words, "a", values["colour"], values["object"], *values["place"].split(), "."])


def parse(text: str) -> Tensor | None:
    """The factors of a sentence, float32 (8,), or None for a text that the grammar does not make.

    >>> parse("the cats do not see a red ball .")
    tensor([1., 1., 1., 0., 1., 0., 1., 0.])
    >>> parse("the cats does not see a red ball .")
    """
    words = text.split()
    found: dict[str, str] = {}
    if len(words) < 7 or words[0] != "the" or words[-1] != ".":
        return None
    found["number"] = "plural" if words[1].endswith("s") else "singular"
    found["subject"] = words[1].removesuffix("s")
    found["polarity"] = "negative" if words[3] == "not" else "affirmative"
    if found["polarity"] == "negative":
        found["tense"] = "past" if words[2] == "did" else "present"
        found["verb"], rest = words[4], words[5:-1]
    else:
        past = {form: verb for verb, form in _PAST.items()}
        found["tense"] = "past" if words[2] in past else "present"
        found["verb"], rest = past.get(words[2], words[2].removesuffix("s")), words[3:-1]
    if len(rest) < 3:
        return None
    _, found["colour"], found["object"], *place = rest
    found["place"] = " ".join(place)
    if any(value not in FACTORS[name] for name, value in found.items()) or _sentence(found) != " ".join(words):
        return None
    return torch.tensor([float(FACTORS[name].index(found[name])) for name in FACTORS])
