"""Distances with known values, and their intervals against the plain bootstrap."""

import math

import ot
import pytest
import torch

from context_module.errors import DataError, ShapeError
from context_module.metrics import bootstrap, sliced_wasserstein
from helpers.draws import uniform


def test_equal_sets_are_at_distance_zero():
    a = uniform(10, 3, 4, 4)
    assert sliced_wasserstein(a, a).value == 0
    assert sliced_wasserstein(a, a.flip(0)).value == pytest.approx(0, abs=1e-6)


def test_symmetric():
    a, b = uniform(10, 1, 4, 4), uniform(10, 1, 4, 4, seed=1)
    assert sliced_wasserstein(a, b).value == pytest.approx(sliced_wasserstein(b, a).value)


def test_seed_decides_and_the_global_state_is_left_alone():
    a, b, state = uniform(10, 1, 4, 4), uniform(10, 1, 4, 4, seed=1), torch.get_rng_state()
    assert sliced_wasserstein(a, b, seed=3) == sliced_wasserstein(a, b, seed=3)
    assert sliced_wasserstein(a, b, seed=3).value != sliced_wasserstein(a, b, seed=4).value
    assert torch.equal(torch.get_rng_state(), state)


def test_value_is_that_of_pot():
    a, b = uniform(12, 3, 4, 4), uniform(15, 3, 4, 4, seed=1)
    flat = a.flatten(1).numpy(), b.flatten(1).numpy()
    expected = float(ot.sliced_wasserstein_distance(*flat, n_projections=70, seed=2))
    assert sliced_wasserstein(a, b, projections=70, seed=2).value == pytest.approx(expected, rel=1e-5)


def test_one_dimension_is_exact():
    """There the only direction is the line itself: the 2-Wasserstein distance of sorted values."""
    a, b = uniform(10, 1, 1, 1), uniform(10, 1, 1, 1, seed=1)
    expected = (a.flatten().sort().values - b.flatten().sort().values).square().mean().sqrt().item()
    assert sliced_wasserstein(a, b).value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("d", [2, 16])
def test_a_shift_by_v_is_its_length_over_root_d(d):
    a = uniform(20, 1, 1, d)
    shift = torch.zeros(d)
    shift[0] = 0.7
    distance = sliced_wasserstein(a, a + shift, projections=5000, resamples=2)
    assert distance.value == pytest.approx(0.7 / math.sqrt(d), rel=0.05)


def test_two_point_masses_leave_no_doubt():
    a, b = torch.zeros(10, 1, 2, 2), torch.full((14, 1, 2, 2), 0.5)
    distance = sliced_wasserstein(a, b, projections=5000)
    assert distance.value == pytest.approx(1.0 / 2, rel=0.05)
    assert distance.high - distance.low == pytest.approx(0, abs=1e-6)
    assert distance.samples == 10


@pytest.mark.parametrize("m", [14, 21, 35])
def test_interval_is_that_of_the_plain_bootstrap(m):
    a, b = uniform(14, 1, 3, 3), uniform(m, 1, 3, 3, seed=1) ** 2
    _, log = ot.sliced_wasserstein_distance(
        a.flatten(1).numpy(), b.flatten(1).numpy(), n_projections=20, seed=4, log=True
    )

    def distance(a, b):
        return ot.sliced_wasserstein_distance(
            a.flatten(1).numpy().astype(float), b.flatten(1).numpy().astype(float), projections=log["projections"]
        )

    fast = sliced_wasserstein(a, b, projections=20, seed=4, resamples=20)
    slow = bootstrap(distance, a, b, seed=4, resamples=20)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high), rel=1e-4)


def test_interval_from_the_first_directions_is_as_wide_as_from_all():
    a, b = uniform(100, 3, 4, 4), uniform(100, 3, 4, 4, seed=1) ** 2
    few, many = (sliced_wasserstein(a, b, projections=n, resamples=400) for n in (50, 400))
    assert few.high - few.low == pytest.approx(many.high - many.low, rel=0.25)


def test_interval_holds_the_truth_in_most_repetitions():
    """A shift along the line, large beside the floor: the distance is the shift."""
    hits = 0
    for seed in range(50):
        a, b = uniform(100, 1, 1, 1, seed=seed), uniform(100, 1, 1, 1, seed=100 + seed) + 1
        estimate = sliced_wasserstein(a, b, projections=1, resamples=50)
        hits += estimate.low < 1 < estimate.high
    assert hits >= 43


def test_interval_shrinks_with_the_root_of_the_samples():
    def width(n):
        a, b = uniform(n, 1, 2, 2), uniform(n, 1, 2, 2, seed=1) + 1
        estimate = sliced_wasserstein(a, b, projections=20, resamples=300)
        return estimate.high - estimate.low

    assert width(50) / width(800) == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize(("a", "b"), [((10, 1, 2, 2), (10, 3, 2, 2)), ((10,), (10,))])
def test_shapes_that_do_not_fit(a, b):
    with pytest.raises(ShapeError, match="two sets of images .* of one shape are needed, got"):
        sliced_wasserstein(torch.zeros(a), torch.zeros(b))


def test_refuses_what_has_no_interval():
    for sizes in ((9, 12), (12, 9)):
        with pytest.raises(DataError, match="needs at least 10 items, got 9"):
            sliced_wasserstein(*(uniform(n, 1, 2, 2) for n in sizes))
    with pytest.raises(ValueError, match="at least 2 resamples, got 0"):
        sliced_wasserstein(uniform(10, 1, 2, 2), uniform(10, 1, 2, 2), resamples=0)
    with pytest.raises(ValueError, match="projections must be at least 1, got 0"):
        sliced_wasserstein(uniform(10, 1, 2, 2), uniform(10, 1, 2, 2), projections=0)


def test_refuses_values_that_are_not_finite():
    bad = uniform(10, 1, 2, 2)
    bad[4, 0, 1, 1] = math.nan
    with pytest.raises(DataError, match="1 of the 10 items of the second set hold NaN or infinite values"):
        sliced_wasserstein(uniform(10, 1, 2, 2), bad)
