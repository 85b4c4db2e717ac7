"""Kernel and Frechet distances of features against their definitions."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from context_module.errors import DataError, ShapeError
from context_module.metrics import frechet_distance, kernel_distance
from helpers.draws import seeded


def normal(n, size, seed=0):
    return torch.randn(n, size, generator=seeded(seed))


def test_kernel_distance_is_the_sum_over_pairs():
    a, b = normal(12, 3), normal(15, 3, seed=1) + 0.5

    def mean(x, y, same):
        kernel = [[(x[i] @ y[j] / 3 + 1) ** 3 for j in range(len(y)) if not (same and i == j)] for i in range(len(x))]
        return torch.tensor(kernel).mean().item()

    expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    assert kernel_distance(a, b).value == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_is_that_of_scipy():
    a, b = normal(200, 4), normal(150, 4, seed=1) @ torch.diag(torch.tensor([1.0, 2.0, 0.5, 0.1])) + 1
    first, second = (np.cov(items.double().numpy().T) for items in (a, b))
    root = linalg.sqrtm(first @ second).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(first + second - 2 * root)
    assert frechet_distance(a, b).value == pytest.approx(expected, rel=1e-3)


def test_of_one_feature():
    """N(0, 1) and N(3, 4): 9 + (2 - 1)^2."""
    a, b = normal(20_000, 1), 3 + 2 * normal(20_000, 1, seed=1)
    assert frechet_distance(a, b, resamples=2).value == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
def test_grows_with_the_shift_and_has_its_interval_around_it(distance):
    a = normal(300, 5)
    found = [distance(a, normal(300, 5, seed=1) + shift) for shift in (0.0, 0.5, 1.0)]
    assert found[0].value < found[1].value < found[2].value
    assert all(each.low < each.value < each.high for each in found)
    assert distance(a, normal(300, 5, seed=1)) == distance(a, normal(300, 5, seed=1))


def test_unbiased_and_biased():
    pairs = [(normal(30, 8, seed=s), normal(30, 8, seed=100 + s)) for s in range(40)]
    kernel = torch.tensor([kernel_distance(*pair, resamples=2).value for pair in pairs])
    assert abs(kernel.mean()) < 3 * kernel.std() / math.sqrt(len(kernel))
    assert min(frechet_distance(*pair, resamples=2).value for pair in pairs) > 0.5


@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
def test_refuses(distance):
    with pytest.raises(ShapeError, match=r"of one shape are needed, got \(20, 2\) and \(20, 3\)"):
        distance(normal(20, 2), normal(20, 3))
    with pytest.raises(DataError, match="hold NaN"):
        distance(normal(20, 2).index_fill(0, torch.tensor(2), math.nan), normal(20, 2))
    with pytest.raises(ValueError, match="at least 2 resamples, got 1"):
        distance(normal(20, 2), normal(20, 2), resamples=1)
