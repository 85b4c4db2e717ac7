"""`evaluate` on models of known answers, and on wrapped bases of all families."""

import dataclasses
import functools
import importlib
import json
import math

import pytest
import torch
from torch import nn

from context_module import adapt, wrap_decoder
from context_module.adapters.contract import DecoderAdapter, Decoding, Encoding, LatentSpec
from context_module.adapters.modules import ModulesAdapter
from context_module.contexts import OBSERVATIONAL
from context_module.data import ArrayContextDataset, ContextData, grammar, load_data
from context_module.errors import ConceptError, DataError
from context_module.evaluation import (
    Evaluation,
    composition_table,
    evaluate,
    subject_of,
    summary_table,
)
from context_module.evaluation.result import ContextScores
from context_module.metrics import built_in_metrics, sliced_wasserstein
from context_module.metrics.estimate import Estimate
from context_module.metrics.representation import codes_of, leading_codes
from helpers.models import randomise_lora

DISTANCES = ("sliced_wasserstein", "mmd", "energy_distance")
quietly = functools.partial(evaluate, progress=False)


class Fixed:
    """The likelihood of images that are what they are."""

    def __init__(self, mean):
        self.mean = mean


class Dark(DecoderAdapter):
    """A base whose samples are black, but for a little noise; it keeps the sizes asked for."""

    name, image_shape, num_features, latent = "dark", (1, 2, 2), 4, LatentSpec((4,))

    def __init__(self):
        super().__init__()
        self.asked, self.modes = [], set()

    def encode(self, x):
        return Encoding(x.flatten(1), x.flatten(1))

    def decode(self, latent, encoding=None, residuals=(), temperature=1.0, generator=None):
        self.asked.append(len(latent))
        self.modes.add(self.training)
        return Decoding(Fixed(grey(0.0, latent)), torch.zeros(len(latent)))


def grey(level, latent):
    """Images (n, 1, 2, 2) of about one level."""
    return (level + 0.01 * latent.sigmoid()).view(-1, 1, 2, 2)


def known_model(levels):
    """Generates images of one level per context; notes contexts and sizes in `asked`."""
    model = wrap_decoder(Dark(), ["a", "b", "c"], noise_width=2, concept_width=2)
    model.asked = []

    def generate(n, *, do, generator):
        model.asked.append((do, n))
        assert not model.training
        return grey(levels[do], torch.randn(n, 4, generator=generator))

    model.generate = generate
    return model


def images_of(levels, n, **contexts):
    """A data set with n images of each context, of about one level each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([grey(level, torch.randn(n, 4, generator=generator)) for level in levels.values()])
    labels = torch.arange(len(levels)).repeat_interleave(n)
    return ArrayContextDataset((images * 255).round().to(torch.uint8), labels, levels, ("a", "b", "c"))


SINGLE = {"obs": 0.1, "a": 0.2, "b": 0.3, "c": 0.4}
PAIRS = {"a+b": 0.2, "a+c": 0.8}


def known_data(n=40):
    return ContextData(images_of(SINGLE, n), images_of(PAIRS, n), images_of(SINGLE, n))


def tiny_base(size):
    """A base for RGB images of this size."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, 6))
    decoder = nn.Sequential(nn.Linear(6, 3 * size**2), nn.Unflatten(1, (3, size, size)), nn.Sigmoid())
    return ModulesAdapter(encoder, decoder, (6,), (3, size, size), output="unit")


# --- contexts


def test_scores_of_a_known_model():
    model = known_model({"a+b": 0.2, "a+c": 0.2}).train()
    found = quietly(model, known_data(), samples=20, batch_size=8, contexts=PAIRS, metrics=["sliced_wasserstein"])
    assert list(found.contexts) == ["a+b", "a+c"]
    first, second = (context.scores["sliced_wasserstein"] for context in found.contexts.values())
    assert first["model"].value == pytest.approx(0, abs=0.01)
    assert first["floor"].value == pytest.approx(0, abs=0.01)
    # the projection of a shift by v in all of d pixels is v on average over directions
    assert first["base"].value == pytest.approx(0.2, rel=0.15)
    assert second["model"].value / second["base"].value == pytest.approx(0.6 / 0.8, rel=0.05)
    assert model.asked == [(context, n) for context in PAIRS for n in (8, 8, 4)]
    assert model.base.asked[:3] == [8, 8, 4]  # then what costs nothing, on the same base
    assert model.base.modes == {False}
    assert model.training


