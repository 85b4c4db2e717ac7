"""Categories of a representation, and the variance of them."""

import importlib

import pytest
import torch

from context_module.data import ContextData, load_data
from context_module.errors import ShapeError
from context_module.metrics import Case, Subject, category_accuracy, disentanglement, get_metric, inapplicable
from helpers.draws import seeded


def test_accuracy_is_under_the_best_match():
    values = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    assert category_accuracy(torch.tensor([2, 2, 0, 0, 1, 1]), values).value == 1
    assert category_accuracy(torch.tensor([2, 2, 0, 1, 1, 1]), values).value == pytest.approx(5 / 6)
    assert category_accuracy(torch.zeros(6), values).value == pytest.approx(1 / 3)  # one category is one value
    with pytest.raises(ShapeError, match=r"one number per item each, got \(6, 1\) and \(6,\)"):
        category_accuracy(torch.zeros(6, 1), values)


def test_a_categorical_dimension_has_ginis_variance():
    """As numbers its categories 0 and 2 vary more than 0 and 1; to Gini all are alike."""
    g = seeded(0)
    kind, size = torch.randint(3, (2000,), generator=g), torch.randint(2, (2000,), generator=g)
    codes = torch.stack([kind.float(), size + 0.3 * torch.randn(2000, generator=g)], dim=1)
    factors = torch.stack([kind, size], dim=1).float()

    def score(order, **options):
        renamed = torch.stack([torch.tensor(order)[kind].float(), codes[:, 1]], dim=1)
        return disentanglement(renamed, factors, ["kind", "size"], scores=["factor_vae"], **options)[
            "factor_vae"
        ].value

    assert score([0, 1, 2], categorical=(0,)) == score([7, 0, 100], categorical=(0,)) == 1


class Sees(Subject):
    """A representation of the shape of sprites, by name, and of a half that its category is right in."""

    image_shape = (1, 16, 16)
    categorical = (1,)

    def __init__(self, factors):
        self.factors = factors

    def sample(self, n, context, generator):
        return torch.zeros(n, *self.image_shape)

    def codes(self, images):
        shape = self.factors[:, 0]
        return torch.stack([self.factors[:, 3], torch.where(torch.arange(len(shape)) % 2 == 0, shape, 3.0)], dim=1)


@pytest.fixture
def case():
    data = load_data("dsprites_grid", resolution=16, samples_per_context=1, test_samples=240)
    return Case(Sees(data.test.factors), data)


def test_the_metric_finds_factors_of_few_values(case):
    found = get_metric("categories").score(case)
    assert set(found["code 1"]) == {"shape", "scale"}  # the other factors have more values
    shape = case.data.test.factors[:, 0]
    right = (torch.arange(240) % 2 == 0) | (shape == 3)
    assert found["code 1"]["shape"].value == pytest.approx(right.float().mean().item())
    case.subject.categorical = ()
    assert inapplicable(get_metric("categories"), case) == "the representation has no categories"


def test_data_says_which_factors_are_discrete(case, monkeypatch):
    """And DCI is left out where these have many values; of data that says nothing it is there."""
    asked = []
    monkeypatch.setattr(
        importlib.import_module(disentanglement.__module__),
        "disentanglement",
        lambda codes, factors, names, **options: asked.append(options) or {},
    )
    parts = case.data.test
    get_metric("disentanglement").score(case)
    get_metric("disentanglement").score(Case(case.subject, ContextData(parts, test=parts)))
    assert [options["discrete"] for options in asked] == [[True] * 5, None]
    assert [options["categorical"] for options in asked] == [(1,), (1,)]
    assert ["dci" in options["scores"] for options in asked] == [False, True]
