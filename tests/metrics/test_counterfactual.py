"""Models whose counterfactuals are known to be right, absent, or wrong in one place."""

import json
from dataclasses import dataclass

import pytest
import torch

from context_module import adapt, wrap_decoder
from context_module.contexts import Concepts
from context_module.data import ArrayContextDataset, Simulator, quad, simulate
from context_module.errors import ConceptError, DataError, ShapeError
from context_module.evaluation import Subject, subject_of
from context_module.metrics.counterfactual import counterfactual_consistency, train_factor_regressor

BANDS = 4  # pixels high each


class Bands(Simulator):
    """Three bands of a brightness each; that of b follows that of a, and c is on its own."""

    name = "bands"
    concepts = Concepts(["a", "b"])
    factor_names = ("a", "b", "c")
    compositions = ()
    image_shape = (1, 3 * BANDS, 8)

    def settings(self):
        return {}

    def sample(self, n, context, rng, test=False):
        u = torch.from_numpy(rng.random((n, 3))).float() / 2
        a = u[:, 0] + 0.5 if "a" in context else u[:, 0]
        b = u[:, 1] + 0.5 if "b" in context.split("+") else u[:, 1] + 0.5 * a
        return torch.stack([a, b, 2 * u[:, 2]], 1)

    def render(self, factors):
        rows = (factors * 255).round().to(torch.uint8).repeat_interleave(BANDS, 1)
        return rows[:, None, :, None].expand(-1, -1, -1, 8)

    def counterfactual(self, factors, values):
        changed = super().counterfactual(factors, values)
        if "b" not in values:
            changed[:, 1] += 0.5 * (changed[:, 0] - factors[:, 0])
        return changed


