"""Classifiers of single interventions on quad pictures, and counting what they find."""

import json

import pytest
import torch

from context_module.data import ArrayContextDataset, quad
from context_module.errors import ConceptError, DataError, ShapeError
from context_module.metrics.concept_accuracy import (
    ConceptClassifier,
    concept_accuracy,
    train_concept_classifier,
)

QUICK = {"steps": 150, "batch_size": 70, "progress": False}


@pytest.fixture(scope="module")
def data():
    return quad(resolution=16, samples_per_context=300, held_out_samples=60, test_samples=60)


@pytest.fixture(scope="module")
def classifier(data):
    return train_concept_classifier(data.train, **QUICK)


def mean_exact(classifier, images):
    scores = [concept_accuracy(classifier, images.select(name), name).exact.value for name in images.context_names]
    return sum(scores) / len(scores)


def test_recognises_real_singles_and_pairs_it_never_saw(data, classifier):
    assert mean_exact(classifier, data.test) > 0.8
    assert mean_exact(classifier, data.held_out) > 0.4  # by chance 1/64; of one concept at most: 0
    pairs = [concept_accuracy(classifier, data.held_out.select(name), name) for name in data.held_out.context_names]
    rates = torch.tensor([[rate.value for rate in found.detected.values()] for found in pairs])
    intended = data.concepts.mask(data.held_out.context_names)
    assert rates[intended].mean() > 0.65
    assert rates[~intended].mean() < 0.1


def test_images_of_another_context_do_not_count(data, classifier):
    singles = data.test.select("quad1")
    assert concept_accuracy(classifier, singles, "quad1").exact.value > 0.8
    for other in ("obs", "quad2", "quad1+quad2"):
        assert concept_accuracy(classifier, singles, other).exact.value < 0.2


class Stub(ConceptClassifier):
    """Detects concept j where pixel j is bright."""

    def forward(self, images):
        return images.flatten(1)[:, : len(self.concepts)] - 0.5


def test_rates_by_hand():
    images = torch.zeros(20, 1, 2, 2)
    images[:15, 0, 0, 0] = 1  # 15 show a
    images[10:, 0, 0, 1] = 1  # 10 show b, 5 of them both
    classifier = Stub(["a", "b"], (1, 2, 2))
    shares = {name: concept_accuracy(classifier, images, name) for name in ("obs", "a", "b", "a+b")}
    assert {name: found.exact.value for name, found in shares.items()} == {"obs": 0, "a": 0.5, "b": 0.25, "a+b": 0.25}
    for found in shares.values():
        assert {concept: rate.value for concept, rate in found.detected.items()} == {"a": 0.75, "b": 0.5}
    exact = shares["a"].exact
    assert exact.samples == 20
    assert exact.low < 0.5 < exact.high
    assert concept_accuracy(classifier, images, ["b", "a"]).context == "a+b"
    assert json.loads(json.dumps(shares["a"].to_dict()))["detected"]["a"]["value"] == 0.75


def test_determined_by_the_seed_and_global_random_state_untouched(data):
    few = {"steps": 3, "batch_size": 14, "progress": False}
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = train_concept_classifier(data.train, **few)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    images = data.test.select("obs", 4)
    again = train_concept_classifier(data.train, **few)
    assert torch.equal(first(images), again(images))
    assert not torch.equal(first(images), train_concept_classifier(data.train, seed=1, **few)(images))
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_is_trained_once_for_the_same_images_where_there_is_a_cache(data, tmp_path, monkeypatch):
    few = {"steps": 3, "batch_size": 14, "progress": False, "cache_dir": tmp_path / "cache"}
    images = data.test.select("obs", 4)
    first = train_concept_classifier(data.train, **few)
    for other in ({"seed": 1}, {"steps": 2}, {"batch_size": 7}):
        assert not torch.equal(first(images), train_concept_classifier(data.train, **few | other)(images))
    fewer = train_concept_classifier(data.train.subset(torch.arange(0, len(data.train), 2)), **few)
    assert not torch.equal(first(images), fewer(images))
    assert len(list((tmp_path / "cache").iterdir())) == 5

    monkeypatch.setattr("context_module.metrics.networks.progress_bar", None)  # it would be trained with a bar
    again = train_concept_classifier(data.train, **few)
    assert torch.equal(first(images), again(images))
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_a_damaged_file_of_the_cache_is_replaced(data, tmp_path):
    few = {"steps": 3, "batch_size": 14, "progress": False, "cache_dir": tmp_path}
    images = data.test.select("obs", 4)
    first = train_concept_classifier(data.train, **few)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    with pytest.warns(UserWarning, match=rf"{file.name} is not .*truncated.*: training a ConceptClassifier anew"):
        again = train_concept_classifier(data.train, **few)
    assert torch.equal(first(images), again(images))
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_no_classifier(data, tmp_path):
    few = {"steps": 3, "batch_size": 14, "progress": False}
    images = data.test.select("obs", 4)
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"file/ConceptClassifier-\w+.safetensors cannot be written .*: it will be"):
        trained = train_concept_classifier(data.train, **few, cache_dir=tmp_path / "file")
    assert torch.equal(trained(images), train_concept_classifier(data.train, **few)(images))


