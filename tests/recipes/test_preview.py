"""recipes/preview.py as a user runs it."""

import numpy as np
import pytest
from PIL import Image


def test_a_row_for_every_context_of_generated_data(run, check, tmp_path):
    out = check.succeeded(run("preview.py", "--data", "quad", "--n", "3", "--resolution", "16", cwd=tmp_path))
    assert out.startswith("preview.png: 16 contexts of 3x16x16 images: obs, quad1, ")
    assert ", quad2+orientation\ncontexts: obs (3), quad1 (3), " in out
    with Image.open(tmp_path / "preview.png") as picture:
        assert picture.height == 16 * 66
        assert 3 * 66 < picture.width < 3 * 66 + 150
        assert len(picture.getcolors(maxcolors=100_000)) > 100


def test_folders_show_what_there_is(here, check, tmp_path):
    for context, count in {"obs": 4, "smile": 2, "glasses": 2, "smile+glasses": 1}.items():
        (tmp_path / "photos" / context).mkdir(parents=True)
        for number in range(count):
            grey = Image.fromarray(np.full((8, 8), 40 * number, dtype=np.uint8))
            grey.save(tmp_path / "photos" / context / f"{number}.png")
    out = check.succeeded(here("preview.py", "--data", "photos", "--output", "new.png"))
    assert out.startswith("new.png: 4 contexts of 1x8x8 images: obs, ")
    with Image.open(tmp_path / "new.png") as picture:
        assert picture.height == 4 * 66
        assert 4 * 66 < picture.width < 4 * 66 + 150


def test_options_of_the_data(here, check):
    argv = ["--data", "dsprites", "--resolution", "16", "--n", "2", "--data_options", "held_out_samples=0"]
    assert ": 6 contexts of 1x16x16 images: obs, shape, " in check.succeeded(here("preview.py", *argv))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "nowhere"], "unknown data 'nowhere': expected quad"),
        (["--n", "0"], "--n must be at least 1, got 0"),
        (["--data_options", "colour=1"], "the quad data takes no option 'colour'"),
        (["--resolution", "4"], "resolution must be at least 8 pixels"),
        (["--output", "nowhere/preview.png"], "nowhere"),
    ],
)
def test_errors(argv, message, here, check, tmp_path):
    assert message in check.failed(here("preview.py", "--samples_per_context", "2", *argv))
    assert not list(tmp_path.rglob("*.png"))
