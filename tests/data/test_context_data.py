"""What a recipe is handed, in words, and with compositions to train on."""

import pickle

import pytest
import torch

from context_module.data import ArrayContextDataset, ContextData, TextContextDataset, load_data, mixed_context_loader
from context_module.errors import ConceptError, DataError, ShapeError
from helpers.pictures import flat, random_data, rows_of, save_picture


def whole(contexts=("obs", "a", "b", "a+b", "b+c", "a+b+c"), per_context=3, factors=True):
    """Image i is of grey value 10 i; the contexts of one concept are trained on."""
    n = len(contexts) * per_context
    images = (10 * torch.arange(n)).to(torch.uint8)[:, None, None, None].expand(n, 1, 4, 4)
    labels = torch.arange(len(contexts)).repeat_interleave(per_context)
    values = torch.arange(n)[:, None].float() if factors else None
    data = ArrayContextDataset(images, labels, contexts, ["a", "b", "c"], values, ("value",) if factors else ())
    train = [name for name in contexts if "+" not in name]
    return ContextData(data.only(train), data.only([name for name in contexts if name not in train]))


def test_one_line_of_counts():
    data = whole()
    assert data.describe() == "contexts: obs (3), a (3), b (3); held out: a+b (3), b+c (3), a+b+c (3)"
    alone = ContextData(data.train, test=data.train, left_out=("@eaDir", "2 .heic files"))
    assert alone.describe() == (
        "contexts: obs (3), a (3), b (3); test: obs (3), a (3), b (3); left out: @eaDir, 2 .heic files"
    )
    names = ["obs", *(f"c{i}" for i in range(29))]
    images = torch.full((2000 + 29, 1, 2, 2), 9, dtype=torch.uint8)
    labels = torch.arange(30).repeat_interleave(torch.tensor([2000] + [1] * 29))
    many = ContextData(ArrayContextDataset(images, labels, names, names[1:])).describe()
    assert many.startswith("contexts: obs (2,000), c0 (1), c1 (1)")
    assert many.endswith("c18 (1), and 10 more (10)")


def test_compositions_are_trained_on_by_choice_and_the_others_stay_held_out():
    data = whole().training_on(["c+b", "a+b"])
    assert data.train.context_names == ("obs", "a", "b", "a+b", "b+c")
    assert data.held_out.context_names == ("a+b+c",)
    assert [rows_of(data.train, name) for name in ("obs", "a+b", "b+c")] == [[0, 1, 2], [9, 10, 11], [12, 13, 14]]
    assert data.train.factors.flatten().tolist() == list(range(15))
    assert whole().training_on(["a+b", "b+c", "a+b+c"]).held_out is None
    assert whole(factors=False).training_on(["a+b"]).train.factors is None
    untouched = whole()
    assert untouched.training_on([]) is untouched


def test_masks_batches_views_and_pickles_of_what_was_joined():
    data = whole().training_on(["a+b"])
    train = pickle.loads(pickle.dumps(data.train))
    (batch,) = mixed_context_loader(train, 8, 0, num_steps=1)
    assert batch["mask"].sum(1).bincount().tolist() == [2, 4, 2]
    of_both = batch["x"][batch["mask"].sum(1) == 2, 0, 0, 0] * 255
    assert set(of_both.round().tolist()) < {90, 100, 110}
    part, rest = train.split(0.4, seed=1)
    assert sorted(rows_of(part, "a+b") + rows_of(rest, "a+b")) == [9, 10, 11]
    assert data.of_concepts(["a"]).train.context_names == ("obs", "a")
    assert train.fingerprint() == data.train.fingerprint() != whole().train.fingerprint()
    again = data.training_on(["b+c"])  # joined to what is joined
    assert rows_of(again.train, "b+c") == [12, 13, 14]
    assert rows_of(again.train, "a+b") == [9, 10, 11]


def test_texts_are_joined_with_their_ids():
    ids = [torch.tensor([i, 9]) for i in range(4)]
    texts = ["o", "x", "y", "xy"]
    every = TextContextDataset(
        texts, range(4), ["obs", "x", "y", "x+y"], ["x", "y"], tokenize=lambda texts, names: ids
    )
    data = ContextData(every.only(["obs", "y", "x"]), every.only(["x+y"])).training_on(["y+x"])
    assert data.train.texts() == texts
    assert data.train.texts("x+y") == ["xy"]
    assert data.train.select("x+y").tolist() == [[3, 9]]
    plain = TextContextDataset(texts[:3], range(3), ["obs", "x", "y"], ["x", "y"])
    with pytest.raises(DataError, match="have no token ids"):
        plain.joined(every.only(["x+y"])).select("x")
    with pytest.raises(DataError, match="texts cannot be joined with images"):
        plain.joined(whole().train)


def test_loaded_data_trains_on_them_too(tmp_path):
    for i, name in enumerate(["obs", "hat", "smile", "hat+smile"]):
        save_picture(tmp_path / name / "0.png", flat(10 * i))
    data = load_data(tmp_path, training_on="smile+hat")
    assert data.train.context_names == ("obs", "hat", "smile", "hat+smile")
    assert rows_of(data.train, "hat+smile") == [3]
    assert data.held_out is None


def test_what_cannot_be_trained_on_or_joined():
    data = whole()
    with pytest.raises(DataError, match=r"no held-out images of a\+c to train on; held out: a\+b, b\+c, a\+b\+c"):
        data.training_on(["a+b", "a+c"])
    with pytest.raises(DataError, match="no held-out images of a to train on"):
        data.training_on(["a"])
    with pytest.raises(ConceptError, match="unknown concept 'd'"):
        data.training_on(["a+d"])
    with pytest.raises(DataError, match="no held-out images of a.b to train on; held out: none"):
        ContextData(data.train).training_on(["a+b"])
    with pytest.raises(DataError, match="given more than once: a, b"):
        data.train.joined(data.train.only(["a", "b"]))
    with pytest.raises(DataError, match="of concepts a, b, c cannot be joined with that of a, b"):
        data.train.joined(random_data((1, 4, 4)).only(["a+b"]))
    small = ArrayContextDataset(torch.full((1, 1, 2, 2), 9, dtype=torch.uint8), [0], ["a+b"], ["a", "b", "c"])
    with pytest.raises(ShapeError, match=r"images of \(1, 4, 4\) cannot be joined with others of \(1, 2, 2\)"):
        data.train.joined(small)
