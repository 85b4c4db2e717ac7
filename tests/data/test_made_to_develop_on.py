"""The three simulators that defaults are chosen on: still lifes, cartoons and the chase."""

import pytest
import torch

from context_module.data import load_data
from context_module.data.canvas import Canvas, box, disc, hue
from context_module.data.cartoon import CartoonSimulator
from context_module.data.chase import ChaseSimulator
from context_module.data.still_life import StillLifeSimulator
from context_module.errors import ShapeError

SIMULATORS = {"still_life": StillLifeSimulator, "cartoon": CartoonSimulator, "chase": ChaseSimulator}


@pytest.fixture(params=SIMULATORS)
def simulator(request):
    return SIMULATORS[request.param](32)


def column(simulator, factors, name):
    return factors[:, simulator.factor_names.index(name)]


def varied(simulator, factors, name, n=3):
    """Pictures of one scene in which one factor takes n of the values that it has."""
    scene = factors[:1].repeat(n, 1)
    scene[:, simulator.factor_names.index(name)] = (
        column(simulator, factors, name).sort().values[:: len(factors) // n][:n]
    )
    return simulator.render(scene)


@pytest.mark.parametrize("name", SIMULATORS)
def test_data(name):
    data = load_data(name, resolution=16, samples_per_context=3, held_out_samples=2, test_samples=1)
    concepts = data.concepts
    assert data.train.context_names == ("obs", *concepts)
    assert len(data.train) == 3 * (1 + len(concepts))
    assert len(data.held_out.context_names) == len(concepts) * (len(concepts) - 1) // 2
    assert data.train.image_shape == (3, 16, 16)
    assert data.train.factor_names == data.simulator.factor_names
    assert data.graph == data.simulator.graph
    again = load_data(name, resolution=16, samples_per_context=3, held_out_samples=0)
    assert torch.equal(again.train[5]["x"], data.train[5]["x"])


def test_the_picture_shows_every_factor(simulator):
    factors = torch.cat([simulator.draw(100, context) for context in simulator.concepts.training_contexts])
    for name in simulator.factor_names:
        pictures = varied(simulator, factors, name).float()
        assert (pictures[0] - pictures[-1]).abs().amax() > 20, name


def test_a_picture_does_not_depend_on_the_batch(simulator):
    factors = simulator.draw(70)
    assert torch.equal(simulator.render(factors)[65:], simulator.render(factors[65:]))


def test_an_intervention_moves_its_concept_and_what_descends_from_it(simulator):
    usual = simulator.draw(4000)
    for concept in simulator.concepts:
        forced = simulator.draw(4000, concept)
        reached = {concept}
        for _ in simulator.concepts:
            reached |= {effect for cause, effect in simulator.graph if cause in reached}
        for name in simulator.factor_names:
            before, after = column(simulator, usual, name), column(simulator, forced, name)
            shift = (after.mean() - before.mean()).abs() / before.std()
            assert (shift > 0.25) == (name in reached), (concept, name)


def test_an_intervention_cuts_causes():
    simulator = ChaseSimulator(16)
    hare, fox = (column(simulator, simulator.draw(2000, "fox"), name) for name in ("hare", "fox"))
    assert torch.corrcoef(torch.stack([hare, fox]))[0, 1].abs() < 0.1
    hare, fox = (column(simulator, simulator.draw(2000), name) for name in ("hare", "fox"))
    assert torch.corrcoef(torch.stack([hare, fox]))[0, 1] > 0.8


def test_attributes_come_together_by_a_hidden_cause():
    simulator = CartoonSimulator(16)
    usual = simulator.draw(4000)[:, :3]
    assert torch.corrcoef(usual.mT)[0, 1:].min() > 0.08
    forced = simulator.draw(4000, "hat")
    assert (forced[:, 0] == 1).all()
    assert (forced[:, 1:3].mean(0) - usual[:, 1:].mean(0)).abs().max() < 0.05


def test_counterfactuals_keep_what_does_not_descend():
    simulator = StillLifeSimulator(16)
    factors = simulator.draw(200)
    same = simulator.counterfactual(factors, {"vase": column(simulator, factors, "vase")})
    torch.testing.assert_close(same, factors)
    taller = simulator.counterfactual(factors, {"vase": torch.full((200,), 0.41)})
    flowers, petals = (column(simulator, taller - factors, name) for name in ("flowers", "petals"))
    assert (flowers >= 0).all()
    assert flowers.max() >= 2
    torch.testing.assert_close(petals, 0.1 * flowers, atol=1e-5, rtol=0)
    assert torch.equal(column(simulator, taller, "bloom"), column(simulator, factors, "bloom"))
    both = simulator.counterfactual(factors, {"vase": torch.full((200,), 0.41), "flowers": torch.zeros(200)})
    assert (column(simulator, both, "flowers") == 0).all()


def test_flowers_are_counted():
    simulator = StillLifeSimulator(16)
    counts = torch.cat([column(simulator, simulator.draw(500, context), "flowers") for context in ("obs", "flowers")])
    assert counts.unique().tolist() == [0, 1, 2, 3, 4, 5]


def test_the_canvas():
    canvas = Canvas(2, 20)
    canvas.paint(disc(canvas, 0.25, torch.tensor([0.75, 0.25]), 0.2), (1.0, 0.0, 0.0))
    assert canvas.picture[0, :, 5, 5].tolist() == [1, 0, 0]  # above the middle
    assert canvas.picture[1, :, 15, 5].tolist() == [1, 0, 0]
    canvas.paint(box(canvas, 0.5, 0.5, 1, 1), (0.0, 0.0, 1.0), torch.tensor([0.0, 1.0]))
    assert canvas.picture[0, :, 5, 5].tolist() == [1, 0, 0]
    assert canvas.picture[1, :, 15, 5].tolist() == [0, 0, 1]
    torch.testing.assert_close(
        hue(torch.tensor([0.0, 0.4, 1.0])),
        torch.eye(3)[[0, 1, 0]].double() + torch.tensor([[0, 0, 0.0], [0, 0, 0], [0, 0, 1]]),
    )


def test_refuses(simulator):
    with pytest.raises(ShapeError, match="resolution must be at least 16 pixels to show what is in a picture, got 8"):
        type(simulator)(8)
    with pytest.raises(ShapeError, match=r"factors must have shape \(n, \d\) for .*: \(2, 3\)"):
        simulator.render(torch.zeros(2, 3))
    factors = simulator.draw(2)
    factors[1, 0] = torch.nan
    with pytest.raises(ShapeError, match="factors must be finite to be drawn"):
        simulator.render(factors)
