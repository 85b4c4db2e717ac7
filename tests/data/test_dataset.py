import pickle

import numpy as np
import pytest
import torch

from context_module.data import ArrayContextDataset, ContextData, MappedImages
from context_module.errors import ConceptError, DataError, ShapeError

CONTEXTS = ["obs", "a", "b+a"]


def dataset(n_per_context: int = 10) -> ArrayContextDataset:
    n = n_per_context * len(CONTEXTS)
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 4, 5)
    factors = torch.arange(n)[:, None].float()
    return ArrayContextDataset(images, torch.arange(n) % len(CONTEXTS), CONTEXTS, ["a", "b"], factors, ["number"])


def test_items_are_images_and_masks():
    data = dataset()
    assert len(data) == 30
    assert data.image_shape == (3, 4, 5)
    assert data.context_names == ("obs", "a", "a+b")  # canonical spelling
    item = data[5]
    assert set(item) == {"x", "mask"}
    assert item["x"].dtype == torch.float32
    assert torch.equal(item["x"], torch.full((3, 4, 5), 5 / 255))
    assert item["mask"].tolist() == [True, True]
    assert data.context_of(5) == "a+b"
    assert data[3]["mask"].tolist() == [False, False]
    with pytest.raises(IndexError):
        data[30]


def test_select_gives_the_images_of_one_context_in_order():
    data = dataset()
    assert (data.select("a", 3)[:, 0, 0, 0] * 255).round().tolist() == [1, 4, 7]
    assert data.select("b+a").shape == (10, 3, 4, 5)
    with pytest.raises(DataError, match="no images of context 'b'; contexts here: obs, a, a\\+b"):
        data.select("b")
    with pytest.raises(ConceptError, match="unknown concept 'c'"):
        data.select("c")
    with pytest.raises(DataError, match="cannot select 11 images of context 'a': expected 1 to 10"):
        data.select("a", 11)


def test_split_is_stratified_disjoint_and_determined_by_the_seed():
    data = dataset()
    train, val = data.split(0.3, seed=1)
    assert torch.bincount(train.labels).tolist() == [7, 7, 7]
    assert torch.bincount(val.labels).tolist() == [3, 3, 3]
    assert sorted(torch.cat([train.factors, val.factors]).flatten().tolist()) == list(range(30))
    assert torch.equal((val.select("a")[:, 0, 0, 0] * 255).round(), val.factors[val.labels == 1, 0])
    assert torch.equal(data.split(0.3, seed=1)[1].factors, val.factors)
    assert not torch.equal(data.split(0.3, seed=2)[1].factors, val.factors)
    assert len(data) == 30
    again = train.split(0.5)[0]  # a view of a view
    assert torch.equal((again[0]["x"][0, 0, 0] * 255).round(), again.factors[0, 0])


def test_split_gives_each_side_an_image_or_says_why_not():
    assert [len(part) for part in dataset(2).split(0.01)] == [3, 3]
    with pytest.raises(DataError, match="context 'obs' has one image"):
        dataset(1).split(0.3)
    for fraction in (0, 1, 1.5):
        with pytest.raises(DataError, match=f"between 0 and 1, got {fraction}"):
            dataset().split(fraction)


def test_pickles_also_as_a_view():
    view = pickle.loads(pickle.dumps(dataset().split(0.3)[1]))
    assert torch.equal(view[2]["x"], dataset().split(0.3)[1][2]["x"])


def test_refuses_what_cannot_be_used():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(DataError, match="no images of context 'a'"):
        ArrayContextDataset(images, [0, 0], ["obs", "a"], ["a"])
    with pytest.raises(DataError, match="more than once: a\\+b"):
        ArrayContextDataset(images, [0, 1], ["a+b", "b+a"], ["a", "b"])
    with pytest.raises(DataError, match="labels must be one index per image into the 2 contexts obs, a"):
        ArrayContextDataset(images, [0, 2], ["obs", "a"], ["a"])
    with pytest.raises(DataError, match="at least one context"):
        ArrayContextDataset(images, [0, 0], [], ["a"])
    with pytest.raises(ShapeError, match=r"must be uint8 or bool of shape \(N, C, H, W\), got torch.float32"):
        ArrayContextDataset(images.float(), [0, 1], ["obs", "a"], ["a"])
    with pytest.raises(ShapeError, match="2 images for 3 labels"):
        ArrayContextDataset(images, [0, 1, 1], ["obs", "a"], ["a"])
    with pytest.raises(DataError, match="no images of context 'a'"):
        dataset().subset([0, 3])


def test_context_data_knows_its_concepts():
    data = ContextData(dataset())
    assert data.concepts == ["a", "b"]
    assert data.held_out is None


def test_only_some_contexts():
    data = dataset()
    some = data.only(["b+a", "obs"])
    assert some.context_names == ("a+b", "obs")
    assert len(some) == 20
    assert torch.equal(some.select("a+b"), data.select("a+b"))
    assert some[0]["mask"].tolist() == [False, False]
    assert some.context_of(0) == "obs"
    assert torch.equal(some.factors[some.labels == 0], data.factors[data.labels == 2])
    assert data.context_names == ("obs", "a", "a+b")
    with pytest.raises(DataError, match="no images of context 'b'; contexts here: obs, a, a\\+b"):
        data.only(["b"])


