"""Heads on features that tell all, nothing, or only a spurious attribute."""

import math

import pytest
import torch

from context_module.errors import DataError, ShapeError
from context_module.metrics import accuracy_under_shift, sample_efficiency, share_estimate
from context_module.metrics.downstream import SampleEfficiency
from context_module.metrics.shift import resample
from helpers.draws import normal, seeded

HEADS = ("linear", "mlp")


def coins(n, seed):
    return torch.randint(2, (n,), generator=seeded(seed))


def as_feature(labels):
    return 2.0 * labels[:, None] - 1


TRAIN, TEST = 600, 400
TARGET, SPURIOUS = coins(TRAIN, 1), coins(TRAIN, 2)
TEST_TARGET, TEST_SPURIOUS = coins(TEST, 3), coins(TEST, 4)


def efficiency(train_features, test_features, **options):
    return sample_efficiency(train_features, TARGET, test_features, TEST_TARGET, **options)


def under_shift(train_features, test_features, **options):
    return accuracy_under_shift(train_features, TARGET, SPURIOUS, test_features, TEST_TARGET, TEST_SPURIOUS, **options)


# --- few labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_the_label_itself_is_learnt_from_few(head):
    found = efficiency(as_feature(TARGET), as_feature(TEST_TARGET), few=20, seeds=2, head=head)
    assert [float(each) for each in (found.few, found.full, found.efficiency)] == [1, 1, 1]
    assert found.few.samples == TEST


@pytest.mark.parametrize("head", HEADS)
def test_noise_teaches_nothing(head):
    found = efficiency(normal(TRAIN, 5), normal(TEST, 5, seed=1), few=50, full=100, seeds=2, head=head)
    assert float(found.few) == pytest.approx(0.5, abs=0.1)
    assert float(found.full) == pytest.approx(0.5, abs=0.1)
    assert found.efficiency.low < 1 < found.efficiency.high


def test_a_weak_signal_among_noise_needs_many_labels():
    def features(labels, seed):
        return torch.cat([0.7 * as_feature(labels), torch.zeros(len(labels), 29)], 1) + normal(
            len(labels), 30, seed=seed
        )

    found = efficiency(features(TARGET, 5), features(TEST_TARGET, 6), few=40, head="linear")
    best = 0.5 * (1 + math.erf(0.7 / math.sqrt(2)))
    assert found.full.low < best < found.full.high + 0.03
    assert float(found.few) < float(found.full) - 0.05
    assert float(found.efficiency) == pytest.approx(float(found.few) / float(found.full), abs=0.01)
    assert found.efficiency.low < float(found.efficiency) < found.efficiency.high < 1
    again = efficiency(features(TARGET, 5), features(TEST_TARGET, 6), few=40, head="linear")
    assert again == found
    other = efficiency(features(TARGET, 5), features(TEST_TARGET, 6), few=40, head="linear", seed=1)
    assert other.few != found.few


def test_the_interval_holds_the_spread_over_runs():
    """All is learnt from all labels, so that there only the test items' spread could show: none."""
    train, test = (
        torch.cat([as_feature(labels) + 0.2 * normal(len(labels), 1), normal(len(labels), 20)], 1)
        for labels in (TARGET, TEST_TARGET)
    )
    found = efficiency(train, test, few=10, seeds=3, head="linear")
    assert float(found.full) == 1
    assert found.full.high == found.full.low
    assert found.few.high - found.few.low > 2 * 1.96 * math.sqrt(0.25 / TEST)


@pytest.mark.parametrize("head", HEADS)
def test_more_than_two_classes(head):
    labels = torch.tensor([7, 3, -1, 3]).repeat(50)
    features = torch.nn.functional.one_hot(labels + 1).float()
    found = sample_efficiency(features, labels, features, labels, few=4, seeds=2, head=head)
    assert float(found.few) == 1


def test_the_mlp_learns_what_is_not_linear():
    features, test_features = normal(TRAIN, 2), normal(TEST, 2, seed=1)
    labels, test_labels = ((each[:, 0] * each[:, 1] > 0) for each in (features, test_features))
    accuracies = {
        head: sample_efficiency(features, labels, test_features, test_labels, seeds=2, head=head) for head in HEADS
    }
    assert float(accuracies["mlp"].full) > 0.93
    assert float(accuracies["linear"].full) < 0.65


