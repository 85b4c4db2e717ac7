import itertools
import math

import pytest
import torch

from context_module.data import load_data
from context_module.data.pendulum import (
    CONCEPTS,
    CORRUPTED_RANGES,
    FACTORS,
    PAIRS,
    RANGES,
    PendulumSimulator,
    pendulum,
    render,
    shadow,
    shift_environments,
)
from context_module.errors import DataError, ShapeError

INDEX = {name: i for i, name in enumerate(FACTORS)}
WHITE, BLUE, BLACK = [255, 255, 255], [100, 150, 255], [0, 0, 0]
FIREBRICK, ORANGE = [178, 34, 34], [255, 165, 0]


def scenes(n: int = 1, **factors) -> torch.Tensor:
    """Factors (n, 6), the shadow as the angles throw it unless told otherwise."""
    columns = {
        name: torch.as_tensor(factors.get(name, default), dtype=torch.float32).expand(n)
        for name, default in (("pendulum", 20.0), ("light", 60.0), ("corrupted", 0.0), ("background", 0.0))
    }
    columns["length"], columns["position"] = shadow(columns["pendulum"], columns["light"])
    given = {name: factors[name] for name in ("length", "position") if name in factors}
    columns.update({name: torch.as_tensor(value).expand(n) for name, value in given.items()})
    return torch.stack([columns[name] for name in FACTORS], dim=1)


def at(image: torch.Tensor, x: float, y: float) -> list[int]:
    """The colour of an image (3, R, R) at a point of the canvas."""
    resolution = image.shape[-1]
    return image[:, int((21 - y) / 22 * resolution), int(x / 20 * resolution)].tolist()


def grid_of_angles(pendulum_range, light_range):
    axes = [torch.arange(low, high + 0.25, 0.5) for low, high in (pendulum_range, light_range)]
    return [angles.flatten() for angles in torch.meshgrid(*axes, indexing="ij")]


def draw(n, context="obs", *, seed=0, **options):
    return PendulumSimulator(16, **options).draw(n, context, seed=seed)


# --- physics -----------------------------------------------------------------------------------------------------


def test_shadows_by_hand():
    for angle, light, length, position in [
        (0, 45, 9.5, 3.75),  # pivot's at 10 - 11, tip's at 10 - 1.5
        (0, 135, 9.5, 16.25),
        (0, 90, 2.0, 10.0),  # shorter than the shortest
        (30, 90, 4.75, 12.375),  # straight from above
        (-30, 90, 4.75, 7.625),
        (45, 45, 9.5 * math.sqrt(2), -1 + 9.5 / math.sqrt(2)),
        (-45, 45, 2.0, -1.0),  # along the light
    ]:
        found = shadow(torch.tensor([float(angle)]), torch.tensor([float(light)]))
        assert [value.item() for value in found] == pytest.approx([length, position], abs=1e-5)


def test_observational_shadows_have_the_known_moments():
    angles = grid_of_angles(RANGES["pendulum"][0], RANGES["light"][0])
    assert len(angles[0]) == 82 * 82
    length, position = (values.double() for values in shadow(*angles))
    assert (length.min(), length.max()) == pytest.approx((2, 12.67), abs=0.005)
    assert (length.mean(), length.std()) == pytest.approx((6.905, 2.631), abs=5e-4)
    assert (position.min(), position.max()) == pytest.approx((4.37, 12.89), abs=0.005)
    assert (position.mean(), position.std()) == pytest.approx((8.821, 1.831), abs=5e-4)


