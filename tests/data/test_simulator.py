import json
import pickle

import numpy as np
import pytest
import torch

from context_module.contexts import Concepts
from context_module.data import Simulator, simulate
from context_module.data.dsprites import DSpritesSimulator
from context_module.data.pendulum import PendulumSimulator
from context_module.data.quad import _EDGES, QuadSimulator
from context_module.errors import ConceptError, DataError
from helpers.draws import seeded

CONCEPTS = Concepts(["a", "b"])


class Patches(Simulator):
    """One grey patch an image; `a` and `b` are its two halves, `c` a part of both."""

    name = "patches"
    concepts = CONCEPTS
    factor_names = ("c", "a", "b")
    compositions = ("a+b",)
    image_shape = (1, 2, 2)
    graph = ()

    def __init__(self, gain: float = 1.0) -> None:
        self.gain, self.rendered = gain, 0

    def settings(self):
        return {"gain": self.gain}

    def sample(self, n, context, rng, test=False):
        low = np.array([0.0, *(100.0 * (name in CONCEPTS.parse(context)) for name in CONCEPTS)])
        return torch.from_numpy(low + rng.uniform(0, 50, (n, 3))).float()

    def render(self, factors):
        self.rendered += len(factors)
        halves = self.gain * (factors[:, 1:] + factors[:, :1])
        return halves.repeat(1, 2).view(-1, 1, 2, 2).round().byte()


def made(simulator=None, *, n=5, held_out=3, test=2, **options):
    return simulate(
        simulator or Patches(), samples_per_context=n, held_out_samples=held_out, test_samples=test, **options
    )


def images(part):
    return torch.cat([part.select(context) for context in part.context_names])


# --- streams -----------------------------------------------------------------------------------------------------


def test_more_images_only_append():
    simulator = Patches()
    assert torch.equal(simulator.draw(9, "a")[:4], simulator.draw(4, "a"))
    few, many = made(n=4), made(n=9)
    for context in few.train.context_names:
        assert torch.equal(few.train.select(context), many.train.select(context, 4))


def test_counts_do_not_depend_on_each_other():
    alone, all_parts = made(held_out=0, test=0), made(held_out=7, test=4)
    assert alone.held_out is None
    assert alone.test is None
    assert torch.equal(alone.train.factors, all_parts.train.factors)
    assert torch.equal(all_parts.held_out.factors, made(n=1, held_out=7, test=0).held_out.factors)
    assert torch.equal(all_parts.test.factors, made(n=1, held_out=0, test=4).test.factors)


def test_contexts_parts_and_seeds_share_no_noise():
    simulator = Patches()
    columns = [simulator.draw(50, context, test=test)[:, 0] for context in ("obs", "a", "b", "a+b") for test in (0, 1)]
    columns.append(simulator.draw(50, seed=1)[:, 0])
    assert len(torch.stack(columns).unique(dim=0)) == len(columns)


def test_a_context_may_be_spelt_in_any_way_and_an_unknown_one_is_an_error():
    simulator = Patches()
    assert torch.equal(simulator.draw(3, "b+a"), simulator.draw(3, ["a", "b"]))
    assert torch.equal(simulator.draw(3), simulator.draw(3, []))
    with pytest.raises(ConceptError, match="unknown concept 'c'"):  # a factor that is never intervened on
        simulator.draw(3, "c")


def test_the_parts_hold_what_they_say():
    simulator = Patches()
    data = made(simulator)
    assert data.train.context_names == data.test.context_names == ("obs", "a", "b")
    assert data.held_out.context_names == ("a+b",)
    assert [len(part) for part in (data.train, data.held_out, data.test)] == [15, 3, 6]
    assert data.graph == ()
    assert data.simulator is simulator
    for part, test in ((data.train, False), (data.held_out, False), (data.test, True)):
        assert part.factor_names == ("c", "a", "b")
        for label, context in enumerate(part.context_names):
            found = part.factors[part.labels == label]
            assert torch.equal(found, simulator.draw(len(found), context, test=test))
            assert torch.equal((part.select(context) * 255).round().byte(), simulator.render(found))


