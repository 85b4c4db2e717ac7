"""Scores of codes whose disentanglement is known."""

import functools
import math

import numpy as np
import pytest
import torch

from context_module.errors import DataError, ShapeError
from context_module.metrics.disentanglement import MIN_ITEMS, SCORES, disentanglement, factor_table
from helpers.draws import normal, seeded

NAMES = ("kind", "count", "width", "height")
FAST = tuple(name for name in SCORES if name != "dci")


@pytest.fixture(scope="module")
def factors():
    """Two discrete factors of 3 and 5 values, two continuous ones; independent."""
    g = seeded(0)
    discrete = [torch.randint(size, (900, 1), generator=g).float() for size in (3, 5)]
    return torch.cat([*discrete, torch.rand(900, 2, generator=g)], 1)


noise = functools.partial(normal, seed=1)


def standardised(factors):
    return (factors - factors.mean(0)) / factors.std(0)


def oracle(factors):
    """Each factor in a dimension of its own: in another order, with another sign, scale and offset."""
    return standardised(factors)[:, [2, 0, 3, 1]] * torch.tensor([-1.0, 2.0, 0.5, 1.5]) + 0.3


def rotation(d, seed=2):
    return torch.linalg.qr(noise(d, d, seed=seed))[0]


def values(codes, factors, scores=FAST, **options):
    return {
        name: float(score) for name, score in disentanglement(codes, factors, NAMES, scores=scores, **options).items()
    }


def test_an_oracle_is_perfect(factors):
    found = disentanglement(oracle(factors), factors, NAMES, scores=FAST)
    few = factors[:300, [0, 2]]
    found.update(disentanglement(few.flip(1), few, NAMES[::2], scores=["dci"]))
    for name in ("mcc", "mcc_spearman", "weak_mcc"):
        assert float(found[name]) == pytest.approx(1, abs=1e-6)
    assert float(found["factor_vae"]) == 1
    assert float(found["mig"]) > 0.94  # bins of a continuous factor and of its code differ at the edges
    for name in ("dci_disentanglement", "dci_completeness", "dci_informativeness"):
        assert float(found[name]) > 0.98
    assert float(found["sap"]) > 0.6  # linear one-against-rest machines miss values in the middle
    for score in found.values():
        assert score.low <= score.value <= score.high
        assert score.high - score.low < 0.1
    assert (found["mcc"].samples, found["sap"].samples, found["dci_disentanglement"].samples) == (900, 300, 200)


def test_noise_is_near_chance(factors):
    found = values(noise(900, 4), factors)
    assert found["factor_vae"] < 0.45  # chance 1/4, and a fixed factor's items are few
    assert max(found["mig"], found["sap"]) < 0.1
    for name in ("mcc", "mcc_spearman", "weak_mcc"):
        assert found[name] < 0.15


def test_trees_find_nothing_in_noise(factors):
    found = disentanglement(noise(600, 3), factors[:600, [0, 2]], NAMES[::2], scores=["dci"])
    assert tuple(found) == ("dci_disentanglement", "dci_completeness", "dci_informativeness")
    assert float(found["dci_disentanglement"]) < 0.1
    assert float(found["dci_completeness"]) < 0.1
    assert float(found["dci_informativeness"]) == pytest.approx(1 / 3 / 2, abs=0.15)  # of three kinds, and no R^2


def test_a_rotated_oracle_is_right_up_to_a_linear_map_only(factors):
    straight, rotated = (values(codes, factors) for codes in (oracle(factors), standardised(factors) @ rotation(4)))
    assert rotated["weak_mcc"] == pytest.approx(1, abs=1e-6)
    for name in ("factor_vae", "mig", "sap", "mcc", "mcc_spearman"):
        assert rotated[name] < straight[name] - 0.1
    linear = noise(900, 4) @ noise(4, 4)  # what is no function of the factors is not found by a linear map either
    assert values(linear, factors, ["weak_mcc"])["weak_mcc"] < 0.15


def test_dci_falls_with_rotation():
    factors = torch.rand(300, 2, generator=seeded(0))
    turn = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]) / math.sqrt(2)
    straight, turned = (disentanglement(codes, factors, "ab", scores=["dci"]) for codes in (factors, factors @ turn))
    for name in ("dci_disentanglement", "dci_completeness"):
        assert float(straight[name]) > 0.99
        assert float(turned[name]) < 0.2
        assert turned[name].low < float(turned[name]) < turned[name].high


def test_dci_tells_a_shared_dimension_from_a_shared_factor():
    """The same factor twice: one dimension for two factors. A factor in two halves: two dimensions for one."""
    a, b = torch.rand(2, 450, 1, generator=seeded(0))
    together = disentanglement(a, torch.cat([a, a], 1), "ab", scores=["dci"])
    assert float(together["dci_disentanglement"]) == pytest.approx(0, abs=1e-6)
    assert float(together["dci_completeness"]) == pytest.approx(1)
    apart = disentanglement(torch.cat([a, b], 1), a + b, "a", scores=["dci"])
    assert float(apart["dci_disentanglement"]) == pytest.approx(1)
    assert float(apart["dci_completeness"]) < 0.05