@pytest.mark.parametrize(("swung", "lit"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_every_shadow_that_follows_is_in_the_picture(swung, lit):
    length, position = shadow(*grid_of_angles(RANGES["pendulum"][swung], RANGES["light"][lit]))
    assert (position - length / 2).min() >= 0
    assert (position + length / 2).max() <= 20


def test_interventional_ranges_are_never_observed():
    observed = dict(zip(CONCEPTS[:2], [RANGES[name][0] for name in CONCEPTS[:2]], strict=True))
    shadows = shadow(*grid_of_angles(*observed.values()))
    observed |= {name: (values.min(), values.max()) for name, values in zip(CONCEPTS[2:], shadows, strict=True)}
    for name, (low, high) in observed.items():
        do_low, do_high = RANGES[name][1]
        assert do_low < do_high
        assert do_high < low or high < do_low


# --- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [32, 64, 96])
@pytest.mark.parametrize(("angle", "light"), [(0, 88.5), (40.5, 48), (-30, 60), (20, 125)])
def test_everything_is_at_its_place(resolution, angle, light):
    image = render(scenes(pendulum=angle, light=light), resolution)[0]
    assert image.shape == (3, resolution, resolution)
    assert image.dtype == torch.uint8
    sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    assert at(image, 10 + 8 * sin, 10.5 - 8 * cos) == FIREBRICK
    assert at(image, 10 + 10 / math.tan(math.radians(light)), 20) == ORANGE
    assert max(at(image, 10 + 3 * sin, 10.5 - 3 * cos)) < 128  # the rod
    assert min(at(image, 10 - 2 * sin, 10.5 + 2 * cos)) > 250  # none above the pivot
    length, position = (value.item() for value in shadow(torch.tensor(angle), torch.tensor(light)))
    assert max(at(image, position, -0.5)) < 128
    for end in (position - length / 2 - 1, position + length / 2 + 1):
        assert min(at(image, min(max(end, 0), 19.9), -0.5)) > 250 or not 0 < end < 20


def test_colours_and_background():
    for background, colour in enumerate((WHITE, BLUE)):
        image = render(scenes(background=background, light=48.0))[0]
        assert at(image, 1, 12) == colour
        assert at(image, 18.5, 20) == ORANGE
        assert at(image, scenes(light=48.0)[0, INDEX["position"]].item(), -0.5) == BLACK


@pytest.mark.parametrize("resolution", [16, 64, 100])
def test_the_shadow_covers_its_length(resolution):
    lengths = torch.tensor([0.5, 1.3, 2.0, 7.7, 12.0])
    images = render(scenes(5, length=lengths, position=10.0), resolution)
    rows = images[:, 0, int(20.9 / 22 * resolution) :].float()  # below the ball
    area = (1 - rows / 255).sum((1, 2)) * (20 / resolution) * (22 / resolution)
    torch.testing.assert_close(area, lengths * 0.8, rtol=0.02, atol=0)
    dark = (1 - rows / 255).sum(1)
    middle = (dark * (torch.arange(resolution) + 0.5)).sum(1) / dark.sum(1) * 20 / resolution
    torch.testing.assert_close(middle, torch.full((5,), 10.0), rtol=0, atol=0.02)


def test_ball_and_sun_have_their_areas():
    image = render(scenes(pendulum=0.0, light=75.0), 220)[0].float()  # 11 x 10 pixels a unit
    lower_half = (255 - image[1, 185:208]).sum() / (255 - FIREBRICK[1]) / 110  # no rod there, and no shadow
    assert lower_half == pytest.approx(math.pi * 1.5**2 / 2, rel=0.01)
    covered = (255 - image[2, :60]) / 255
    sun = covered.sum() / 110
    cut = 9 * math.acos(0.5 / 3) - 0.5 * math.sqrt(9 - 0.25)  # above the canvas's upper edge
    assert sun == pytest.approx(math.pi * 9 - cut, rel=0.01)
    middle = (covered.sum(0) * (torch.arange(220) + 0.5) / 11).sum() / covered.sum()
    assert middle == pytest.approx(10 + 10 / math.tan(math.radians(75)), abs=0.01)


def test_a_picture_mirrored_is_that_of_mirrored_angles():
    here, there = render(scenes(2, pendulum=torch.tensor([25.0, -25.0]), light=torch.tensor([55.0, 125.0])))
    assert (here.int() - there.flip(2).int()).abs().max() <= 1


def test_corrupted_is_not_drawn_itself():
    assert torch.equal(render(scenes(corrupted=0.0)), render(scenes(corrupted=1.0)))


def test_render_refuses_what_is_no_picture():
    with pytest.raises(ShapeError, match=r"must have shape \(n, 6\) for pendulum, light.*got \(2, 4\)"):
        render(torch.zeros(2, 4))
    for bad in ({"light": 0.0}, {"light": 180.0}, {"pendulum": math.nan}, {"background": 2.0}, {"length": math.inf}):
        with pytest.raises(ShapeError, match="light strictly between 0 and 180 degrees"):
            render(scenes(**bad))
    with pytest.raises(ShapeError, match="at least 16 pixels to show the shadow, got 8"):
        render(scenes(), 8)


# --- contexts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [*CONCEPTS.training_contexts, *PAIRS])
def test_interventions_set_their_targets_and_shadows_follow(context):
    sample = draw(4_000, context)
    intervened = CONCEPTS.parse(context)
    physical = dict(zip(("length", "position"), shadow(sample[:, 0], sample[:, 1]), strict=True))
    for name in CONCEPTS:
        column = sample[:, INDEX[name]]
        if name in physical and name not in intervened:
            assert torch.equal(column, physical[name])
            continue
        low, high = RANGES[name][name in intervened]
        assert low <= column.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < column.max() <= high
        assert column.mean() == pytest.approx((low + high) / 2, abs=0.025 * (high - low))
        if name not in physical:
            assert torch.equal(column * 2, (column * 2).round())  # in steps of 0.5
            assert len(column.unique()) == 2 * (high - low) + 1
    assert sample[:, 4:].abs().max() == 0  # none corrupted, all white


@pytest.mark.parametrize("context", ["obs", "light", "length", "length+position"])
def test_corrupted_shadows_follow_nothing(context):
    sample = draw(8_000, context, corruption=0.2)
    corrupted = sample[:, INDEX["corrupted"]] == 1
    assert corrupted.float().mean() == pytest.approx(0.2, abs=0.015)
    physical = shadow(sample[:, 0], sample[:, 1])
    for name, values in zip(("length", "position"), physical, strict=True):
        column = sample[:, INDEX[name]]
        if name in context:
            low, high = RANGES[name][1]
            assert ((column >= low) & (column <= high)).all()
            continue
        assert torch.equal(column[~corrupted], values[~corrupted])
        low, high = CORRUPTED_RANGES[name]
        assert low <= column[corrupted].min() < column[corrupted].max() <= high
        assert column[corrupted].mean() == pytest.approx((low + high) / 2, abs=0.5)
        assert torch.stack([column[corrupted], values[corrupted]]).corrcoef()[0, 1].abs() < 0.1
    others = draw(8_000, context)
    assert torch.equal(sample[~corrupted], others[~corrupted])  # corruption changes no other image


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 1.0])
def test_the_background_goes_with_corruption_as_told(rho):
    sample = draw(8_000, corruption=0.4, background_correlation=rho)
    corrupted, blue = (sample[:, INDEX[name]] for name in ("corrupted", "background"))
    assert blue[corrupted == 1].mean() == pytest.approx(rho, abs=0.03)
    assert 1 - blue[corrupted == 0].mean() == pytest.approx(rho, abs=0.03)