@pytest.mark.parametrize("counts", [{"n": 0}, {"n": -1}, {"held_out": -1}, {"test": -2}])
def test_bad_counts_are_refused(counts):
    with pytest.raises(DataError, match="samples_per_context must be at least 1, held_out_samples and test_samples"):
        made(**counts)


# --- the cache ---------------------------------------------------------------------------------------------------


def test_cached_images_are_the_same_bits_and_are_rendered_once(tmp_path):
    memory, first, again = Patches(), Patches(), Patches()
    expected = made(memory)
    assert memory.rendered == 15 + 3 + 6
    for simulator in (first, again):
        data = made(simulator, cache_dir=tmp_path / "new" / "folder")
        for name in ("train", "held_out", "test"):
            part, kept = getattr(data, name), getattr(expected, name)
            assert torch.equal(images(part), images(kept))
            assert torch.equal(part.factors, kept.factors)
    assert (first.rendered, again.rendered) == (24, 0)
    made(again, n=6, cache_dir=tmp_path / "new" / "folder")
    assert again.rendered == 18  # of the training part alone


def test_a_chunk_of_images_is_rendered_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("context_module.data.simulated._CHUNK", 4)
    assert torch.equal(images(made(cache_dir=tmp_path).train), images(made().train))


def test_what_images_depend_on_is_in_the_name_of_their_file(tmp_path):
    seen = set()
    for gain, seed in ((1.0, 0), (0.5, 0), (1.0, 1)):
        simulator = Patches(gain)
        data = made(simulator, held_out=0, test=0, seed=seed, cache_dir=tmp_path)
        assert simulator.rendered == 15
        assert torch.equal(images(data.train), images(made(Patches(gain), held_out=0, test=0, seed=seed).train))
        seen |= {path.name for path in tmp_path.glob("patches-*.npy")}
    assert len(seen) == 3
    described = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert sorted(one["settings"]["gain"] for one in described) == [0.5, 1.0, 1.0]
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


def test_cached_data_pickles_without_its_images(tmp_path):
    counts = {"n": 4_000, "held_out": 0, "test": 0}
    mapped, memory = (made(cache_dir=folder, **counts) for folder in (tmp_path, None))
    spared = len(pickle.dumps(memory.train)) - len(pickle.dumps(mapped.train))
    assert spared > 0.9 * 12_000 * 4
    assert torch.equal(images(pickle.loads(pickle.dumps(mapped)).train), images(memory.train))


@pytest.mark.parametrize("kept", [0.5, 0.01, 0])
def test_a_truncated_file_is_made_anew(tmp_path, kept):
    made(held_out=0, test=0, cache_dir=tmp_path)
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged: making it anew"):
        again = made(held_out=0, test=0, cache_dir=tmp_path)
    assert torch.equal(again.train.first(3), made(held_out=0, test=0).train.first(3))


