import dataclasses

import pytest
import torch

from context_module.data import load_data
from context_module.errors import DataError
from context_module.metrics import Case, leak, train_concept_classifier
from context_module.metrics.counterfactual import train_factor_regressor
from context_module.metrics.leak import METRIC
from helpers.subjects import Answering


class Perfect(Answering):
    """Answers with the simulator's own counterfactuals; those in `spoil` with the crow elsewhere."""

    def counterfactuals(self, images, contexts, generator):
        factors, simulator = self.factors_of(images), self.data.simulator
        found = {}
        for context in contexts:
            values = {} if context == "obs" else {context: torch.full((len(images),), 0.8)}
            if context in (self.spoil or ()):
                values["crow"] = torch.full((len(images),), 0.9)
            found[context] = simulator.render(simulator.counterfactual(factors, values)).float() / 255
        return found


@pytest.fixture(scope="module")
def data():
    return load_data("chase", resolution=16, samples_per_context=200, held_out_samples=0, test_samples=60)


@pytest.fixture(scope="module")
def regressor(data):
    return train_factor_regressor(data.train, steps=400, progress=False)


def scored(data, regressor, **options):
    case = Case(Perfect(data, **options), data, samples=60, progress=False)
    case._trained[train_factor_regressor] = regressor
    return METRIC.score(case)


def test_the_simulator_leaks_little_and_a_spoiled_one_much(data, regressor):
    clean, spoiled = scored(data, regressor), scored(data, regressor, spoil=("hare",))
    assert set(clean["fox"]) == {"hare", "crow", "size", "hour"}  # the hound follows the fox
    assert set(clean["hound"]) == {"hare", "fox", "crow", "size", "hour"}
    assert clean["hare"]["crow"].value < 0.2
    assert spoiled["hare"]["crow"].value > 0.8
    assert spoiled["fox"]["crow"].value == clean["fox"]["crow"].value


def test_where_factors_are_not_known_a_classifier_tells(data):
    """In chase a crow that is elsewhere is what do(crow) looks like."""
    classifier = train_concept_classifier(data.train, steps=300, progress=False)
    unknown = dataclasses.replace(data, graph=None)
    found = {}
    for spoil in ((), ("hare",)):
        case = Case(Perfect(data, spoil=spoil), unknown, samples=60, progress=False)
        case._trained[train_concept_classifier] = classifier
        found[spoil] = METRIC.score(case)
    assert set(found[()]["hare"]) == set(data.concepts) - {"hare"}  # what follows is not known either
    assert found["hare",]["hare"]["crow"].value > found[()]["hare"]["crow"].value + 0.2
    assert found["hare",]["fox"]["crow"].value == found[()]["fox"]["crow"].value


def test_a_share_of_a_range():
    before, after = torch.zeros(20, 2), torch.zeros(20, 2)
    after[:5, 1] = 0.25
    found = leak(before, after, torch.tensor([1.0, 2.0]), ("a", "b"), ("a", "b"))
    assert (found["a"].value, found["b"].value) == (0, 0.25)
    assert leak(before, after, torch.tensor([1.0, 3.0]), ("a", "b"), ("b",))["b"].value == 0
    with pytest.raises(DataError, match="at least 10"):
        leak(before[:3], after[:3], torch.ones(2), ("a", "b"), ("a",))


def test_what_it_takes(data):
    def reason(**changed):
        return METRIC.reason(Case(Perfect(data), dataclasses.replace(data, **changed)))

    assert reason() is None
    assert reason(graph=None) is None
    assert "no images of the training contexts" in reason(test=None)
