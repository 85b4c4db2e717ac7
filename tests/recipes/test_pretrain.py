"""recipes/pretrain.py as a user runs it, and its base in recipes/finetune.py."""

import json
import math
import shutil
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from torch import nn

from context_module import ContextualDecoder
from context_module.adapters import Pretraining, register_adapter
from context_module.adapters.modules import ModulesAdapter
from context_module.adapters.registry import get_adapter
from context_module.io import load_tensors, save_tensors
from context_module.objective import Objective
from context_module.options import argument

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


def test_an_untrained_base_trains_with_its_module(here, check, tmp_path):
    """End to end, for a base that finetune.py has no flags to make."""
    argv = ["--samples_per_context", "20", "--resolution", "16", *TINY_NVAE, *QUICK[2:], "--max_train_steps", "0"]
    check.succeeded(here("pretrain.py", "--base", "nvae", "--output_dir", "base", *argv))
    assert json.loads((tmp_path / "base" / "result.json").read_text())["steps"] == 0
    untrained = get_adapter("nvae").load(tmp_path / "base").state_dict()
    argv = ["--base_checkpoint", "base", "--samples_per_context", "20", "--score_samples", "0", *QUICK]
    argv += ["--train_mode", "finetune", "--frozen_share", "0", "--objective", "pixel", "--value_draws", "0"]
    check.succeeded(here("finetune.py", "--output_dir", "out", *argv))
    trained = ContextualDecoder.from_pretrained(tmp_path / "out").base.state_dict()
    for part in ("stem.weight", "image_conditional.1.weight"):  # the encoder's first layer, and the decoder's last
        assert not torch.equal(trained[f"net.{part}"], untrained[f"net.{part}"])


def test_lightweight(here, check, tmp_path):
    argv = ["--output_dir", "base", "--samples_per_context", "4", "--val_fraction", "0.25", *QUICK]
    assert "base: lightweight with" in check.succeeded(here("pretrain.py", "--base", "lightweight", *argv))
    base = get_adapter("lightweight").load(tmp_path / "base")
    assert torch.isfinite(base.decode(base.sample_latent(2)).mean).all()


def test_a_lightweight_base_with_the_penalty_of_another_method(here, check, tmp_path):
    argv = ["--base", "lightweight", "--samples_per_context", "4", "--val_fraction", "0.25", *QUICK]
    penalty = ["--regularizer", "factor_vae", "--regularizer_options", "gamma=2", "discriminator_width=8"]
    check.succeeded(here("pretrain.py", "--output_dir", "base", *argv, *penalty))
    lines = [json.loads(line) for line in (tmp_path / "base" / "metrics.jsonl").read_text().splitlines()]
    (first, *_), kept = lines, json.loads((tmp_path / "base" / "config.json").read_text())
    parts = first["neg_log_likelihood"] + first["kl"] + 2 * first["total_correlation"] + first["discriminator"]
    assert first["loss"] == pytest.approx(parts, rel=1e-4)
    assert set(kept) == {"base", "architecture", "heads", "sha256"}
    assert get_adapter("lightweight").load(tmp_path / "base").image_shape == (3, 64, 64)
    argv += ["--output_dir", "other"]
    message = check.failed(here("pretrain.py", *argv, "--regularizer", "tc_vae", "--beta", "2"))
    assert "--regularizer takes the place of the KL of a lightweight base" in message
    message = check.failed(here("pretrain.py", *argv, "--regularizer_options", "beta=2"))
    assert "--regularizer_options are of a regularizer: give --regularizer, too" in message


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


@dataclass(kw_only=True)
class ToyPretraining(Pretraining):
    """Of somebody else's family: a module of two layers and what it is trained for."""

    files = ("toy.safetensors",)
    width: int = argument(8, help="of the latent")

    def build(self, data):
        size = math.prod(data.image_shape)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, self.width))
        decoder = nn.Sequential(nn.Linear(self.width, size), nn.Unflatten(1, data.image_shape))
        base = Toy(encoder, decoder, (self.width,), data.image_shape)
        return base, ToyObjective(base)

    def settle(self, base, train_data, val_data):
        base.settled = (len(train_data), len(val_data))


class ToyObjective(Objective):
    optimizer = torch.optim.SGD

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, batch, progress=1.0):
        encoding = self.base.encode(batch["x"])
        return {"loss": -self.base.decode(encoding.mean).log_prob(batch["x"])}


class Toy(ModulesAdapter):
    name = "toy"

    @classmethod
    def pretraining(cls):
        return ToyPretraining

    def save(self, directory):
        save_tensors(directory / "toy.safetensors", {"settled": torch.tensor(self.settled), **self.state_dict()})


def test_a_family_of_somebody_else(here, check, tmp_path, monkeypatch):
    """Its adapter says how, with flags of its own: the recipe does not know it."""
    register_adapter(Toy)
    argv = ["--base", "toy", "--output_dir", "base", "--resolution", "8", "--samples_per_context", "20", *QUICK]
    out = check.succeeded(here("pretrain.py", *argv, "--width", "5", "--learning_rate", "1e-4"))
    assert "base: toy with" in out
    tensors = load_tensors(tmp_path / "base" / "toy.safetensors")
    assert tensors["encoder.1.weight"].shape == (5, 192)
    assert tensors["settled"].tolist() == [133, 7]
    assert json.loads((tmp_path / "base" / "arguments.json").read_text())["width"] == 5
    # its flags are of no other family, and the arguments of a run repeat it
    argv[1] = "nvae"
    assert here("pretrain.py", *argv, "--width", "5")[0] == 2
    again = ["--config", "base/arguments.json", "--output_dir", "again"]
    assert "again: toy with" in check.succeeded(here("pretrain.py", *again))


def test_a_family_that_is_not_pretrained(here, check):
    message = check.failed(here("pretrain.py", "--base", "modules", "--output_dir", "base"))
    assert message == "error: a 'modules' base is not pretrained here: give a pretrained one"
    assert "unknown base 'vae': expected some of " in check.failed(here("pretrain.py", "--base", "vae"))


def test_help(here, capsys):
    code, out, _ = here("pretrain.py", "--help")
    assert code == 0
    assert "--spectral_weight" in out