def test_each_column_is_the_distance_to_the_first_half_of_the_real_images():
    model, data = known_model(SINGLE | PAIRS), known_data()
    found = quietly(model, data, samples=20, metrics=DISTANCES, seed=3)
    real, other = data.test.select("b").split(20)
    assert found.contexts["b"].scores["sliced_wasserstein"]["floor"] == sliced_wasserstein(other, real, seed=3)
    assert set(found.contexts["b"].scores) == set(DISTANCES)
    assert [name for name, context in found.contexts.items() if context.held_out] == list(PAIRS)
    assert set(found.contexts) == {*SINGLE, *PAIRS}


def test_figures_of_compositions_do_not_depend_on_what_else_is_scored():
    few = quietly(known_model(PAIRS), known_data(), samples=20, contexts=PAIRS, metrics=["sliced_wasserstein"])
    more = quietly(known_model(SINGLE | PAIRS), known_data(), samples=20, metrics=DISTANCES)
    for name in PAIRS:
        assert few.contexts[name].scores["sliced_wasserstein"] == more.contexts[name].scores["sliced_wasserstein"]


def test_every_family_of_bases_is_reproducible(base):
    base = adapt(base)
    model = wrap_decoder(base, ["a", "b", "c"], noise_width=2, concept_width=2).eval()
    images = torch.randint(0, 256, (40, *base.image_shape), dtype=torch.uint8)
    held_out = ArrayContextDataset(images, [0] * 20 + [1] * 20, ("a+b", "a+c"), ("a", "b", "c"))
    data = ContextData(held_out, held_out)
    options = {"samples": 10, "contexts": ["a+b", "a+c"], "metrics": DISTANCES, "seed": 1}
    found = quietly(model, data, **options)
    torch.rand(1)
    assert quietly(model, data, **options) == found
    for scores in found.contexts["a+b"].scores.values():
        assert scores["model"] != scores["base"]


def test_the_base_beside_a_language_model_with_lora_is_bare():
    pytest.importorskip("transformers")
    from context_module.adapters.transformers import TransformersAdapter

    train = grammar(samples_per_context=20, held_out_samples=0).train
    torch.manual_seed(0)
    base = TransformersAdapter.from_texts(train.texts(), hidden_size=8, num_layers=1, max_tokens=16)
    model = wrap_decoder(base, train.concepts)
    data = grammar(samples_per_context=20, held_out_samples=20, tokenize=base.tokenize)

    def texts_of_the_base():
        texts = []
        parser = lambda text: texts.append(text) or data.parser(text)  # noqa: E731
        evaluate(
            model, dataclasses.replace(data, parser=parser), samples=10, contexts=["number+tense"], progress=False
        )
        return texts[:10]

    before = texts_of_the_base()
    randomise_lora(model.add_lora(), 1.0)
    assert texts_of_the_base() == before
    assert len(set(before)) > 1


def test_the_base_beside_a_model_with_lora_is_bare(make_base):
    model = wrap_decoder(make_base("lightweight"), ["a", "b"], noise_width=2, concept_width=2)
    images = torch.randint(0, 256, (20, *model.base.image_shape), dtype=torch.uint8)
    part = ArrayContextDataset(images, [0] * 20, ("a+b",), ("a", "b"))
    options = {"samples": 10, "contexts": ["a+b"], "metrics": ["sliced_wasserstein"]}
    before = quietly(model, ContextData(part, part), **options)
    randomise_lora(model.add_lora(), 1.0)
    after = quietly(model, ContextData(part, part), **options)
    (before,), (after,) = (found.contexts["a+b"].scores.values() for found in (before, after))
    assert after["base"] == before["base"]
    assert after["model"] != before["model"]


