"""Views with factors and with pairs."""

import itertools
import pickle

import pytest
import torch

from context_module.data import ArrayContextDataset, evaluation_loader, mixed_context_loader, pairs, with_factors
from context_module.errors import ConceptError, DataError

NAMES = ("size", "shape", "hue")


def grid(factors=True, contexts=("obs", "a")):
    """Every combination of three values of three factors, in each context; the pixels say which image it is."""
    rows = torch.tensor(list(itertools.product(range(3), repeat=3)), dtype=torch.float64).repeat(len(contexts), 1)
    images = torch.arange(len(rows), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    labels = torch.arange(len(contexts)).repeat_interleave(27)
    known = (rows, NAMES) if factors else (None, ())
    return ArrayContextDataset(images.contiguous(), labels, contexts, ["a", "b"], *known)


def number(x):
    """Which images they are."""
    return (x[:, 0, 0, 0] * 255).round().long()


def test_items_carry_the_chosen_factors():
    data = grid()
    view = with_factors(data, ["hue", "size"])
    assert (len(view), view.factor_names, view.factors.dtype) == (54, ("hue", "size"), torch.float32)
    for batch in evaluation_loader(view, 10):
        expected = data.factors[number(batch["x"])][:, [2, 0]].float()
        assert torch.equal(batch["factors"], expected)
        assert batch["mask"].shape == (len(expected), 2)


@pytest.mark.parametrize("change", [1, 2])
def test_pairs_share_all_factors_but_some(change):
    data = grid()
    view = pairs(data, change=change)
    assert len(view) == 54
    assert view.context_names == ("obs", "a")
    for batch in evaluation_loader(view, 20):
        first, second = (data.factors[number(batch[name])] for name in ("x", "other"))
        assert ((first != second).sum(1) == change).all()
        masks = data._masks[data.labels[number(batch["other"])]]
        assert torch.equal(batch["other_mask"], masks)
    # which columns change is drawn evenly
    changed = (data.factors[view.first] != data.factors[view.second]).sum(0)
    assert changed.min() > 0


def test_images_without_a_partner_are_left_out():
    data = grid()
    some = data.subset([0, 1, 13, 27 + 26])  # 0 and 1 differ in the hue, the others in more
    view = pairs(some, change=1)
    assert (view.first.tolist(), view.second.tolist()) == ([0, 1], [1, 0])
    assert view.context_names == ("obs",)
    assert view.labels.tolist() == [0, 0]


def test_pairs_of_two_contexts():
    data = grid(factors=False)
    view = pairs(data, contexts=("a", "obs"))
    assert view.context_names == ("a",)
    for batch in mixed_context_loader(view, 9, 0, num_steps=3):
        assert (number(batch["x"]) >= 27).all()
        assert (number(batch["other"]) < 27).all()
        assert batch["mask"][:, 0].all()
        assert not batch["other_mask"].any()


@pytest.mark.parametrize("options", [{"change": 1}, {"contexts": ("obs", "a")}])
def test_pairs_are_determined_by_the_seed_and_pickle(options):
    data, state = grid(), torch.get_rng_state()
    view = pairs(data, seed=3, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(view.second, pairs(data, seed=3, **options).second)
    assert not torch.equal(view.second, pairs(data, seed=4, **options).second)
    again = pickle.loads(pickle.dumps(view))
    assert torch.equal(again[5]["other"], view[5]["other"])


def test_refuses():
    with pytest.raises(DataError, match="the data has no factors: they are known of data from a simulator"):
        with_factors(grid(factors=False), ["size"])
    with pytest.raises(DataError, match="the data has no factors"):
        pairs(grid(factors=False), change=1)
    with pytest.raises(DataError, match="unknown factors: weight; expected some of size, shape, hue"):
        with_factors(grid(), ["size", "weight"])
    with pytest.raises(DataError, match="unknown factors: none given; expected some of size, shape, hue"):
        with_factors(grid(), [])
    for change in (0, 3):
        with pytest.raises(DataError, match=f"change must be 1 to 2, .* got {change}"):
            pairs(grid(), change=change)
    with pytest.raises(DataError, match="no two images differ in just 1 of the factors size, shape, hue"):
        pairs(grid().subset([0, 13, 26, 27 + 5]), change=1)
    with pytest.raises(DataError, match="give either change or contexts, got change=None and contexts=None"):
        pairs(grid())
    with pytest.raises(DataError, match="no images of context b; contexts here: obs, a"):
        pairs(grid(), contexts=("obs", "b"))
    with pytest.raises(ConceptError, match="unknown concept 'c'"):
        pairs(grid(), contexts=("obs", "c"))