@dataclass
class Model(Subject):
    """Knows the factors of an image, and what becomes of them under an intervention."""

    moves: bool = True  # the concept
    follows: bool = True  # what descends from it
    spills: float = 0.0  # onto c
    concepts = Concepts(["a", "b"])

    def sample(self, n, context, generator):
        raise AssertionError("its counterfactuals are asked for, no samples")

    def counterfactuals(self, images, contexts, generator):
        noise = self.abduct(images)
        return {context: self.generate(noise, context, generator) for context in contexts}

    def abduct(self, x):
        return x[:, 0, BANDS // 2 :: BANDS, 0]

    def generate(self, noise, do, generator):
        factors = noise.clone()
        if do != "obs" and self.moves:
            values = {do: 0.5 + 0.5 * torch.rand(len(noise), generator=generator)}
            mechanism = SIMULATOR.counterfactual if self.follows else super(Bands, SIMULATOR).counterfactual
            factors = mechanism(noise, values)
            factors[:, 2] = (factors[:, 2] + self.spills).clamp(max=1)
        return SIMULATOR.render(factors.clamp(0, 1)).float() / 255


SIMULATOR = Bands()


@pytest.fixture(scope="module")
def data():
    return simulate(SIMULATOR, samples_per_context=400, test_samples=200)


@pytest.fixture(scope="module")
def regressor(data):
    return train_factor_regressor(data.train, steps=200, batch_size=60, progress=False)


@pytest.fixture
def score(data, regressor):
    def consistency(model, **options):
        return counterfactual_consistency(
            subject_of(model), data.test, SIMULATOR, regressor, **{"samples": 200, **options}
        )

    return consistency


def test_the_regressor_reads_real_images(data, regressor):
    for context in data.test.context_names:
        of_context = data.test.only([context])
        off = regressor.read(of_context.select(context)) - regressor.standardise(of_context.factors)
        assert off.abs().mean() < 0.2
    assert regressor.standardise(data.train.factors).std(0) == pytest.approx(1)


def test_an_oracle_scores_near_the_floor(score):
    found = score(Model())
    for name in ("a", "b"):
        scores = found.concepts[name]
        assert set(scores.errors) == set(scores.floor) == {"a", "b", "c"} - {name}
        for factor, error in scores.errors.items():
            assert error.value < 1.2 * scores.floor[factor].value + 0.02
            assert scores.floor[factor].value < 0.25
        assert scores.effect.value == pytest.approx(scores.expected_effect.value, rel=0.15)
        assert scores.effect.samples == 200
        assert scores.pixel_error.value < 1.2 * scores.pixel_floor.value + 0.002
    for factor, error in found.reconstruction.items():
        assert error.value == pytest.approx(found.real[factor].value, abs=1e-4)
        assert error.value < 0.25
    assert found.reconstruction_pixel_error.value == pytest.approx(0, abs=1e-6)


def test_an_identity_has_no_effect(score):
    found = score(Model(moves=False))
    for name in ("a", "b"):
        scores = found.concepts[name]
        assert scores.effect.value == 0
        assert scores.expected_effect.value > 1
        assert max(error.value for error in scores.errors.values()) < 0.3  # nothing else moved, either


def test_a_change_of_an_unrelated_factor_is_caught_there(score):
    clean, spilling = score(Model()).concepts["a"], score(Model(spills=0.4)).concepts["a"]
    assert spilling.errors["c"].value > spilling.floor["c"].value + 0.8
    assert spilling.errors["b"].value < clean.errors["b"].value + 0.15
    assert spilling.pixel_error.value > clean.pixel_error.value + 0.08


def test_a_descendant_that_does_not_follow_is_caught(score):
    follows, stays = score(Model()).concepts, score(Model(follows=False)).concepts
    assert stays["a"].errors["b"].value > follows["a"].errors["b"].value + 0.5
    assert stays["b"].errors["a"].value == pytest.approx(follows["b"].errors["a"].value)  # a does not descend from b


def test_values_of_interventions_are_ones_that_can_be_drawn(data, regressor):
    train = data.train
    discrete = train.factors.clone()
    discrete[:, 0] = (discrete[:, 0] > 0.5).float()
    images = (train.read(torch.arange(len(train))) * 255).round().to(torch.uint8)
    flags = ArrayContextDataset(images, train.labels, train.context_names, train.concepts, discrete, ("a", "b", "c"))
    reader = train_factor_regressor(flags, steps=1, batch_size=60, progress=False)
    readings = (torch.tensor([[-3.0], [0.2], [0.6], [9.0]]) - reader.mean[0]) / reader.std[0]
    assert reader.value("a", readings.expand(-1, 3)).tolist() == [0, 0, 1, 1]
    known = data.train.factors[:, 2]
    far = torch.tensor([[0.0, 0.0, -9.0], [0.0, 0.0, 9.0]])
    assert regressor.value("c", far).tolist() == [known.min(), known.max()]
    exact = regressor.standardise(data.train.factors[:50])
    torch.testing.assert_close(regressor.value("c", exact), known[:50], atol=1e-6, rtol=0)


def test_of_a_wrapped_base_on_quad_pictures(make_base):
    data = quad(version="dependent", resolution=16, samples_per_context=12, test_samples=12)
    regressor = train_factor_regressor(data.train, steps=2, batch_size=14, progress=False)
    channels, size = 3, 16
    model = wrap_decoder(adapt(tiny_base(channels, size)), list(data.concepts), noise_width=2, concept_width=2)
    model.train()
    before = torch.get_rng_state()
    found = counterfactual_consistency(
        subject_of(model), data.test, data.simulator, regressor, samples=12, batch_size=5
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert found == counterfactual_consistency(
        subject_of(model), data.test, data.simulator, regressor, samples=12, batch_size=5
    )
    assert model.training
    assert set(found.concepts) == set(data.concepts)
    read_back = json.loads(json.dumps(found.to_dict()))
    assert read_back["concepts"]["size"]["errors"]["shape"]["samples"] == 12
    assert "size" not in read_back["concepts"]["size"]["errors"]


def tiny_base(channels, size):
    from torch import nn

    from context_module.adapters.modules import ModulesAdapter

    encoder = nn.Sequential(nn.Conv2d(channels, 2, 4, 4))
    decoder = nn.Sequential(nn.ConvTranspose2d(2, channels, 4, 4), nn.Sigmoid())
    return ModulesAdapter(encoder, decoder, (2, size // 4, size // 4), (channels, size, size), output="unit")


def test_determined_by_the_seed_and_global_random_state_untouched(data, score):
    few = {"steps": 2, "batch_size": 12, "progress": False}
    before = torch.get_rng_state()
    first, again = (train_factor_regressor(data.train, **few) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    images = data.test.select("obs", 4)
    assert torch.equal(first(images), again(images))
    assert not torch.equal(first(images), train_factor_regressor(data.train, seed=1, **few)(images))
    assert score(Model(), samples=20) == score(Model(), samples=20)
    assert score(Model(), samples=20) != score(Model(), samples=20, seed=1)


def test_refuses_what_does_not_fit_together(data, regressor, score):
    test = data.test
    images = (test.read(torch.arange(len(test))) * 255).round().to(torch.uint8)

    def with_factors(factors, names=("a", "b", "c"), images=images):
        return ArrayContextDataset(images, test.labels, test.context_names, test.concepts, factors, names)

    without = with_factors(None, ())
    with pytest.raises(DataError, match="has no factors to compare with"):
        train_factor_regressor(without, progress=False)
    with pytest.raises(DataError, match="has no factors to compare with"):
        counterfactual_consistency(subject_of(Model()), without, SIMULATOR, regressor)
    with pytest.raises(DataError, match="factors must be finite"):
        train_factor_regressor(with_factors(test.factors / 0), progress=False)
    with pytest.raises(DataError, match="the data has the factors a, b, d, the simulator a, b, c"):
        counterfactual_consistency(
            subject_of(Model()), with_factors(test.factors, ("a", "b", "d")), SIMULATOR, regressor
        )
    smaller = with_factors(test.factors, images=images[..., :4])
    with pytest.raises(ShapeError, match=r"expected float images of shape \(n, 1, 12, 8\).*\(200, 1, 12, 4\)"):
        counterfactual_consistency(subject_of(Model()), smaller, SIMULATOR, regressor, samples=200)
    with pytest.raises(DataError, match="cannot select 500 images of context 'obs': expected 1 to 200"):
        score(Model(), samples=500)
    with pytest.raises(DataError, match="at least 10 items, got 9"):
        score(Model(), samples=9)
    model = Model()
    model.concepts = Concepts(["a", "size"])
    with pytest.raises(ConceptError, match="does not intervene on size; its concepts: a, b"):
        score(model)
