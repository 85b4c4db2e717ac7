"""Labelled picture grids."""

import pytest
import torch

from context_module import wrap_decoder
from context_module.drawing.grids import labelled_grid
from context_module.errors import ShapeError
from context_module.model.rows import contexts_on_one_noise


def test_small_images_are_enlarged_by_a_whole_factor():
    grid = labelled_grid({"obs": torch.zeros(3, 3, 10, 20), "a": torch.zeros(2, 3, 10, 20)}, min_size=35)
    narrow = labelled_grid({"obs": torch.zeros(1, 3, 10, 20)}, min_size=35)
    assert grid.mode == "RGB"
    assert grid.height == 2 * (4 * 10 + 2)
    assert grid.width - narrow.width == 2 * (4 * 20 + 2)


def test_large_images_are_not_enlarged():
    assert labelled_grid({"obs": torch.zeros(1, 1, 70, 90)}).height == 72


def test_pixels_and_missing_images():
    rows = {"x": torch.tensor([0.0, 0.5, 2.0]).view(3, 1, 1, 1).expand(3, 3, 4, 4), "y": torch.zeros(1, 3, 4, 4)}
    grid = labelled_grid(rows, min_size=4)
    margin = grid.width - 3 * 6
    assert [grid.getpixel((margin + 6 * column, 1)) for column in range(3)] == [(v,) * 3 for v in (0, 128, 255)]
    assert grid.getpixel((margin, 7)) == (0, 0, 0)
    assert grid.getpixel((margin + 6, 7)) == (255, 255, 255)  # a shorter row leaves white


def test_grey_and_colour():
    colour = torch.zeros(1, 3, 64, 64)
    colour[:, 0] = 1
    grid = labelled_grid({"x": colour})
    assert grid.getpixel((grid.width - 10, 10)) == (255, 0, 0)
    grid = labelled_grid({"x": torch.full((1, 1, 64, 64), 0.2)})
    assert grid.getpixel((grid.width - 10, 10)) == (51, 51, 51)


def test_labels_are_written_and_make_room():
    images = torch.zeros(1, 1, 64, 64)
    short, long = (labelled_grid({label: images}) for label in ("a", "quad1+orientation"))
    assert long.width > short.width
    margin = long.crop((0, 0, long.width - 66, 66)).convert("L")
    assert margin.getextrema() == (0, 255)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "images of one shape, got none"),
        ({"a": torch.zeros(1, 3, 4, 4), "b": torch.zeros(1, 3, 5, 5)}, r"one shape, got \[\(3, 4, 4\), \(3, 5, 5\)\]"),
        ({"a": torch.zeros(3, 4, 4)}, r"C = 1 or 3, got images of shape \(4, 4\)"),
        ({"a": torch.zeros(1, 2, 4, 4)}, r"C = 1 or 3, got images of shape \(2, 4, 4\)"),
    ],
)
def test_shapes_that_make_no_grid(rows, message):
    with pytest.raises(ShapeError, match=message):
        labelled_grid(rows)


@pytest.mark.parametrize("latent_noise", [False, True])
def test_rows_share_all_noise(latent_noise, make_base):
    model = wrap_decoder(make_base("nvae"), ["a", "b"], noise_width=4, concept_width=4, latent_noise=latent_noise)
    model.eval()
    rows = contexts_on_one_noise(model, ["obs", "a", "a+b"], n=2)
    again = contexts_on_one_noise(model, ["a+b", "obs"], n=2)
    assert list(rows) == ["obs", "a", "a+b"]
    assert rows["obs"].shape == (2, 3, 8, 8)
    assert torch.equal(rows["obs"], again["obs"])
    assert torch.equal(rows["a+b"], again["a+b"])
    assert not torch.equal(rows["obs"], rows["a"])
    assert not torch.equal(rows["obs"], contexts_on_one_noise(model, ["obs"], n=2, seed=1)["obs"])


def test_rows_of_an_abduction(make_base):
    model = wrap_decoder(make_base("nvae"), ["a", "b"], noise_width=4, concept_width=4).eval()
    abduction = model.abduct(torch.rand(3, 3, 8, 8), "a")
    rows = contexts_on_one_noise(model, ["a", "b"], abduction=abduction)
    assert rows["b"].shape == (3, 3, 8, 8)
    assert torch.equal(rows["a"], model.generate(noise=abduction, do="a"))


def test_no_images_are_refused(make_base):
    model = wrap_decoder(make_base("modules"), ["a"], noise_width=4, concept_width=4)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        contexts_on_one_noise(model, ["a"], n=0)
