"""Contexts made of one folder of images."""

import pickle

import numpy as np
import pytest
import torch

from context_module.data import augment, load_data, mixed_context_loader
from context_module.data.augment import TRANSFORMS
from context_module.errors import ConceptError, DataError
from helpers.pictures import flat, save_picture


@pytest.fixture
def root(tmp_path):
    """Ten images of noise on greys that tell them apart, in two folders."""
    rng = np.random.default_rng(0)
    for i in range(10):
        pixels = 20 * i + rng.integers(0, 40, (16, 24, 3))
        save_picture(tmp_path / "ab"[i % 2] / f"{i}.png", pixels.astype(np.uint8))
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def test_contexts_of_one_folder(root):
    data = load_data("augment", root=root, transforms=["blur", "flip", "warm"], resolution=16)
    assert data.concepts == ["flip", "warm", "blur"]
    assert data.describe() == (
        "contexts: obs (8), flip (8), warm (8), blur (8); held out: flip+warm (2), flip+blur (2), warm+blur (2); "
        "test: obs (2), flip (2), warm (2), blur (2); left out: 1 .txt"
    )
    assert data.train.image_shape == (3, 16, 16)
    assert data.graph == ()
    assert all(part.select(name).min() >= 0 for part in (data.train, data.held_out) for name in part.context_names)
    (batch,) = mixed_context_loader(pickle.loads(pickle.dumps(data.train)), 8, 0, num_steps=1)
    assert batch["x"].shape == (8, 3, 16, 16)


def test_a_concept_changes_the_images_of_obs_as_it_says(root):
    train = augment(root, transforms="flip,dark", resolution=16).train
    obs = train.select("obs")
    assert train.select("flip").equal(obs.flip(2))
    strengths = train.factors[train.labels == 2, 1]
    assert train.select("dark").allclose(obs * (1 - 0.7 * strengths)[:, None, None, None])


def test_factors_are_strengths_where_a_transform_was_made(root):
    data = augment(root, transforms=["flip", "dark"], resolution=16)
    assert data.train.factor_names == ("flip", "dark")
    made = data.train.concepts.mask([data.train.context_of(i) for i in range(len(data.train))])
    assert (data.train.factors[made] >= 0.5).all()
    assert (data.train.factors[made] <= 1).all()
    assert (data.train.factors[~made] == 0).all()
    assert (data.held_out.factors >= 0.5).all()


def test_pairs_do_both_to_images_that_were_not_trained_on(root):
    data = augment(root, transforms=["flip", "dark"], resolution=16, seed=3)
    assert data.test.select("dark").flip(2).allclose(data.held_out.select("flip+dark"))
    trained = data.train.select("obs")
    assert not any(image.equal(other) for image in data.test.select("obs") for other in trained)
    assert len(trained) + len(data.test.select("obs")) == 10


def test_the_seed_decides(root):
    def images(**options):
        return augment(root, resolution=16, **options).train.first(8)

    assert images(seed=1).equal(images(seed=1))
    assert not images(seed=1).equal(images(seed=2))
    chosen = augment(root, transforms=["dark"], resolution=16).train.select("dark")
    assert chosen.equal(augment(root, transforms=["dark", "crop"], resolution=16).train.select("dark"))


def test_views_of_fewer_concepts_do_what_they_did(root):
    data = augment(root, transforms=["crop", "flip", "dark"], resolution=16)
    assert data.of_concepts(["dark"]).train.select("dark").equal(data.train.select("dark"))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_changes_images_and_keeps_their_shape_and_range(name):
    image = torch.rand(3, 17, 24, generator=torch.Generator().manual_seed(0))
    weak, strong = (TRANSFORMS[name](image, strength) for strength in (0.5, 1.0))
    assert weak.shape == strong.shape == image.shape
    for changed in (weak, strong):
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert not changed.allclose(image)
    assert weak.equal(strong) == (name == "flip")


def test_grey_images_have_no_colours_to_cast(tmp_path):
    for i in range(3):
        save_picture(tmp_path / f"{i}.png", flat(80 * i)[..., 0])
    with pytest.raises(DataError, match="the transform 'cool' is of colours, but the images are grey: leave it out"):
        augment(tmp_path, transforms=["flip", "cool"])
    assert augment(tmp_path, transforms=["overlay"]).train.image_shape == (1, 8, 8)


def test_what_cannot_be_augmented(root, tmp_path_factory):
    with pytest.raises(DataError, match="no transform 'rotate': expected some of crop, flip"):
        augment(root, transforms="flip,rotate")
    with pytest.raises(DataError, match="no transforms to make concepts of"):
        augment(root, transforms=[])
    with pytest.raises(ConceptError, match="more than once: flip"):
        augment(root, transforms="flip,flip")
    with pytest.raises(DataError, match="unseen must lie between 0 and 1, .* got 1"):
        augment(root, unseen=1)
    with pytest.raises(DataError, match="no folder .*nowhere"):
        augment(root / "nowhere")
    other = tmp_path_factory.mktemp("other")
    save_picture(other / "0.png", flat(0))
    with pytest.raises(DataError, match="1 images in .*: expected at least 2"):
        augment(other)
    (other / "1.png").write_text("")
    with pytest.warns(UserWarning, match="skipped 1"), pytest.raises(DataError, match="1 images in"):
        augment(other, skip_corrupt=True)
