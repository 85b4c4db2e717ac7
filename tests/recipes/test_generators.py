"""A generator's own samples through the recipes: labelled, composed on, judged, and a labeller taught."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from context_module.adapters import load_base
from context_module.data import load_labellers
from helpers.draws import seeded

RECIPES = Path(__file__).parents[2] / "recipes"
LABELS = """
def top(images):
    return 100 * (images[:, 0, :8].mean((1, 2)) - {top})

def left(images):
    return 100 * (images[:, 1, :, :8].mean((1, 2)) - {left})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of a small generator of 16 x 16 images, at random, and a file of labellers."""
    path = tmp_path_factory.mktemp("generator")
    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(6, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 4, 4, 2, 1))
    net.extend([nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 3, 4, 2, 1)])
    with torch.no_grad():
        net[-1].weight.mul_(8)  # of some contrast
    torch.save({f"main.{name}": tensor for name, tensor in net.state_dict().items()}, path / "netG.pth")
    base = load_base("dcgan", path / "netG.pth")
    with torch.no_grad():
        images = base.decode(base.sample_latent(500, seeded(0))).mean
    halves = {"top": images[:, 0, :8], "left": images[:, 1, :, :8]}
    bars = {name: half.mean((1, 2)).quantile(0.6).item() for name, half in halves.items()}
    (path / "labels.py").write_text(LABELS.format(**bars))
    return path


def flags(folder, n=600):
    data = ["--data_options", f"labeller={folder / 'labels.py'}", "concepts=top,left", f"n={n}"]
    return ["--base", "dcgan", "--base_checkpoint", str(folder / "netG.pth"), "--data", "samples", *data]


@pytest.fixture(scope="module")
def composed(run, check, folder, tmp_path_factory):
    """(folder of the module, what the recipe said)."""
    cwd = tmp_path_factory.mktemp("composed")
    argv = [*flags(folder), "--max_train_steps", "0", "--score_samples", "30", "--cache_dir", "cache"]
    out = check.succeeded(run("finetune.py", "--output_dir", "out", *argv, cwd=cwd))
    return cwd / "out", out


def test_a_generator_composes_without_an_encoder(composed):
    path, out = composed
    assert "an encoder for the base" not in out
    assert "edits made longer, until 95% of their pictures are labelled so, by factors: top " in out
    assert "| top+left | context module |" in (path / "labels.md").read_text()
    assert "| top+left | Gaussian maps |" in out
    assert len(list((path.parent / "cache").glob("samples-*-600.npy"))) == 1


def test_a_labeller_of_the_users_judges(composed, folder, here, check, tmp_path):
    path, _ = composed
    labeller = ["--labeller", folder / "labels.py"]
    argv = ["--model", path, "--samples", "15", "--metrics", "sliced_wasserstein", "--output_dir", "scores", *labeller]
    error = check.failed(here("evaluate.py", *argv))
    assert "no record makes a file run: say it yourself, --data_options labeller=" in error
    words = flags(folder)[4:]
    out = check.succeeded(here("evaluate.py", *argv, *words, "--val_fraction", "0.4"))
    table = (tmp_path / "scores" / "labels.md").read_text()
    assert table in out
    assert "| do | way | top | left | asked | own | moved | sharpness |" in table
    assert table.count("| top+left | ") == 4
    page = (tmp_path / "scores" / "report.html").read_text()
    assert "strength of the intervention on top" in page
    assert page.count("<td>–</td>") >= 4 * 3  # of real images some figures are not told
    assert '<a href="#labels">By a labeller</a>' in page


def test_one_labeller_teaches_another(folder, here, check, tmp_path):
    small = ["--max_train_steps", "120", "--train_batch_size", "60"]
    widths = ["--config_overrides", "hidden_sizes=[8,16]", "depths=[1,1]", "embedding_size=8"]
    small += ["--validation_steps", "60", "--learning_rate", "0.01"]
    out = check.succeeded(here("train_labeller.py", *flags(folder), *small, *widths, "--output_dir", "taught"))
    agreement = json.loads((tmp_path / "taught" / "agreement.json").read_text())
    assert list(agreement) == ["left", "top"]
    assert min(agreement["top"], agreement["left"]) > 0.6  # chance: a half
    assert f"agrees on {agreement['top']:.1%} of top, {agreement['left']:.1%} of left" in out
    assert "--data samples --data_options labeller=taught concepts=top,left" in out.splitlines()[-1]
    images = torch.rand(4, 3, 16, 16)
    assert load_labellers(str(tmp_path / "taught"), ["left"])["left"](images).shape == (4,)
    error = check.failed(here("train_labeller.py", "--data", "quad", *flags(folder)[:4], "--overwrite"))
    assert error.startswith("error: a labeller is taught by another one, on samples of a base: give --data samples")


@pytest.mark.skipif(
    importlib.util.find_spec("gan_face_generate") is None, reason="pip install --no-deps gan-face-generate"
)
def test_faces(here, check, short_trainings, tmp_path):
    """What `make faces` does, with an eighth of its samples."""
    shipped = RECIPES / "pretrained"
    options = [f"labeller={shipped / 'face-labeller'}", "concepts=smile,glasses", "n=1500"]
    base = ["--base", "dcgan", "--base_checkpoint", "gan_face_generate:weights.tar"]
    argv = [*base, "--data", "samples", "--data_options", *options, "--max_train_steps", "0", "--score_samples", "0"]
    check.succeeded(here("finetune.py", *argv, "--output_dir", "faces"))
    check.succeeded(here("compose.py", "--model", "faces", "--do", "smile", "glasses", "--output", "faces.png"))
    with Image.open(tmp_path / "faces.png") as picture:
        assert min(picture.size) > 4 * 64
    judge = ["--labeller", shipped / "face-judge", "--samples", "40"]
    out = check.succeeded(here("evaluate.py", "--model", "faces", *judge))
    (row,) = (line for line in out.splitlines() if line.startswith("| smile+glasses | context module |"))
    assert float(row.split("|")[3].split()[0]) > 0.7  # smiles
    assert float(row.split("|")[4].split()[0]) > 0.6  # glasses