def test_a_base_alone_gives_its_samples_in_every_context(base):
    base = adapt(base)
    modes = [part.training for part in base.modules()]
    images = torch.randint(0, 256, (40, *base.image_shape), dtype=torch.uint8)
    part = ArrayContextDataset(images, [0] * 20 + [1] * 20, ("obs", "a"), ("a", "b"))
    found = quietly(base, ContextData(part, test=part), samples=10, metrics=["sliced_wasserstein"])
    for context in found.contexts.values():
        scores = context.scores["sliced_wasserstein"]
        assert scores["model"] == scores["base"] != scores["floor"]
    assert [part.training for part in base.modules()] == modes
    assert set(found.summary) == {"concept"}


def test_a_model_that_was_never_told_of_contexts_answers_as_observational():
    model = known_model({OBSERVATIONAL: 0.1})
    quietly(model, known_data(), samples=20, metrics=["sliced_wasserstein"], pooled=True)
    assert {do for do, _ in model.asked} == {OBSERVATIONAL}


def test_metrics_of_a_classifier(short_trainings):
    found = quietly(
        *(known_model(SINGLE | PAIRS), known_data()), samples=20, metrics=["precision_recall", "concept_accuracy"]
    )
    scores = found.contexts["a+b"].scores
    assert set(scores) == {"precision", "recall", "density", "coverage", "concept_accuracy"}
    assert set(scores["coverage"]) == {"model", "base", "floor"}
    assert set(scores["concept_accuracy"]) == {"model", "real"}
    assert scores["precision"]["base"].value < 0.5 < scores["precision"]["floor"].value


# --- the model as a whole


@pytest.fixture(scope="module")
def quad():
    return load_data("quad", resolution=8, samples_per_context=30, held_out_samples=20, test_samples=100)


def test_all_that_applies(quad, short_trainings):
    """Everything at once, as JSON; what does not apply says why."""
    model = wrap_decoder(tiny_base(8), quad.concepts, noise_width=2, concept_width=2).eval()
    nn.init.normal_(model.module.embedding.interventional.bias)  # else there are no effects and no graph
    found = quietly(model, quad, samples=10)
    text = json.dumps(found.to_dict())
    report = json.loads(text)
    assert "NaN" not in text
    assert set(report) == {
        *("samples", "seed", "contexts", "summary", "reconstruction", "counterfactual", "disentanglement"),
        *("categories", "downstream", "graph", "axioms", "leak", "skipped", "discrimination", "latents", "transfer"),
    }
    assert report["contexts"]["quad1+size"]["held_out"]
    assert not report["contexts"]["obs"]["held_out"]
    estimate = report["summary"]["composition"]["sliced_wasserstein"]["model"]
    assert set(estimate) == {"value", "low", "high", "samples"}
    contexts = [context for context in report["contexts"].values() if context["held_out"]]
    mean = sum(context["sliced_wasserstein"]["model"]["value"] for context in contexts) / 9
    assert estimate["value"] == pytest.approx(mean)
    assert report["summary"]["concept"]["concept_accuracy"].keys() == {"model", "real"}
    bits = report["reconstruction"]
    assert bits["bits_per_pixel"]["value"] == pytest.approx(3 * bits["bits_per_dimension"]["value"])
    assert bits["bits_per_pixel"]["samples"] == 7 * 10
    assert set(report["counterfactual"]["concepts"]) == set(quad.concepts)
    assert report["graph"]["concepts"] == list(quad.concepts)
    assert report["graph"]["true_edges"] == [list(edge) for edge in quad.graph]
    wrong = [*report["graph"]["missing"], *report["graph"]["extra"], *report["graph"]["reversed"]]
    assert report["graph"]["structural_hamming_distance"] == len(wrong) > 0
    assert found.skipped == {
        "categories": "the representation has no categories",
        "disentanglement": "scores of disentanglement need at least 200 items, got 100",
        "downstream": "the data has no factor to predict",
    }
    assert report["disentanglement"] is None


