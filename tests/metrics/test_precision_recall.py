"""Fidelity and diversity of sets for which they are known."""

import math

import pytest
import torch

from context_module.errors import DataError, ShapeError
from context_module.metrics import precision_recall
from helpers.draws import normal


def values(result):
    return [each.value for each in (result.precision, result.recall, result.density, result.coverage)]


def test_by_hand():
    """On a line with one neighbour: every ball reaches 1 far."""
    real = torch.arange(10.0)[:, None]
    generated = real + 0.25
    generated[5:] += 100
    result = precision_recall(real, generated, neighbours=1)
    # 0.25 to 4.25 lie in two real balls each; 0 to 5 hold one of them, and lie in the ball of one
    assert values(result) == pytest.approx([0.5, 0.6, 1.0, 0.6])


def test_second_neighbours_by_hand():
    real = torch.arange(12.0)[:, None] * 10  # balls reach 10, at both ends 20
    generated = torch.full((12, 1), 125.0)
    assert values(precision_recall(real, generated, neighbours=2)) == pytest.approx([1, 0, 1 / 2, 1 / 12])


def test_identical_sets():
    a = normal(50, 3)
    result = precision_recall(a, a, neighbours=3)
    assert values(result) == pytest.approx([1, 1, 4 / 3, 1])  # a ball also holds its own centre


def test_disjoint_sets():
    result = precision_recall(normal(50, 3), normal(50, 3, seed=1) + 100)
    assert values(result) == [0, 0, 0, 0]


def test_one_distribution():
    """Expected density is 1; coverage falls short of 1 by about 2^-k (Naeem et al. 2020)."""
    real, generated = normal(800, 2), normal(800, 2, seed=1)
    result = precision_recall(real, generated, neighbours=3)
    assert result.density.value == pytest.approx(1, abs=0.05)
    assert result.coverage.value == pytest.approx(1 - 2**-3, abs=0.03)
    assert result.precision.value > 0.95
    assert result.recall.value > 0.95
    assert precision_recall(real, generated, neighbours=8).coverage.value > 0.98


def two_modes(n, seed):
    points = normal(n, 2, seed=seed)
    points[: n // 2, 0] += 50
    return points


def test_a_dropped_mode_costs_recall_and_coverage_alone():
    result = precision_recall(two_modes(400, 0), normal(400, 2, seed=1))
    assert result.precision.value > 0.95
    assert result.density.value > 0.9
    assert result.recall.value == pytest.approx(0.5, abs=0.03)
    assert result.coverage.value < 0.55


def test_an_invented_mode_costs_precision_and_density_alone():
    result = precision_recall(normal(400, 2), two_modes(400, 1))
    assert result.precision.value == pytest.approx(0.5, abs=0.03)
    assert result.density.value == pytest.approx(0.5, abs=0.1)
    assert result.recall.value > 0.9


def test_precision_one_way_is_recall_the_other():
    a, b = normal(40, 2), normal(30, 2, seed=1) + 0.5
    assert precision_recall(a, b).precision.value == precision_recall(b, a).recall.value


def test_one_outlier_raises_precision_but_not_density_and_coverage():
    """What density and coverage are for: a far outlier's ball covers everything."""
    real, generated = normal(100, 2), normal(100, 2, seed=1) + 30
    real[0] = 1000
    result = precision_recall(real, generated)
    assert result.precision.value == 1
    assert result.density.value == pytest.approx(1 / 3)
    assert result.coverage.value == pytest.approx(1 / 100)


def test_interval_is_that_of_a_share():
    real, generated = normal(300, 2), normal(300, 2, seed=1) + 1
    share = precision_recall(real, generated).precision
    expected = 1.96 * math.sqrt(share.value * (1 - share.value) / 300)
    assert (share.high - share.low) / 2 == pytest.approx(expected, rel=0.2)
    assert share.samples == 300


def test_images_are_flattened():
    a, b = normal(20, 3, 2, 2), normal(25, 3, 2, 2, seed=1)
    assert precision_recall(a, b) == precision_recall(a.flatten(1), b.flatten(1))


def test_refuses_what_it_cannot_compare():
    with pytest.raises(DataError, match="12 nearest neighbours need more than 12 items in each set, got 12"):
        precision_recall(normal(20, 2), normal(12, 2), neighbours=12)
    with pytest.raises(DataError, match="at least 10 items, got 9"):
        precision_recall(normal(20, 2), normal(9, 2))
    with pytest.raises(ValueError, match="neighbours must be at least 1, got 0"):
        precision_recall(normal(20, 2), normal(20, 2), neighbours=0)
    with pytest.raises(ShapeError, match="of one shape are needed"):
        precision_recall(normal(20, 2), normal(20, 3))
    with pytest.raises(DataError, match="1 of the 20 items of the first set hold NaN"):
        precision_recall(normal(20, 2).index_fill(0, torch.tensor(2), math.nan), normal(20, 2))