def test_features_are_a_space_of_moderate_dimension(data, classifier):
    images = data.test.read(torch.arange(300))
    features = classifier.features(images)
    assert features.shape == (300, 128)
    torch.testing.assert_close(classifier.head(features), classifier.read(images))
    torch.testing.assert_close(classifier.read(images[:5]), classifier(images[:5]))


def test_large_images_are_averaged_down():
    torch.manual_seed(0)
    classifier = ConceptClassifier(["a"], (1, 80, 64)).eval()
    small = torch.rand(2, 1, 40, 32)
    same = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert classifier(same).shape == (2, 1)
    assert ConceptClassifier(["a"], (1, 5, 30))(torch.rand(2, 1, 5, 30)).shape == (2, 1)
    checkerboard = same.clone()
    checkerboard[..., ::2] += 0.1
    checkerboard[..., 1::2] -= 0.1
    torch.testing.assert_close(classifier(checkerboard), classifier(same))


def test_refuses_images_it_was_not_made_for(data, classifier):
    with pytest.raises(ShapeError, match=r"expected float images of shape \(n, 3, 16, 16\).*\(10, 3, 8, 8\)"):
        concept_accuracy(classifier, torch.rand(10, 3, 8, 8), "obs")
    with pytest.raises(ShapeError, match=r"got torch.uint8 \(10, 3, 16, 16\)"):
        concept_accuracy(classifier, torch.zeros(10, 3, 16, 16, dtype=torch.uint8), "obs")
    with pytest.raises(ShapeError, match=r"images must lie in \[0, 1\], got values from -1 to -1"):
        concept_accuracy(classifier, torch.full((10, 3, 16, 16), -1.0), "obs")
    with pytest.raises(ConceptError, match=r"unknown concept 'sise'.*Did you mean 'size'"):
        concept_accuracy(classifier, data.test.select("size"), "sise")
    with pytest.raises(DataError, match="at least 10 items, got 3"):
        concept_accuracy(classifier, data.test.select("size", 3), "size")


def test_refuses_data_it_cannot_learn_from(data):
    grey = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    without = ArrayContextDataset(grey[:2], [0, 1], ("obs", "a"), ("a", "b"))
    with pytest.raises(DataError, match="images of obs and of every single concept; none of b$"):
        train_concept_classifier(without, progress=False)
    joint = ArrayContextDataset(grey, [0, 1, 2], ("obs", "a", "a+b"), ("a", "b"))
    with pytest.raises(DataError, match="none of b"):
        train_concept_classifier(joint, progress=False)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        train_concept_classifier(data.train, steps=0)


def test_compositions_that_were_trained_on_teach_it_nothing():
    images = torch.randint(0, 256, (80, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(80) % 4
    both = ArrayContextDataset(images, labels, ("obs", "a", "b", "a+b"), ("a", "b"))
    found = [
        train_concept_classifier(data, steps=3, batch_size=6, progress=False)
        for data in (both, both.only(["obs", "a", "b"]))
    ]
    assert all(
        torch.equal(one, other) for one, other in zip(*(part.state_dict().values() for part in found), strict=True)
    )