def test_disentanglement_of_a_model_and_of_its_base(monkeypatch):
    data = load_data("quad", resolution=8, samples_per_context=2, held_out_samples=0, test_samples=200)
    model = wrap_decoder(tiny_base(8), data.concepts, noise_width=2, concept_width=2, free_blocks=0).eval()
    for one, codes in ((model, len(data.concepts)), (model.base, 6)):
        seen = {}

        def score(found, factors, names, *, seed, seen=seen, **_):
            seen["codes"], seen["factors"] = found.shape, factors.shape
            return {"mig": Estimate(0.5, 0.4, 0.6, len(found))}

        monkeypatch.setattr(
            importlib.import_module("context_module.metrics.disentanglement"), "disentanglement", score
        )
        found = quietly(one, data, samples=10, metrics=["disentanglement"])
        assert found.whole["disentanglement"]["mig"].value == 0.5
        assert found.contexts == {}
        assert seen == {"codes": (200, codes), "factors": (200, 8)}  # the observational images


def test_downstream_of_the_pendulum():
    data = load_data("pendulum", resolution=16, samples_per_context=300, held_out_samples=0, test_samples=100)
    found = quietly(tiny_base(16), data, samples=10, metrics=["downstream"])
    assert set(found.whole["downstream"]) == {"sample_efficiency", "under_shift"}
    assert 0.5 < found.whole["downstream"]["sample_efficiency"]["full"].value <= 1
    assert (
        found.whole["downstream"]["under_shift"]["worst_group"].value
        <= found.whole["downstream"]["under_shift"]["average"].value
    )


def test_codes_are_the_leading_directions_of_the_noise_blocks():
    model = wrap_decoder(tiny_base(8), ["a", "b"], noise_width=2, concept_width=2, free_blocks=1).eval()
    amounts = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    directions = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, -1.0]])
    means = (amounts[..., None] * directions + torch.tensor([0.3, -2.0])).flatten(1)
    codes = leading_codes(means, subject_of(model).code_width)
    assert codes.shape == (500, 3)
    torch.testing.assert_close(codes.abs(), (amounts - amounts.mean(0)).abs(), atol=1e-4, rtol=1e-4)


def test_posterior_means_are_those_of_the_model_and_of_its_base():
    model = wrap_decoder(tiny_base(8), ["a", "b"], noise_width=2, concept_width=2).eval()
    x = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(codes_of(subject_of(model), x, batch_size=2), model.posterior(x).mean.detach())
    torch.testing.assert_close(codes_of(subject_of(model.base), x, batch_size=2), model.base.encode(x).mean.detach())


# --- what it refuses


def test_too_few_images():
    model = known_model(SINGLE | PAIRS)
    with pytest.raises(DataError, match=r"context 'a\+b' has 40 images, scoring 21 needs 42 .*ask for 20 samples"):
        quietly(model, known_data(), samples=21)
    with pytest.raises(DataError, match="needs at least 10 items, got 9"):
        quietly(model, known_data(), samples=9, metrics=["mmd"])


def test_images_that_were_trained_on_are_not_scored():
    data = dataclasses.replace(known_data(), test=None)
    with pytest.raises(
        DataError, match="no images of the training contexts to score on: load the data with test_samp"
    ):
        quietly(known_model(PAIRS), data)
    with pytest.raises(
        DataError, match=r"no images of context 'a' that were not trained on; there are of: a\+b, a\+c"
    ):
        quietly(known_model(PAIRS), data, contexts=["a"])