def test_sample_efficiency_refuses():
    features, test_features = normal(TRAIN, 3), normal(TEST, 3)
    with pytest.raises(DataError, match="expected 1 <= few <= full <= 600 training items, got few=601 and full=600"):
        efficiency(features, test_features, few=601)
    with pytest.raises(DataError, match="got few=100 and full=50"):
        efficiency(features, test_features, full=50)
    rare = torch.zeros(TRAIN, dtype=torch.int64)
    rare[:5] = 4
    with pytest.raises(DataError, match=r"class 4 has 5 of 600 training items.* among 100 .*; set few to 120 or more"):
        sample_efficiency(features, rare, test_features, rare[:TEST])
    drawn = sample_efficiency(features, rare, test_features, rare[:TEST], few=120, seeds=2, head="linear")
    assert float(drawn.full) > 0.95
    with pytest.raises(DataError, match=r"test labels \[2\] are not among the training labels \[0, 1\]"):
        sample_efficiency(features, TARGET, test_features, TEST_TARGET * 2)
    with pytest.raises(DataError, match=r"all training labels are \[0\]"):
        sample_efficiency(features, TARGET * 0, test_features, TEST_TARGET)
    with pytest.raises(DataError, match="at least 10 items, got 9"):
        sample_efficiency(features, TARGET, test_features[:9], TEST_TARGET[:9])
    with pytest.raises(ShapeError, match=r"test features must be \(N, k\) .*, got \(400, 3\), \(600,\)"):
        sample_efficiency(features, TARGET, test_features, TARGET)
    with pytest.raises(ShapeError, match="of one width, got 3 and 2"):
        efficiency(features, test_features[:, :2])
    with pytest.raises(ShapeError, match="train labels must be integer or bool, got torch.float32"):
        sample_efficiency(features, TARGET.float(), test_features, TEST_TARGET)
    with pytest.raises(DataError, match="train features hold values that are not finite"):
        efficiency(features / 0, test_features)
    with pytest.raises(ValueError, match="unknown head 'tree'"):
        efficiency(features, test_features, head="tree")
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        efficiency(features, test_features, seeds=1)


# --- shift -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_the_target_itself_withstands_the_shift(head):
    train, test = (
        torch.cat([as_feature(labels), as_feature(others)], 1)
        for labels, others in ((TARGET, SPURIOUS), (TEST_TARGET, TEST_SPURIOUS))
    )
    found = under_shift(train, test, head=head)
    assert float(found.average) == float(found.worst) == 1
    assert set(found.groups) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert sum(each.samples for each in found.groups.values()) == TEST == found.average.samples
    assert 0.9 < found.worst.low < 1  # a hundred items without an error do not prove that there is none


@pytest.mark.parametrize("head", HEADS)
def test_the_spurious_attribute_alone_fails_half_of_the_groups(head):
    found = under_shift(as_feature(SPURIOUS), as_feature(TEST_SPURIOUS), head=head)
    equal = (TEST_TARGET == TEST_SPURIOUS).float().mean().item()
    assert float(found.average) == pytest.approx(equal)
    assert all(float(each) == (group[0] == group[1]) for group, each in found.groups.items())
    assert float(found.worst) == found.worst.low == 0
    assert 0 < found.worst.high < 0.1
    # the other way round where the attribute is mostly the opposite
    found = under_shift(as_feature(SPURIOUS), as_feature(TEST_SPURIOUS), head=head, rho=0.2)
    assert float(found.average) == pytest.approx(1 - equal)


def test_noise_is_at_chance_under_shift():
    found = under_shift(normal(TRAIN, 2), normal(TEST, 2, seed=1), head="linear")
    assert float(found.average) == pytest.approx(0.5, abs=0.1)
    assert float(found.worst) == min(float(each) for each in found.groups.values())
    assert found.worst.low == min(each.low for each in found.groups.values())
    assert found == under_shift(normal(TRAIN, 2), normal(TEST, 2, seed=1), head="linear")