def test_a_render_that_fails_leaves_no_file(tmp_path):
    class Failing(Patches):
        def render(self, factors):
            raise RuntimeError("no ink")

    with pytest.raises(RuntimeError, match="no ink"):
        made(Failing(), cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


# --- the contract ------------------------------------------------------------------------------------------------


def test_by_default_nothing_follows_an_intervention():
    simulator = Patches()
    factors = simulator.draw(4)
    kept = factors.clone()
    changed = simulator.counterfactual(factors, {"b": torch.arange(4)})  # of another dtype
    assert changed[:, 2].tolist() == [0, 1, 2, 3]
    assert torch.equal(changed[:, :2], factors[:, :2])
    assert torch.equal(factors, kept)  # not in place


# every simulator of the package, with all causal edges among its factors; a new one gets all tests below by a row here
SIMULATORS = {
    "quad": (lambda: QuadSimulator(resolution=16), ()),
    "quad_dependent": (lambda: QuadSimulator("dependent", 16), tuple(_EDGES)),
    "dsprites": (lambda: DSpritesSimulator(32), ()),
    "pendulum": (
        lambda: PendulumSimulator(16, corruption=0.3, background_correlation=0.8),
        [(cause, effect) for cause in ("pendulum", "light", "corrupted") for effect in ("length", "position")],
    ),
}


@pytest.fixture(params=SIMULATORS)
def simulator(request):
    return SIMULATORS[request.param][0]()


def descendants(edges, factor):
    found, grown = {factor}, True
    while grown:
        new = {effect for cause, effect in edges if cause in found} - found
        found, grown = found | new, bool(new)
    return found


def test_names_are_consistent(simulator):
    assert isinstance(simulator.concepts, Concepts)
    assert set(simulator.concepts) <= set(simulator.factor_names)
    assert len(set(simulator.factor_names)) == len(simulator.factor_names)
    held_out = [simulator.concepts.name(composition) for composition in simulator.compositions]
    assert held_out == list(simulator.compositions)  # they parse, and are spelt canonically
    assert not set(held_out) & set(simulator.concepts.training_contexts)
    assert {concept for edge in simulator.graph for concept in edge} <= set(simulator.concepts)
    assert {simulator.target, simulator.spurious} <= {*simulator.factor_names, None}
    assert json.loads(json.dumps(simulator.settings())) is not None


def test_draws_are_rows_of_factors(simulator):
    for context in (*simulator.concepts.training_contexts, *simulator.compositions):
        factors = simulator.draw(20, context)
        assert factors.shape == (20, len(simulator.factor_names))
        assert factors.dtype == torch.float32
        assert torch.equal(factors[:7], simulator.draw(7, context))
        assert not torch.equal(factors, simulator.draw(20, context, test=True))


def test_rendering_is_a_function_of_each_row_alone(simulator):
    factors = torch.cat([simulator.draw(30, context) for context in simulator.concepts.training_contexts])
    before = factors.clone()
    rendered = simulator.render(factors)
    assert torch.equal(factors, before)
    assert rendered.shape == (len(factors), *simulator.image_shape)
    assert rendered.dtype == torch.uint8
    # one grey level is forgiven: a vector's and a single number's cosine may differ in the last bit
    order = torch.randperm(len(factors), generator=seeded(0))
    assert (simulator.render(factors[order]).int() - rendered[order].int()).abs().max() <= 1
    alone = torch.cat([simulator.render(factors[i : i + 1]) for i in range(0, len(factors), 7)])
    assert (alone.int() - rendered[::7].int()).abs().max() <= 1
    assert simulator.render(factors[:0]).shape == (0, *simulator.image_shape)


def test_interventions_show(simulator):
    for concept in simulator.concepts:
        observed, intervened = (simulator.draw(200, context) for context in ("obs", concept))
        column = simulator.factor_names.index(concept)
        assert (observed[:, column].mean() - intervened[:, column].mean()).abs() > 0.1 * observed[:, column].std()
        changed = simulator.counterfactual(observed[:50], {concept: intervened[:50, column]})
        differs = (simulator.render(changed) != simulator.render(observed[:50])).flatten(1).any(1)
        assert differs.float().mean() > 0.6  # a turned disc of quad is the same disc


def test_the_counterfactual_without_an_intervention_is_the_fact(simulator):
    for context in simulator.concepts.training_contexts:
        factors = simulator.draw(50, context)
        torch.testing.assert_close(simulator.counterfactual(factors, {}), factors)


def test_a_concept_set_to_what_it_is_changes_nothing(simulator):
    factors = simulator.draw(50)
    for concept in simulator.concepts:
        values = factors[:, simulator.factor_names.index(concept)]
        torch.testing.assert_close(simulator.counterfactual(factors, {concept: values}), factors)


@pytest.mark.parametrize("kind", SIMULATORS)
def test_only_descendants_follow_an_intervention(kind):
    make, edges = SIMULATORS[kind]
    simulator = make()
    names = simulator.factor_names
    assert set(simulator.graph) == {edge for edge in edges if set(edge) <= set(simulator.concepts)}
    factors = simulator.draw(50)
    for concept in simulator.concepts:
        values = simulator.draw(50, concept)[:, names.index(concept)]
        changed = simulator.counterfactual(factors, {concept: values})
        torch.testing.assert_close(changed[:, names.index(concept)], values)
        follow = descendants(edges, concept)
        stay = [i for i, name in enumerate(names) if name not in follow]
        torch.testing.assert_close(changed[:, stay], factors[:, stay])
        for name in follow - {concept}:  # and every one of them does, in some images
            assert (changed - factors)[:, names.index(name)].abs().max() > 1e-3
