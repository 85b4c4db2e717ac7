"""recipes/pretrain.py as a user runs it, and its base in recipes/finetune.py."""

import json
import shutil

import pytest
import torch
from PIL import Image

from context_module import ContextualDecoder
from context_module.adapters.registry import get_adapter

QUICK = ["--max_train_steps", "3", "--train_batch_size", "14", "--validation_steps", "2", "--logging_steps", "1"]
TINY_NVAE = ["--channels", "4", "--latent_channels", "2", "--num_blocks", "1", "--ops", "res_bnelu"]


@pytest.fixture(scope="module")
def pretrained(run, check, tmp_path_factory):
    """A tiny NVAE for 16 x 16 images: (its folder, what was printed)."""
    cwd = tmp_path_factory.mktemp("pretrain")
    argv = ["--output_dir", "base", "--resolution", "16", "--samples_per_context", "20", *TINY_NVAE, *QUICK]
    return cwd / "base", check.succeeded(run("pretrain.py", "--base", "nvae", *argv, cwd=cwd))


def test_nvae(pretrained):
    folder, out = pretrained
    assert "base: nvae with" in out
    assert "best validation loss" in out
    assert json.loads((folder / "result.json").read_text())["steps"] == 3
    assert json.loads((folder / "arguments.json").read_text())["resolution"] == 16
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "lr" in line] == [1, 2, 3]
    assert [line["step"] for line in lines if "val_loss" in line] == [2, 3]
    with Image.open(folder / "samples" / "step-000003.png") as picture:
        assert picture.height == 3 * 66  # images, reconstructions, samples
    base = get_adapter("nvae").load(folder)
    assert base.image_shape == (3, 16, 16)
    assert base.decode(base.sample_latent(2)).mean.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("options", [["--objective", "latent"], ["--objective", "pixel", "--score_samples", "0"]])
def test_its_base_is_finetuned(options, pretrained, here, check, tmp_path):
    argv = ["--base_checkpoint", pretrained[0], "--samples_per_context", "20", "--score_samples", "10", *QUICK]
    out = check.succeeded(here("finetune.py", "--output_dir", "out", *argv, *options))
    assert ("| quad1+size |" in out) == ("latent" in options)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["module"]["latent_noise"] == ("latent" in options)
    assert config["base_name_or_path"] == str(pretrained[0])


def test_lightweight(here, check, tmp_path):
    argv = ["--output_dir", "base", "--samples_per_context", "4", "--val_fraction", "0.25", *QUICK]
    assert "base: lightweight with" in check.succeeded(here("pretrain.py", "--base", "lightweight", *argv))
    base = get_adapter("lightweight").load(tmp_path / "base")
    assert torch.isfinite(base.decode(base.sample_latent(2)).mean).all()


def test_diffusers(here, check, tmp_path):
    argv = ["--resolution", "8", "--samples_per_context", "20", *QUICK]
    out = check.succeeded(here("pretrain.py", "--base", "diffusers", "--output_dir", "base", *argv))
    assert "base: diffusers with" in out
    base = get_adapter("diffusers").load(tmp_path / "base")
    assert base.image_shape == (3, 8, 8)
    assert base.latent.scale != 1  # calibrated
    argv = ["--base", "diffusers", "--base_checkpoint", "base", "--samples_per_context", "20", *QUICK]
    check.succeeded(here("finetune.py", "--output_dir", "module", "--score_samples", "0", *argv))
    again = ContextualDecoder.from_pretrained(tmp_path / "module")
    assert again.base.source == str(tmp_path / "base")
    assert again.generate(2, do="quad1").shape == (2, 3, 8, 8)
    # the same base, as a part of a pipeline, and of larger images
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "base").rename(tmp_path / "pipeline" / "vae")
    argv[3] = "pipeline"
    argv += ["--subfolder", "vae", "--sample_size", "16"]
    check.succeeded(here("finetune.py", "--output_dir", "larger", "--score_samples", "0", *argv))
    again = ContextualDecoder.from_pretrained(tmp_path / "larger")
    assert again.base.options == {"subfolder": "vae", "sample_size": 16}
    assert again.generate(2, do="quad1").shape == (2, 3, 16, 16)


