"""Intervals: how wide they are, how often they hold the truth, and how they print."""

import json
import math

import pytest
import torch

from context_module.errors import DataError, NonFiniteError
from context_module.metrics import Estimate, average, bootstrap, bootstrap_indices, mean_estimate, share_estimate
from helpers.draws import normal


def width(estimate):
    return estimate.high - estimate.low


def test_prints_value_and_interval_in_one_format():
    estimate = Estimate(0.0571, 0.0512, 0.0629, samples=200)
    assert str(estimate) == f"{estimate}" == "0.057 [0.051, 0.063]"
    assert f"{estimate:.1%}" == "5.7% [5.1%, 6.3%]"
    assert float(estimate) == 0.0571


def test_goes_through_json():
    estimate = Estimate(0.5, 0.25, 0.75, samples=10)
    text = json.dumps(estimate.to_dict())
    assert json.loads(text) == {"value": 0.5, "low": 0.25, "high": 0.75, "samples": 10}
    assert Estimate(**json.loads(text)) == estimate


def test_value_is_the_statistic_and_the_interval_is_centred_on_it():
    a, b = normal(30, 2), normal(20, 2, seed=1) + 3
    estimate = bootstrap(lambda a, b: (b.mean() - a.mean()).abs(), a, b)
    assert estimate.value == pytest.approx((b.mean() - a.mean()).item(), rel=1e-6)
    assert estimate.value == pytest.approx((estimate.low + estimate.high) / 2)
    assert estimate.samples == 20


def test_bootstrap_of_a_mean_has_its_standard_error():
    values = normal(500)
    standard_error = values.std().item() / math.sqrt(500)
    estimate = bootstrap(torch.mean, values, resamples=1000)
    assert width(estimate) == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert width(mean_estimate(values)) == pytest.approx(2 * 1.959964 * standard_error, rel=1e-5)
    assert mean_estimate(values.tolist()).value == pytest.approx(values.mean().item())


def test_samples_are_resampled_independently():
    values = normal(200)
    paired = bootstrap(lambda rows: (rows[:, 0] - rows[:, 1]).mean(), torch.stack([values, values], 1))
    apart = bootstrap(lambda a, b: a.mean() - b.mean(), values, values)
    assert width(paired) == 0
    assert width(apart) == pytest.approx(2 * 1.96 * math.sqrt(2 / 200), rel=0.25)


def test_levels():
    values = normal(100)
    for make in (mean_estimate, lambda values, level=0.95: bootstrap(torch.mean, values, level=level)):
        assert width(make(values, level=0.6827)) == pytest.approx(width(make(values)) / 1.96, rel=1e-3)


@pytest.mark.parametrize("make", [mean_estimate, lambda values: bootstrap(torch.mean, values, resamples=50)])
def test_interval_holds_the_truth_in_most_repetitions(make):
    intervals = [make(normal(40, seed=seed)) for seed in range(200)]
    assert 176 <= sum(each.low < 0 < each.high for each in intervals) <= 199


@pytest.mark.parametrize("make", [mean_estimate, lambda values: bootstrap(torch.mean, values, resamples=400)])
def test_interval_shrinks_with_the_root_of_the_samples(make):
    assert width(make(normal(100))) / width(make(normal(1600))) == pytest.approx(4, rel=0.2)


def test_seed_decides_and_the_global_state_is_left_alone():
    values, state = normal(50), torch.get_rng_state()
    assert bootstrap(torch.mean, values, seed=3) == bootstrap(torch.mean, values, seed=3)
    assert bootstrap(torch.mean, values, seed=3) != bootstrap(torch.mean, values, seed=4)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_instead_of_items_give_the_same():
    a, b = normal(12, 3), normal(15, 3, seed=1)

    def gap(a, b):
        return (a.mean(0) - b.mean(0)).norm()

    by_rows = bootstrap_indices(lambda i, j: gap(a[i], b[j]), (12, 15), seed=5)
    assert by_rows == bootstrap(gap, a, b, seed=5)
    elsewhere = bootstrap_indices(lambda i, j: gap(a[i], b[j]), (12, 15), value=7.0, seed=5)
    assert elsewhere.value == 7
    assert width(elsewhere) == pytest.approx(width(by_rows))


def test_average_of_independent_estimates():
    one, two = Estimate(1.0, 0.7, 1.3, 100), Estimate(3.0, 2.6, 3.4, 50)
    mean = average([one, two])
    assert (mean.value, mean.low, mean.high) == pytest.approx((2, 2 - 0.25, 2 + 0.25))
    assert mean.samples == 50
    assert average([one]) == one
    contexts = [normal(100, seed=seed) for seed in range(8)]
    assert width(average([mean_estimate(values) for values in contexts])) == pytest.approx(
        width(mean_estimate(torch.cat(contexts))), rel=0.05
    )


def test_refuses_what_has_no_interval():
    few = r"an estimate with an interval needs at least 10 items, got 7"
    with pytest.raises(DataError, match=few):
        bootstrap(torch.mean, normal(7))
    with pytest.raises(DataError, match=few):
        bootstrap(lambda a, b: a.mean() - b.mean(), normal(20), normal(7))
    with pytest.raises(DataError, match=few):
        mean_estimate(normal(7))
    with pytest.raises(ValueError, match="at least 2 resamples, got 1"):
        bootstrap(torch.mean, normal(20), resamples=1)
    with pytest.raises(ValueError, match="at least one sample"):
        bootstrap(torch.mean)
    with pytest.raises(ValueError, match="average of no estimates"):
        average([])
    with pytest.raises(ValueError, match=r"one number per item, shape \(n,\), got \(20, 2\)"):
        mean_estimate(normal(20, 2))
    for level in (0, 1, 95):
        for make in (
            lambda level: mean_estimate(normal(20), level=level),
            lambda level: bootstrap(torch.mean, normal(20), level=level),
        ):
            with pytest.raises(ValueError, match=f"level must be between 0 and 1, got {level}"):
                make(level)


def test_refuses_a_statistic_that_is_not_finite():
    values = normal(20)
    values[3] = math.nan
    with pytest.raises(NonFiniteError, match="the statistic is not finite: value nan"):
        mean_estimate(values)
    with pytest.raises(NonFiniteError, match="the statistic is not finite"):
        bootstrap(torch.mean, values)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (100, 100, 0.9630, 1.0)]
)
def test_a_share_has_wilsons_interval(hits, n, low, high):
    share = share_estimate(torch.arange(n) < hits)
    assert (share.value, share.samples) == (hits / n, n)
    assert (share.low, share.high) == pytest.approx((low, high), abs=1e-4)


def test_shares_that_are_not_defined():
    with pytest.raises(DataError, match="the share of no items is not defined"):
        share_estimate(torch.zeros(0))
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 1"):
        share_estimate(torch.ones(3), level=1)