def test_what_options_change_is_only_theirs():
    plain, blue = draw(50), draw(50, background_correlation=0.0)
    assert torch.equal(plain[:, :5], blue[:, :5])
    assert (plain[:, 5] == 0).all()
    assert (blue[:, 5] == 1).all()  # none is corrupted
    assert torch.equal(draw(50, corruption=0.3)[:9], draw(9, corruption=0.3))


# --- counterfactuals ---------------------------------------------------------------------------------------------


def test_shadows_follow_new_angles_unless_they_are_corrupted():
    simulator = PendulumSimulator(16, corruption=0.5, background_correlation=0.8)
    factors = simulator.draw(200)
    corrupted = factors[:, INDEX["corrupted"]] == 1
    angle = torch.linspace(-30, -5, 200)
    changed = simulator.counterfactual(factors, {"pendulum": angle})
    assert torch.equal(changed[:, 0], angle)
    assert torch.equal(changed[:, [1, 4, 5]], factors[:, [1, 4, 5]])
    assert torch.equal(changed[~corrupted, 2:4], torch.stack(shadow(angle, factors[:, 1]), 1)[~corrupted])
    assert torch.equal(changed[corrupted, 2:4], factors[corrupted, 2:4])
    by_chance = scenes(corrupted=1.0)  # corrupted, and as the angles would have it
    assert torch.equal(simulator.counterfactual(by_chance, {"light": torch.tensor([80.0])})[:, 2:4], by_chance[:, 2:4])
    both = simulator.counterfactual(factors, {"pendulum": angle, "light": torch.full((200,), 110.0)})
    assert torch.equal(both[~corrupted, 2:4], torch.stack(shadow(both[:, 0], both[:, 1]), 1)[~corrupted])


def test_an_intervention_on_a_shadow_cuts_its_mechanism():
    simulator = PendulumSimulator(16)
    factors, length, light = simulator.draw(50), torch.full((50,), 1.0), torch.full((50,), 110.0)
    at_once = simulator.counterfactual(factors, {"length": length, "light": light})
    assert torch.equal(at_once[:, 2], length)
    assert torch.equal(at_once[:, 3], shadow(factors[:, 0], light)[1])
    one_by_one = simulator.counterfactual(simulator.counterfactual(factors, {"length": length}), {"light": light})
    assert torch.equal(at_once, one_by_one)
    drawn = simulator.draw(50, "length")  # an intervention when the image was made
    assert torch.equal(simulator.counterfactual(drawn, {"light": light})[:, 2], drawn[:, 2])