def test_denoiser(here, check, tmp_path):
    data = ["--samples_per_context", "20", *QUICK, "--validation_steps", "3"]
    out = check.succeeded(
        here("pretrain.py", "--base", "denoiser", "--output_dir", "base", "--resolution", "8", "--beta", "0.5", *data)
    )
    assert "base: denoiser with" in out
    lines = [json.loads(line) for line in (tmp_path / "base" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "kl" in line][-1]
    assert last["loss"] == pytest.approx(last["error"] + 0.5 * last["kl"], rel=1e-4)
    base = get_adapter("denoiser").load(tmp_path / "base")
    assert base.image_shape == (3, 8, 8)
    assert base.encoder.fitted
    options = ["--base", "denoiser", "--base_checkpoint", "base", "--base_options", "num_inference_steps=2"]
    argv = [*options, "--output_dir", "module", "--score_samples", "10", "--value_draws", "0", *data]
    assert "| quad1+size |" in check.succeeded(here("finetune.py", *argv))
    again = ContextualDecoder.from_pretrained(tmp_path / "module")
    assert again.config.latent_noise  # the latent objective by itself
    assert again.base.num_inference_steps == 2
    assert again.generate(2, do="quad1").shape == (2, 3, 8, 8)
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    out = check.succeeded(here("compose.py", "--model", "module", "--do", "quad1", "size", "--image", "image.png"))
    assert "image, obs, quad1, size, quad1+size" in out
    # without its encoder it is a denoiser like any other
    shutil.rmtree(tmp_path / "base" / "encoder")
    argv += ["--overwrite"]
    message = "a 'denoiser' base has no decoder inputs of its own behind images"
    assert message in check.failed(here("finetune.py", *argv, "--objective", "latent"))
    assert "| quad1+size |" in check.succeeded(here("finetune.py", *argv, "--train_mode", "lora"))
    again = ContextualDecoder.from_pretrained(tmp_path / "module")
    assert again.lora is not None
    assert not again.config.latent_noise
    argv[argv.index("num_inference_steps=2")] = "wings=2"
    assert "takes no option wings (2): it takes revision" in check.failed(here("finetune.py", *argv))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--base", "denoiser", "--resolution", "10"], "sides that divide by 4, got 10x10: set --resolution"),
        (["--base", "diffusers", "--resolution", "10"], "sides that divide by 4, got 10x10: set --resolution"),
        (
            ["--base", "lightweight", "--resolution", "16"],
            "no lightweight architecture for images of shape (3, 16, 16)",
        ),
        (["--resolution", "16", "--ops", "nonsense"], "ops"),
        (["--resolution", "4"], "resolution"),
        (["--data", "nowhere"], "unknown data 'nowhere': expected quad, quad_dependent, "),
        (["--gradient_accumulation_steps", "3"], "does not divide by --gradient_accumulation_steps 3"),
        (["--report_to", "nonsense"], "nonsense"),
    ],
)
def test_errors(argv, message, here, check):
    assert message in check.failed(here("pretrain.py", "--output_dir", "new", "--samples_per_context", "4", *argv))


def test_images_that_are_not_square(here, check, tmp_path):
    for context in ("obs", "a"):
        (tmp_path / "data" / context).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (16, 8)).save(tmp_path / "data" / context / f"{number}.png")
    message = check.failed(here("pretrain.py", "--output_dir", "new", "--data", "data"))
    assert message == "error: an NVAE takes square images, got 8x16: set --resolution"


def test_help(here, capsys):
    code, out, _ = here("pretrain.py", "--help")
    assert code == 0
    assert "--spectral_weight" in out