def test_mig_by_hand():
    """A fair coin in one dimension, and in the other a copy that is wrong one time in four."""
    coin = torch.tensor([0.0, 1.0]).repeat(400)
    copy = torch.where(torch.arange(800) // 2 % 4 == 0, 1 - coin, coin)
    found = disentanglement(torch.stack([coin, copy], 1), coin[:, None], ["coin"], scores=["mig"])
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert float(found["mig"]) == pytest.approx(entropy, abs=1e-9)  # 1 bit less the copy's 1 - H(1/4)


def test_sap_by_hand():
    signal = noise(600, 1)
    codes = torch.cat([signal, signal + 2 * noise(600, 1, seed=3)], 1)
    found = disentanglement(codes, signal, ["signal"], scores=["sap"])
    test = factor_table(codes, signal, ["signal"]).codes[400:]
    assert float(found["sap"]) == pytest.approx(1 - np.corrcoef(test.T)[0, 1] ** 2)
    coin = (signal > 0).float()
    codes = torch.cat([coin, torch.zeros(600, 1)], 1)  # a constant predicts the class of half of the items
    found = disentanglement(codes, coin, ["coin"], scores=["sap"])
    assert float(found["sap"]) == pytest.approx(0.5, abs=0.1)


def test_mcc_matches_one_to_one():
    a, b = noise(500, 1), noise(500, 1, seed=3)
    mixed = 0.8 * a + 0.6 * b
    factors = torch.cat([a, b], 1)
    correlation = abs(torch.corrcoef(torch.cat([a, mixed], 1).T)[0, 1].item())
    assert 0.7 < correlation < 0.9
    # a is in both dimensions, but b must have one of them
    of_b = abs(torch.corrcoef(torch.cat([b, mixed], 1).T)[0, 1].item())
    found = disentanglement(torch.cat([a, mixed], 1), factors, "ab", scores=["mcc"])
    assert float(found["mcc"]) == pytest.approx((1 + of_b) / 2, abs=1e-5)
    # more dimensions than factors, and fewer: a factor without a dimension counts as 0
    found = disentanglement(torch.cat([mixed, b, mixed, a], 1), factors, "ab", scores=["mcc"])
    assert float(found["mcc"]) == pytest.approx(1, abs=1e-6)
    found = disentanglement(-3 * a, factors, "ab", scores=["mcc"])
    assert float(found["mcc"]) == pytest.approx(0.5, abs=1e-6)


def test_spearman_sees_through_monotone_distortion(factors):
    found = values(oracle(factors)[:, [1, 3, 0, 2]].mul(3).exp(), factors, ["mcc", "mcc_spearman"])
    assert found["mcc_spearman"] == pytest.approx(1)
    assert found["mcc"] < 0.95


@pytest.mark.parametrize("scale", [0.0, 0.04])
def test_a_collapsed_dimension_changes_nothing(factors, scale):
    scores = ["factor_vae", "mcc", "weak_mcc"]
    codes = standardised(factors) @ rotation(4)
    plain = disentanglement(codes, factors, NAMES, scores=scores)
    padded = disentanglement(torch.cat([codes, scale * noise(900, 1)], 1), factors, NAMES, scores=scores)
    assert padded["factor_vae"] == plain["factor_vae"]
    assert float(padded["mcc"]) == pytest.approx(float(plain["mcc"]))
    assert float(padded["weak_mcc"]) == pytest.approx(float(plain["weak_mcc"]), abs=0.01)


def test_what_counts_as_collapsed_is_an_option(factors):
    codes = standardised(factors) @ rotation(4)
    padded = torch.cat([codes, 0.06 * noise(900, 1)], 1)
    plain = values(codes, factors, ["factor_vae"])
    assert values(padded, factors, ["factor_vae"]) != plain
    assert values(padded, factors, ["factor_vae"], min_std=0.07) == plain


def test_all_dimensions_collapsed(factors):
    found = values(torch.zeros(900, 3), factors)
    assert found.pop("sap") == pytest.approx(0)
    assert set(found.values()) == {0.0}


def test_duplicated_dimensions_close_the_gaps(factors):
    codes = oracle(factors)
    found = values(torch.cat([codes, codes], 1), factors, ["factor_vae", "mig", "sap"])
    assert found["mig"] == pytest.approx(0, abs=1e-9)
    assert found["sap"] == pytest.approx(0, abs=1e-9)
    assert found["factor_vae"] == 1


def test_constant_factors_are_skipped(factors):
    almost = torch.zeros(900, 1)
    almost[:9] = 1
    more = torch.cat([factors[:, :1], torch.full((900, 1), 3.0), factors[:, 1:], almost], 1)
    found = disentanglement(oracle(factors), more, ["kind", "fixed", *NAMES[1:], "rare"], scores=FAST)
    assert found == disentanglement(oracle(factors), factors, NAMES, scores=FAST)


def test_discrete_factors_are_those_of_few_values(factors):
    assert factor_table(factors, factors, NAMES).discrete == (True, True, False, False)
    asked = (False, True, True, False)
    assert factor_table(factors, factors, NAMES, discrete=asked).discrete == asked
    wide = torch.arange(900.0)[:, None] % 21
    assert factor_table(wide, wide, ["a"]).discrete == (False,)
    assert factor_table(wide % 20, wide % 20, ["a"]).discrete == (True,)
    # by exact value, 21 of them are told apart as well
    found = disentanglement(wide, wide, ["a"], discrete=[True], scores=["factor_vae", "mcc"])
    assert float(found["factor_vae"]) == 1


def test_values_of_discrete_factors_may_be_fractions():
    sizes = torch.tensor([0.5, 0.7, 1.25]).repeat(100)[:, None]
    found = disentanglement(sizes, sizes, ["size"], scores=["factor_vae", "mig", "dci", "mcc"])
    assert [float(score) for score in found.values()] == pytest.approx([1] * 6)


def test_the_interval_covers_the_score_of_other_items():
    def scores(n, seed):
        g = seeded(seed)
        factors = torch.rand(n, 3, generator=g)
        codes = standardised(factors) @ rotation(3, seed=5) + 0.3 * torch.randn(n, 3, generator=g)
        return disentanglement(codes, factors, "abc", scores=["mcc", "weak_mcc"])

    truth, found = scores(15_000, 0), [scores(400, seed) for seed in range(1, 11)]
    for name in truth:
        covered = [each[name].low <= float(truth[name]) <= each[name].high for each in found]
        assert sum(covered) >= 7


def test_same_seed_same_scores_and_no_global_randomness(factors):
    codes = standardised(factors) @ rotation(4)
    torch.manual_seed(0)
    np.random.seed(0)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = disentanglement(codes, factors, NAMES, scores=FAST)
    assert disentanglement(codes, factors, NAMES, scores=FAST) == first
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]
    assert disentanglement(codes, factors, NAMES, scores=FAST, seed=1) != first


