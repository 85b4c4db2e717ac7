"""Sentences of the grammar: drawn from a seed, read back, and changed by interventions as the graph says."""

import itertools
import math

import pytest
import torch

from context_module.data import grammar, load_data
from context_module.data.grammar import CONCEPTS, FACTORS, GRAPH, PAIRS, draw, parse, sentences
from context_module.errors import DataError, ShapeError
from helpers.draws import seeded

NAMES = list(FACTORS)


def column(context, name, n=4000):
    return draw(n, context)[:, NAMES.index(name)]


def shares(values):
    return values.long().bincount(minlength=4) / len(values)


def every_sentence():
    counts = [range(len(values)) for values in FACTORS.values()]
    return torch.tensor(list(itertools.product(*counts))).float()


def test_every_sentence_is_read_back_and_none_twice():
    factors = every_sentence()
    texts = sentences(factors)
    assert len(set(texts)) == len(texts) == math.prod(map(len, FACTORS.values()))
    some = torch.randperm(len(texts), generator=seeded(0))[:1000].tolist()
    assert all(torch.equal(parse(texts[i]), factors[i]) for i in some)


def test_sentences_are_english():
    assert sentences(torch.tensor([[1, 0, 1, 0, 0, 0, 0, 1.0]])) == ["the cats did not find a red apple at home ."]
    assert sentences(torch.tensor([[0, 1, 0, 3, 3, 5, 3, 0.0]])) == ["the horse loses a white car ."]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the",
        "the cat finds a red apple",  # no full stop
        "the cats finds a red apple .",  # no agreement
        "the cat find a red apple .",
        "the cat does not finds a red apple .",
        "the cat do not find a red apple .",
        "the cat did not found a red apple .",
        "a cat finds a red apple .",
        "the cat finds the red apple .",
        "the cat finds a apple red .",
        "the fish finds a red apple .",
        "the cat finds a red apple apple .",
        "the cat finds a red apple at home in town .",
        "the cat finds a red apple . .",
        "the cat does not find .",
    ],
)
def test_other_texts_are_not_read(text):
    assert parse(text) is None


def test_interventions_change_their_concept():
    for name in CONCEPTS:
        changed, before = shares(column(name, name)), shares(column("obs", name))
        assert (changed - before).abs().sum() / 2 > 0.4


def test_effects_travel_along_the_graph_and_no_further():
    descendants = {"number": {"tense", "polarity"}, "tense": {"polarity"}, "object": {"colour"}}
    for cause, other in itertools.permutations(FACTORS, 2):
        if cause not in CONCEPTS:
            continue
        gap = (shares(column(cause, other)) - shares(column("obs", other))).abs().sum() / 2
        assert (gap > 0.06) if other in descendants.get(cause, ()) else (gap < 0.04), (cause, other)
    assert {(cause, effect) for cause in descendants for effect in descendants[cause]} >= set(GRAPH)


def test_a_joint_intervention_cuts_what_is_between():
    """With the tense set, the number has no way left to the polarity."""
    for name in ("polarity", "tense"):
        gap = shares(column("number+tense", name)) - shares(column("tense", name))
        assert gap.abs().sum() / 2 < 0.04


def test_the_same_seed_gives_the_same_sentences_and_more_only_append():
    data, more = (grammar(samples_per_context=n, held_out_samples=0, test_samples=5, seed=3) for n in (20, 30))
    for context in data.train.context_names:
        assert more.train.texts(context)[:20] == data.train.texts(context)
        assert more.test.texts(context) == data.test.texts(context) != data.train.texts(context, 5)
    assert grammar(samples_per_context=20, seed=4).train.texts() != data.train.texts()
    assert data.held_out is None


def test_the_data():
    data = load_data("grammar", samples_per_context=6, held_out_samples=4)
    assert data.train.context_names == ("obs", *CONCEPTS)
    assert data.held_out.context_names == PAIRS
    assert len(data.train) == 36
    assert len(data.held_out) == 40
    assert data.graph == GRAPH
    assert data.train.factor_names == tuple(FACTORS)
    for part in (data.train, data.held_out):
        assert torch.equal(torch.stack([data.parser(text) for text in part.texts()]), part.factors)
    fewer = data.of_concepts(["number", "tense"])
    assert fewer.held_out.context_names == ("number+tense",)
    assert fewer.parser is parse
    assert fewer.graph == (("number", "tense"),)


def test_bad_counts_and_factors():
    with pytest.raises(DataError, match="samples_per_context must be at least 1.*got 0, 1 and 2"):
        grammar(samples_per_context=0, held_out_samples=1, test_samples=2)
    with pytest.raises(ShapeError, match=r"shape \(n, 8\) for number, .*, got \(2, 3\)"):
        sentences(torch.zeros(2, 3))
    for wrong in (-1.0, 2.0, 0.5, math.nan):
        with pytest.raises(ShapeError, match="numbers of the values in FACTORS, 0 to"):
            sentences(torch.tensor([[wrong, 0, 0, 0, 0, 0, 0, 0]]))
    with pytest.raises(DataError, match="the grammar data takes no option 'words'; its options: "):
        load_data("grammar", words=3)