def test_metrics_that_are_asked_for_and_do_not_apply():
    model = known_model(SINGLE | PAIRS)
    with pytest.raises(ValueError, match=r"unknown metric 'fid': expected some of sliced_wasserstein, mmd"):
        quietly(model, known_data(), metrics=["fid"])
    with pytest.raises(
        DataError, match="counterfactual cannot be measured: it is not known how the images came about"
    ):
        quietly(model, known_data(), samples=20, metrics=["counterfactual"])
    with pytest.raises(DataError, match="counterfactual cannot be measured: the model knows no interventions"):
        quietly(model.base, known_data(), samples=20, metrics=["counterfactual"])
    with pytest.raises(
        DataError, match="reconstruction cannot be measured: the 'dark' base encodes deterministically"
    ):
        quietly(model.base, known_data(), samples=20, metrics=["reconstruction"])
    no_classifier = dataclasses.replace(known_data(), train=images_of({"obs": 0.1, "a": 0.2}, 40))
    with pytest.raises(DataError, match="concept_accuracy cannot be measured: .*none of b, c"):
        quietly(model, no_classifier, samples=20, metrics=["concept_accuracy"])


def test_by_default_they_are_skipped_with_their_reasons(short_trainings):
    no_classifier = dataclasses.replace(known_data(), train=images_of({"obs": 0.1, "a": 0.2}, 40))
    found = quietly(known_model(SINGLE | PAIRS).base, no_classifier, samples=20)
    assert set(found.skipped) == {metric.name for metric in built_in_metrics() if metric.kind == "images"} - set(
        DISTANCES
    )
    assert set(found.contexts["a"].scores) == set(DISTANCES)
    assert "encodes deterministically" in found.skipped["reconstruction"]


def test_concepts_of_another_model():
    model = wrap_decoder(Dark(), ["a", "b", "d"], noise_width=2, concept_width=2)
    with pytest.raises(ConceptError, match=r"the model has the concepts a, b, d, the data a, b, c"):
        quietly(model, known_data())
    with pytest.raises(ConceptError, match="unknown concept 'd'"):
        quietly(known_model(PAIRS), known_data(), contexts=["a+d"])


# --- tables


def made_up(base, model, floor):
    return {
        "sliced_wasserstein": {
            column: Estimate(value, value - 0.01, value + 0.02, 100)
            for column, value in (("model", model), ("base", base), ("floor", floor))
        }
    }


def test_table_of_compositions():
    contexts = {
        "a+b": ContextScores(True, made_up(0.5, 0.25, 0.1)),
        "a+c": ContextScores(True, made_up(0.3, 0.35, 0.2)),
        "obs": ContextScores(False, made_up(0.9, 0.9, 0.9)),
    }
    assert composition_table(Evaluation(100, 0, contexts)).splitlines() == [
        "| context | base | with context module | real against real | closer by |",
        "|---|---|---|---|---|",
        "| a+b | 0.500 | 0.250 | 0.100 | 50% |",
        "| a+c | 0.300 | 0.350 | 0.200 | -17% |",
        "| mean | 0.400 | 0.300 | 0.150 | 25% |",
    ]


def test_summary_has_means_and_intervals():
    contexts = {
        "a+b": ContextScores(True, made_up(0.5, 0.25, 0.1)),
        "obs": ContextScores(False, made_up(0.9, 0.8, 0.7)),
    }
    bits = {"bits_per_pixel": Estimate(1.5, 1.4, 1.6, 10)}
    evaluation = Evaluation(100, 0, contexts, {"reconstruction": bits})
    assert summary_table(evaluation).splitlines()[2:] == [
        "| concept | sliced wasserstein | 0.800 [0.790, 0.820] | 0.900 [0.890, 0.920] | 0.700 [0.690, 0.720] |",
        "| composition | sliced wasserstein | 0.250 [0.240, 0.270] | 0.500 [0.490, 0.520] | 0.100 [0.090, 0.120] |",
        "| reconstruction | bits per pixel | 1.500 [1.400, 1.600] | | |",
    ]
    both = {**contexts, "a+c": ContextScores(True, made_up(0.3, 0.35, 0.2))}
    mean = Evaluation(100, 0, both).summary["composition"]["sliced_wasserstein"]["base"]
    assert mean.value == pytest.approx(0.4)
    assert mean.high - mean.value == pytest.approx(0.02 / math.sqrt(2))
