"""The axioms of counterfactuals, of systems of which it is known whether they hold."""

import math

import pytest
import torch

from context_module.data import load_data
from context_module.metrics import Case, axioms, inapplicable, latent_divergence, train_concept_classifier
from context_module.metrics.axioms import METRIC
from helpers.subjects import Answering


class Simulated(Answering):
    """The simulator's own counterfactuals of the images that it knows; or what `spoil` makes of them."""

    def counterfactuals(self, images, contexts, generator):
        test, simulator, factors = self.data.test, self.data.simulator, self.factors_of(images)
        found = {}
        for context in contexts:
            if context == "obs":
                found[context] = images
            else:
                other = test.factors[test.labels == test.context_names.index(context)][: len(images)]
                value = other[:, test.factor_names.index(context)]
                drawn = simulator.render(simulator.counterfactual(factors, {context: value}))
                found[context] = drawn.float() / 255
        return {name: self.spoil(made) for name, made in found.items()} if self.spoil else found


class Reverting(Simulated):
    def reverted(self, images, context, generator):
        return self.data.test.select("obs", len(images))


@pytest.fixture(scope="module")
def data():
    return load_data("chase", resolution=16, samples_per_context=300, held_out_samples=0, test_samples=80)


@pytest.fixture(scope="module")
def classifier(data):
    return train_concept_classifier(data.train, steps=400, progress=False)


@pytest.fixture(scope="module")
def score(data, classifier):
    def of(subject):
        case = Case(subject, data, samples=40, progress=False)
        case._trained[train_concept_classifier] = classifier
        return METRIC.score(case)

    return of


def test_all_hold_of_the_simulator(data, score):
    found = score(Reverting(data))
    assert {name: each.value for name, each in found["composition"].items()} == {"1": 0, "10": 0}
    assert set(found["reversibility"]) == set(data.concepts)
    assert all(each.value == 0 for each in found["reversibility"].values())
    for shares in found["effectiveness"].values():
        assert shares["model"].value > shares["real"].value - 0.25
    assert all(math.log(2) <= each.value <= math.log(2 * math.e) for each in found["minimality"].values())


def test_a_classifier_that_is_not_there_can_train(data, classifier, monkeypatch):
    trains = []
    monkeypatch.setattr(axioms, "classifier_of", lambda case: trains.append(torch.is_grad_enabled()) or classifier)
    METRIC.score(Case(Simulated(data), data, samples=20, progress=False))
    assert trains == [True]


def test_one_that_blurs_composes_worse_each_time(data, score):
    found = score(Simulated(data, lambda images: 0.9 * images + 0.05))
    assert 0 < found["composition"]["1"].value < 0.5 * found["composition"]["10"].value
    assert "reversibility" not in found  # it has no way back


def test_one_that_does_nothing_is_not_effective(data, score):
    class Idle(Simulated):
        def counterfactuals(self, images, contexts, generator):
            return dict.fromkeys(contexts, images)

    idle, able = score(Idle(data)), score(Simulated(data))
    mean = {
        name: sum(shares["model"].value for shares in found["effectiveness"].values())
        for name, found in (("idle", idle), ("able", able))
    }
    assert mean["idle"] < mean["able"] - 1


def test_a_change_that_goes_further_than_it_takes():
    before = torch.zeros(20, 2)
    same, target = torch.tensor([[0.1, 0.0], [-0.1, 0.0]]), torch.tensor([[1.0, 0.0], [1.2, 0.0]])
    by_how_far = [
        latent_divergence(before, before + torch.tensor([x, 0.0]), same, target)[0].item() for x in (0.05, 0.5, 5.0)
    ]
    none, least, far = by_how_far
    assert least == pytest.approx(math.log(2))
    assert none == far == pytest.approx(math.log(1 + math.e))


def test_a_model_without_concepts_or_images(data):
    case = Case(Simulated(data), data)
    assert inapplicable(METRIC, case) is None
    case.subject.concepts = None
    assert inapplicable(METRIC, case) == "the model knows no interventions"
