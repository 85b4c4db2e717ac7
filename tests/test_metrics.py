"""Distances with known values, and the table of compositions."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from context_module import adapt, wrap_decoder
from context_module.data import ArrayContextDataset
from context_module.errors import DataError, ShapeError
from context_module.metrics import CompositionScore, composition_scores, composition_table, sliced_wasserstein


def test_equal_sets_are_at_distance_zero():
    images = torch.rand(10, 3, 4, 4)
    assert sliced_wasserstein(images, images) == 0
    assert sliced_wasserstein(images, images.flip(0)) == pytest.approx(0, abs=1e-6)


def test_symmetric_and_reproducible():
    a, b = torch.rand(10, 1, 4, 4), torch.rand(10, 1, 4, 4)
    assert sliced_wasserstein(a, b, seed=3) == sliced_wasserstein(a, b, seed=3)
    assert sliced_wasserstein(a, b) == pytest.approx(sliced_wasserstein(b, a))
    assert sliced_wasserstein(a, b, seed=3) != sliced_wasserstein(a, b, seed=4)


def test_one_dimension_is_exact():
    """There the only direction is the line itself: the 2-Wasserstein distance of sorted values."""
    a = torch.tensor([0.0, 0.2, 0.4]).view(3, 1, 1, 1)
    b = torch.tensor([0.5, 0.2, 0.9]).view(3, 1, 1, 1)
    expected = math.sqrt((0.2**2 + 0.3**2 + 0.5**2) / 3)
    assert sliced_wasserstein(a, b) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("d", [2, 16])
def test_a_shift_by_v_is_its_length_over_root_d(d):
    a = torch.rand(20, 1, 1, d)
    shift = torch.zeros(d)
    shift[0] = 0.7
    distance = sliced_wasserstein(a, a + shift, projections=5000)
    assert distance == pytest.approx(0.7 / math.sqrt(d), rel=0.05)


def test_two_point_masses():
    a, b = torch.zeros(4, 1, 2, 2), torch.full((4, 1, 2, 2), 0.5)
    assert sliced_wasserstein(a, b, projections=5000) == pytest.approx(1.0 / 2, rel=0.05)


def test_sets_of_different_sizes():
    assert sliced_wasserstein(torch.zeros(3, 1, 1, 1), torch.ones(5, 1, 1, 1)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("a", "b"), [((4, 1, 2, 2), (4, 3, 2, 2)), ((1, 1, 2, 2), (4, 1, 2, 2)), ((4, 1, 2, 2), (1, 1, 2, 2))]
)
def test_shapes_that_do_not_fit(a, b):
    with pytest.raises(ShapeError, match="two sets of at least two images of one shape"):
        sliced_wasserstein(torch.zeros(a), torch.zeros(b))


class StubModel(nn.Module):
    """Generates images of one brightness per context, its base black ones; records the sizes asked for."""

    def __init__(self, brightness):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.brightness, self.asked, self.modes = brightness, [], set()
        self.base = SimpleNamespace(
            sample_latent=lambda n, generator: torch.zeros(n, 1),
            decode=lambda latent, generator: SimpleNamespace(mean=torch.zeros(len(latent), 1, 2, 2)),
        )

    def generate(self, n, do, generator):
        self.asked.append((do, n))
        self.modes.add(self.training)
        return torch.full((n, 1, 2, 2), self.brightness[do])


def held_out(per_context=10):
    grey = torch.full((2 * per_context, 1, 2, 2), 51, dtype=torch.uint8)  # 0.2
    grey[per_context:] = 204  # 0.8
    labels = torch.arange(2).repeat_interleave(per_context)
    return ArrayContextDataset(grey, labels, ("a+b", "a+c"), ("a", "b", "c"))


def test_scores_of_a_known_model():
    model = StubModel({"a+b": 0.2, "a+c": 0.2}).train()
    first, second = composition_scores(model, held_out(), samples=5, batch_size=2)
    assert (first.context, second.context) == ("a+b", "a+c")
    assert (first.model, first.floor, second.floor) == pytest.approx((0, 0, 0), abs=1e-6)
    assert first.improvement == pytest.approx(1)
    assert second.model / second.base == pytest.approx(0.6 / 0.8, rel=1e-4)
    assert second.improvement == pytest.approx(0.25, rel=1e-4)
    assert model.asked == [(context, n) for context in ("a+b", "a+c") for n in (2, 2, 1)]
    assert model.modes == {False}
    assert model.training


def test_scores_of_a_wrapped_base_are_reproducible(make_base):
    base = adapt(make_base("nvae"))
    model = wrap_decoder(base, ["a", "b", "c"], noise_width=2, concept_width=2).eval()
    images = torch.randint(0, 256, (12, *base.image_shape), dtype=torch.uint8)
    data = ArrayContextDataset(images, [0] * 6 + [1] * 6, ("a+b", "a+c"), ("a", "b", "c"))
    scores = composition_scores(model, data, samples=3, seed=1)
    torch.rand(1)
    assert composition_scores(model, data, samples=3, seed=1) == scores
    assert all(score.base > 0 and score.model > 0 and score.floor > 0 for score in scores)


def test_too_few_images():
    with pytest.raises(DataError, match=r"context 'a\+b' has 10 images, scoring 6 needs 12"):
        composition_scores(StubModel({"a+b": 0.2}), held_out(), samples=6)


def test_table():
    table = composition_table([CompositionScore("a+b", 0.5, 0.25, 0.1), CompositionScore("a+c", 0.3, 0.35, 0.2)])
    assert table.splitlines() == [
        "| context | base | with context module | real against real | closer by |",
        "|---|---|---|---|---|",
        "| a+b | 0.500 | 0.250 | 0.100 | 50% |",
        "| a+c | 0.300 | 0.350 | 0.200 | -17% |",
        "| mean | 0.400 | 0.300 | 0.150 | 25% |",
    ]
