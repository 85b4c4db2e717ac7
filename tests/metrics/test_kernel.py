"""MMD and energy distance against closed forms and brute force."""

import math

import pytest
import torch

from context_module.errors import DataError, ShapeError
from context_module.metrics import bootstrap_indices, energy_distance, mmd
from helpers.draws import normal

DISTANCES = pytest.mark.parametrize("distance", [lambda a, b, **k: mmd(a, b, bandwidth=1.0, **k), energy_distance])


def gaussian_mmd(shift, bandwidth=1.0):
    """Of N(0, 1) and N(shift, 1) on a line."""
    s = bandwidth**2
    return 2 * math.sqrt(s / (s + 2)) * (1 - math.exp(-(shift**2) / (2 * (s + 2))))


def gaussian_energy(shift):
    """The same: x - y is N(-shift, 2), and |x - y| folded normal."""
    between = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    return 2 * between - 4 / math.sqrt(math.pi)


def test_two_point_masses():
    a, b = torch.zeros(10, 1, 2, 2), torch.full((12, 1, 2, 2), 0.5)  # at distance 1
    assert energy_distance(a, b).value == pytest.approx(2)
    assert mmd(a, b, bandwidth=0.5).value == pytest.approx(2 - 2 * math.exp(-2))
    assert mmd(a, b).value == pytest.approx(2 - 2 * math.exp(-0.5))  # the median distance is 1
    for estimate in (energy_distance(a, b), mmd(a, b)):
        assert estimate.high - estimate.low == pytest.approx(0, abs=1e-6)
        assert estimate.samples == 10


def test_shifted_gaussians_have_the_closed_form():
    a, b = normal(1000, 1), normal(1000, 1, seed=1) + 1.5
    assert mmd(a, b, bandwidth=0.8).value == pytest.approx(gaussian_mmd(1.5, 0.8), rel=0.05)
    assert energy_distance(a, b).value == pytest.approx(gaussian_energy(1.5), rel=0.05)


def kernel_by_hand(x, y):
    return math.exp(-((x - y) ** 2).sum().item() / 2)


def euclidean_by_hand(x, y):
    return -(x - y).norm().item()


@pytest.mark.parametrize(
    ("distance", "kernel"),
    [(lambda a, b, **k: mmd(a, b, bandwidth=1.0, **k), kernel_by_hand), (energy_distance, euclidean_by_hand)],
)
def test_value_and_interval_by_brute_force(distance, kernel):
    a, b = normal(10, 2), normal(12, 2, seed=1) + 0.5

    def mean(x, y, rows, columns, same):
        pairs = [(i, j) for i in rows.tolist() for j in columns.tolist() if not (same and i == j)]
        return sum(kernel(x[i], y[j]) for i, j in pairs) / len(pairs)

    def by_hand(i, j):  # no item is paired with itself, nor with its copies
        return mean(a, a, i, i, True) + mean(b, b, j, j, True) - 2 * mean(a, b, i, j, False)

    slow = bootstrap_indices(by_hand, (10, 12), resamples=4, seed=3)
    fast = distance(a, b, resamples=4, seed=3)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high), abs=1e-5)


@DISTANCES
def test_zero_on_average_and_within_the_interval_for_one_distribution(distance):
    estimates = [distance(normal(30, 2, seed=seed), normal(30, 2, seed=1000 + seed)) for seed in range(50)]
    values = torch.tensor([each.value for each in estimates])
    assert values.mean().abs() < 3 * values.std() / math.sqrt(50)
    assert values.min() < 0 < values.max()
    assert sum(each.low < 0 < each.high for each in estimates) >= 45


@pytest.mark.parametrize(
    ("distance", "truth"),
    [(lambda a, b: mmd(a, b, bandwidth=1.0, resamples=50), gaussian_mmd(1)),
     (lambda a, b: energy_distance(a, b, resamples=50), gaussian_energy(1))],
)  # fmt: skip
def test_interval_holds_the_truth_in_most_repetitions(distance, truth):
    estimates = [distance(normal(60, 1, seed=seed), normal(60, 1, seed=1000 + seed) + 1) for seed in range(50)]
    assert sum(each.low < truth < each.high for each in estimates) >= 43


@DISTANCES
def test_interval_shrinks_with_the_root_of_the_samples(distance):
    def width(n):
        estimate = distance(normal(n, 1), normal(n, 1, seed=1) + 1, resamples=300)
        return estimate.high - estimate.low

    assert width(40) / width(640) == pytest.approx(4, rel=0.3)


@DISTANCES
def test_symmetric_and_decided_by_the_seed(distance):
    a, b, state = normal(20, 3), normal(15, 3, seed=1), torch.get_rng_state()
    assert distance(a, b).value == pytest.approx(distance(b, a).value, abs=1e-6)
    assert distance(a, b, seed=3) == distance(a, b, seed=3)
    assert distance(a, b, seed=3).low != distance(a, b, seed=4).low
    assert torch.equal(torch.get_rng_state(), state)


def test_vectors_long_beside_their_distances_keep_their_digits():
    """In float32 the fast formula for distances would lose them."""
    a, b = normal(200, 3), normal(200, 3, seed=1) + 0.5
    assert energy_distance(a + 1000, b + 1000).value == pytest.approx(energy_distance(a, b).value, rel=0.01)


def test_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="bandwidth must be positive, got 0"):
        mmd(normal(10, 2), normal(10, 2), bandwidth=0)
    with pytest.raises(DataError, match=r"median distance is zero: pass bandwidth=\.\.\."):
        mmd(torch.zeros(10, 2), torch.zeros(10, 2))
    for distance in (mmd, energy_distance):
        with pytest.raises(ShapeError, match=r"of one shape are needed, got \(10, 2\) and \(10, 3\)"):
            distance(normal(10, 2), normal(10, 3))
        with pytest.raises(DataError, match="at least 10 items, got 9"):
            distance(normal(10, 2), normal(9, 2))
        with pytest.raises(ValueError, match="at least 2 resamples, got 1"):
            distance(normal(10, 2), normal(10, 2, seed=1), resamples=1)