def test_there_and_back_is_the_identity():
    simulator = PendulumSimulator(16, corruption=0.3)
    factors = simulator.draw(100)
    away = simulator.counterfactual(factors, {"pendulum": factors[:, 0] - 40, "light": factors[:, 1] + 50})
    assert not torch.equal(away, factors)
    assert torch.equal(simulator.counterfactual(away, {"pendulum": factors[:, 0], "light": factors[:, 1]}), factors)


# --- data sets ---------------------------------------------------------------------------------------------------


def test_pendulum_data():
    data = pendulum(resolution=16, samples_per_context=6, held_out_samples=3, test_samples=2, corruption=0.3)
    assert data.concepts == ["pendulum", "light", "length", "position"]
    assert data.train.context_names == ("obs", *data.concepts)
    assert data.held_out.context_names == PAIRS == tuple(map("+".join, itertools.combinations(CONCEPTS, 2)))
    assert (len(data.train), len(data.held_out), len(data.test)) == (30, 18, 10)
    assert data.train.image_shape == (3, 16, 16)
    assert set(data.graph) == {(cause, effect) for cause in CONCEPTS[:2] for effect in CONCEPTS[2:]}
    assert (data.simulator.target, data.simulator.spurious) == ("corrupted", "background")
    factors = draw(6, "light", corruption=0.3)
    assert torch.equal(data.train.factors[data.train.labels == 2], factors)
    assert torch.equal((data.train.select("light") * 255).round().to(torch.uint8), render(factors, 16))


def test_same_seed_same_bits():
    a, b, other = (pendulum(resolution=16, samples_per_context=5, held_out_samples=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.train.select("obs"), b.train.select("obs"))
    assert torch.equal(a.held_out.factors, b.held_out.factors)
    assert not torch.equal(a.train.factors, other.train.factors)


def test_load_data_by_name():
    few = {"resolution": 16, "samples_per_context": 20, "held_out_samples": 1, "corruption": 0.5}
    assert torch.equal(load_data("pendulum", seed=3, **few).train.factors, pendulum(seed=3, **few).train.factors)


def test_shifted_environments():
    train, test = shift_environments(3_000, 2_000, corruption=0.4, test_rho=0.2, resolution=16)
    for part, n, rho in ((train, 3_000, 0.8), (test, 2_000, 0.2)):
        assert len(part) == n
        assert part.context_names == ("obs",)
        assert part.concepts == CONCEPTS
        corrupted, blue = (part.factors[:, part.factor_names.index(name)] for name in ("corrupted", "background"))
        assert corrupted.mean() == pytest.approx(0.4, abs=0.04)
        assert (corrupted == blue).float().mean() == pytest.approx(rho, abs=0.04)
        assert part[5]["x"].shape == (3, 16, 16)
        assert torch.equal((part.select("obs", 9) * 255).round().to(torch.uint8), render(part.factors[:9], 16))
    assert not torch.equal(train.factors[:100, :2], test.factors[:100, :2])  # other scenes, not only backgrounds


def test_shifted_environments_are_determined_by_the_seed_and_test_without_correlation():
    parts = [shift_environments(20, 4_000, resolution=16, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(parts[0][0].factors, parts[1][0].factors)
    assert not torch.equal(parts[0][0].factors, parts[2][0].factors)
    corrupted, blue = parts[0][1].factors[:, 4:].T
    assert corrupted.mean() == pytest.approx(0.2, abs=0.03)
    assert (corrupted == blue).float().mean() == pytest.approx(0.5, abs=0.03)


def test_refuses_bad_options():
    with pytest.raises(DataError, match="got 0, 5 and 0"):
        pendulum(samples_per_context=0, held_out_samples=5)
    with pytest.raises(ShapeError, match="at least 16 pixels .* got 15"):
        pendulum(resolution=15)
    for value in (-0.1, 1.1, math.nan):
        with pytest.raises(DataError, match=rf"corruption must be a probability in \[0, 1\], got {value}"):
            pendulum(corruption=value)
        with pytest.raises(DataError, match=r"background_correlation must be a probability"):
            shift_environments(1, 1, test_rho=value)
    with pytest.raises(DataError, match="n_train and n_test must be at least 1, got 0 and 1"):
        shift_environments(0, 1)