def test_few_test_items_in_a_group_make_a_wide_interval():
    keep = (TEST_TARGET != 1) | (TEST_SPURIOUS != 0)
    keep[((TEST_TARGET == 1) & (TEST_SPURIOUS == 0)).nonzero()[:3]] = True
    features = as_feature(TEST_TARGET)[keep]
    found = accuracy_under_shift(
        as_feature(TARGET), TARGET, SPURIOUS, features, TEST_TARGET[keep], TEST_SPURIOUS[keep], head="linear"
    )
    narrow, wide = found.groups[0, 0], found.groups[1, 0]
    assert (float(wide), wide.samples, wide.high) == (1, 3, 1)
    assert wide.low == pytest.approx(3 / (3 + 1.959964**2))  # Wilson's limit without an error
    assert narrow.low > 0.95
    assert found.worst.low == wide.low


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 1.0])
def test_resampled_items_have_the_correlation(rho):
    target = torch.arange(1000) % 10 < 3  # three in ten
    spurious = coins(1000, 5)
    rows = resample(target, spurious, rho=rho)
    assert len(rows.unique()) == len(rows) > 400
    assert (target[rows] == spurious[rows]).float().mean().item() == pytest.approx(rho, abs=0.005)
    assert target[rows].float().mean().item() == pytest.approx(0.3, abs=0.005)
    for value in (0, 1):  # in either class
        of_class = rows[target[rows] == value]
        assert (spurious[of_class] == value).float().mean().item() == pytest.approx(rho, abs=0.01)
    assert torch.equal(rows, resample(target, spurious, rho=rho))
    assert not torch.equal(rows, resample(target, spurious, rho=rho, seed=1))


def test_resampling_keeps_all_items_that_have_the_correlation_already():
    target = torch.tensor([0, 1]).repeat(50)
    spurious = torch.where(torch.arange(100) % 10 < 8, target, 1 - target)
    assert sorted(resample(target, spurious, rho=0.8).tolist()) == list(range(100))


def test_accuracy_under_shift_refuses():
    features, test_features = normal(TRAIN, 3), normal(TEST, 3)
    with pytest.raises(DataError, match=r"no test items of group \(target=0, spurious=1\)"):
        accuracy_under_shift(features, TARGET, SPURIOUS, test_features, TEST_TARGET, TEST_TARGET * TEST_SPURIOUS)
    with pytest.raises(DataError, match=r"no training items of group \(target=0, spurious=1\), of which rho=0.8"):
        accuracy_under_shift(features, TARGET, TARGET, test_features, TEST_TARGET, TEST_SPURIOUS)
    assert len(resample(TARGET, TARGET, rho=1)) == TRAIN
    target = torch.arange(100) % 2
    spurious = torch.where(torch.arange(100) == 1, 0, target)
    spurious[:50:2] = 1
    with pytest.raises(DataError, match=r"only 1 training items of group \(target=1, spurious=0\): rho=0.8 leaves 10"):
        resample(target, spurious, rho=0.8)
    with pytest.raises(DataError, match=r"training spurious must be 0 or 1, got \[2\] as well"):
        resample(TARGET, SPURIOUS * 2, rho=0.8)
    with pytest.raises(DataError, match=r"all training targets are \[0\]"):
        resample(TARGET * 0, SPURIOUS, rho=0.8)
    with pytest.raises(ValueError, match="rho is a probability, got 80"):
        under_shift(features, test_features, rho=80)
    with pytest.raises(ShapeError, match=r"got \(600, 3\), \(600,\), \(400,\)"):
        accuracy_under_shift(features, TARGET, TEST_TARGET, test_features, TEST_TARGET, TEST_SPURIOUS)
    with pytest.raises(ValueError, match="unknown head 'forest'"):
        under_shift(features, test_features, head="forest")


def test_codes_of_labelled_factors_are_scored_apart(monkeypatch):
    """And a task of its own, where the data has nothing to predict."""
    from context_module.data import ArrayContextDataset, ContextData
    from context_module.metrics import Case, Subject, get_metric

    class Told(Subject):
        labelled = 2

        def sample(self, n, context, generator):
            raise NotImplementedError

        def codes(self, images):
            return images.flatten(1)[:, :5]

    widths = []

    def seen(train, *rest, **_):
        widths.append(train.shape[1])
        return SampleEfficiency(*3 * [share_estimate(torch.ones(20))])

    monkeypatch.setattr("context_module.metrics.downstream.sample_efficiency", seen)
    factors = (torch.arange(24)[:, None] % torch.tensor([2, 3])).float()
    pixels = torch.zeros(24, 1, 4, 4, dtype=torch.uint8)
    images = ArrayContextDataset(pixels, [0] * 24, ["obs"], ["a"], factors, ["told", "other"])
    data = ContextData(images, test=images, target="told")
    found = get_metric("downstream").score(Case(Told(), data))
    assert widths == [5, 2]
    assert set(found) == {"sample_efficiency", "labelled_codes"}
    assert get_metric("downstream").reason(Case(Told(), ContextData(images, test=images))) == (
        "the data has no factor to predict"
    )