def test_items_are_drawn_for_training_and_test(factors):
    table = factor_table(noise(900, 2), factors, NAMES, train_items=300, test_items=100, seed=1)
    assert (len(table.codes), len(table.factors), table.train) == (400, 400, 300)
    assert factor_table(noise(900, 2), factors, NAMES).train == 600
    assert factor_table(noise(900, 2), factors, NAMES, train_items=900, test_items=900).train == 450
    rows = [noise(900, 2).tolist().index(row.tolist()) for row in torch.from_numpy(table.codes).float()]
    np.testing.assert_array_equal(table.factors, factors[rows].double().numpy())
    assert len(set(rows)) == 400


def test_refuses_what_it_cannot_score(factors):
    codes = noise(900, 4)
    with pytest.raises(DataError, match=f"need at least {MIN_ITEMS} items, got 199"):
        disentanglement(codes[:199], factors[:199], NAMES)
    with pytest.raises(DataError, match="need at least 200 items, got 150"):
        disentanglement(codes, factors, NAMES, train_items=100, test_items=50)
    with pytest.raises(ShapeError, match=r"factors \(N, 3\), a column for each name, got \(900, 4\) and \(900, 4\)"):
        disentanglement(codes, factors, NAMES[:3])
    with pytest.raises(ShapeError, match="each of 4 factors, got 1 values"):
        disentanglement(codes, factors, NAMES, discrete=[True])
    with pytest.raises(DataError, match="no factor varies among: kind, count"):
        disentanglement(codes, torch.ones(900, 2), NAMES[:2])
    with pytest.raises(DataError, match="unknown scores: beta_vae; expected some of factor_vae, mig"):
        disentanglement(codes, factors, NAMES, scores=["beta_vae", "mig"])
    with pytest.raises(DataError, match="most values of factor 'width' are shared by fewer than 5 of 900 items"):
        disentanglement(codes, factors, NAMES, discrete=[True] * 4, scores=["factor_vae"])
    with pytest.raises(DataError, match="group_items must be at least 2 and min_std positive, got 1 and 0.05"):
        disentanglement(codes, factors, NAMES, group_items=1, scores=["factor_vae"])
    with pytest.raises(DataError, match="train_items and test_items must be positive, got 500 and 0"):
        disentanglement(codes, factors, NAMES, train_items=500, test_items=0)
    codes[3, 1] = math.nan
    with pytest.raises(DataError, match="codes hold values that are not finite"):
        disentanglement(codes, factors, NAMES)