def test_data_of_some_concepts():
    data = ContextData(dataset(), dataset().only(["a+b"]), dataset(), graph=(("a", "b"),))
    some = data.of_concepts(["a"])
    assert some.concepts == some.test.concepts == ["a"]
    assert some.train.context_names == ("obs", "a")
    assert some.train[1]["mask"].tolist() == [True]
    assert torch.equal(some.train.select("a"), data.train.select("a"))
    assert (some.held_out, some.graph) == (None, ())
    none = data.of_concepts([])
    assert none.train.context_names == ("obs",)
    assert none.train[0]["mask"].shape == (0,)
    both = data.of_concepts(["b", "a"])
    assert both.concepts == ["a", "b"]
    assert both.held_out.context_names == ("a+b",)
    assert both.graph == data.graph
    with pytest.raises(ConceptError, match="unknown concept 'c'"):
        data.of_concepts(["c"])
    with pytest.raises(DataError, match="no images of contexts of b alone; contexts here: a"):
        dataset().only(["a"]).of_concepts(["b"])


def test_pooled_images_are_all_observational():
    data = dataset()
    pooled = data.pooled()
    assert pooled.context_names == ("obs",)
    assert len(pooled) == 30
    assert not any(pooled[i]["mask"].any() for i in range(30))
    assert torch.equal(pooled[4]["x"], data[4]["x"])
    assert len(pooled.split(0.5)[0]) == 15


def test_factors_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"one column per factor name, \(2, 1\), got \(2, 3\)"):
        ArrayContextDataset(
            torch.zeros(2, 1, 2, 2, dtype=torch.uint8), [0, 0], ["obs"], ["a"], torch.zeros(2, 3), ["f"]
        )


def test_the_numbers_of_a_split_are_those_of_its_views():
    data = dataset()
    for indices, view in zip(data.split_indices(0.3, seed=1), data.split(0.3, seed=1), strict=True):
        assert torch.equal(data.factors[indices], view.factors)
        assert indices.tolist() == sorted(indices.tolist())


# --- masks


def masks(dtype=torch.uint8):
    pixels = (torch.arange(32).reshape(2, 1, 4, 4) % 3 == 0).to(dtype)
    return pixels, pixels.float()


@pytest.mark.parametrize("mapped", [False, True])
def test_masks_of_uint8_are_white_where_they_are_one(mapped, tmp_path):
    pixels, expected = masks()
    if mapped:
        np.save(tmp_path / "masks.npy", pixels.numpy())
        pixels = MappedImages(tmp_path / "masks.npy")
    with pytest.warns(UserWarning, match="the largest value in the images is 1, of 255 .*: taken for masks"):
        data = ArrayContextDataset(pixels, [0, 1], ["obs", "a"], ["a"])
    assert data.read(torch.arange(2)).equal(expected)
    assert pickle.loads(pickle.dumps(data)).select("a").equal(expected[1:])


@pytest.mark.parametrize("mapped", [False, True])
def test_bool_is_white_where_it_is_true(mapped, tmp_path):
    pixels, expected = masks(torch.bool)
    if mapped:
        np.save(tmp_path / "masks.npy", pixels.numpy())
        pixels = MappedImages(tmp_path / "masks.npy")
    data = ArrayContextDataset(pixels, [0, 1], ["obs", "a"], ["a"])
    assert data.read(torch.arange(2)).equal(expected)


def test_pictures_are_no_masks_however_dark():
    for scale in (0, 2, 255):
        pixels = masks()[0] * scale
        data = ArrayContextDataset(pixels, [0, 1], ["obs", "a"], ["a"])
        assert data.read(torch.arange(2)).equal(pixels.float() / 255)
    one_bright = torch.ones(600, 1, 2, 2, dtype=torch.uint8)
    one_bright[-1, 0, 0, 0] = 7  # beyond what is looked at at a time
    data = ArrayContextDataset(one_bright, torch.arange(600) % 2, ["obs", "a"], ["a"])
    assert data[0]["x"].max() == pytest.approx(1 / 255)


def test_places_of_a_context_evenly_spaced():
    images = torch.zeros(3000, 1, 4, 4, dtype=torch.uint8) + 7
    data = ArrayContextDataset(images, torch.arange(3000) % 3, ("obs", "a", "b"), ("a", "b"))
    assert torch.equal(data.places("a"), torch.arange(1, 3000, 3))
    assert torch.equal(data.places("a", 1000), data.places("a"))
    some = data.places("b", 10)
    assert (some[0], some[-1], len(some.unique())) == (2, 2999, 10)
    assert data.places("b", 10).diff().float().std() < 3
    with pytest.raises(DataError, match="no images of context 'c'; contexts here: obs, a, b"):
        data.places("c")
