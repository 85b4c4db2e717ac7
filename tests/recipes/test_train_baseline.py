"""recipes/train_baseline.py as a user runs it, and its result in recipes/evaluate.py."""

import json

import pytest
from PIL import Image

QUICK = ["--max_train_steps", "4", "--train_batch_size", "14", "--validation_steps", "2", "--logging_steps", "1"]


def test_a_baseline_is_trained_and_scored(here, check, tmp_path):
    argv = [
        "--method",
        "joint_vae",
        "--data",
        "dsprites_grid",
        "--samples_per_context",
        "40",
        "--latents",
        "2",
        *QUICK,
    ]
    out = check.succeeded(here("train_baseline.py", "--output_dir", "out", *argv))
    assert "out: joint_vae with" in out
    assert out.strip().endswith("evaluate.py --model out") or out.strip().endswith("evaluate --model out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert {"kl_discrete", "kl_continuous"} <= set(lines[0])
    with Image.open(tmp_path / "out" / "samples" / "step-000004.png") as picture:
        assert picture.height == (3 + 2 + 1) * 66  # images, reconstructions, samples, two latents and the categories
    argv = ["--metrics", "disentanglement", "categories", "reconstruction", "--samples", "300"]
    out = check.succeeded(here("evaluate.py", "--model", "out", *argv))
    report = json.loads((tmp_path / "out" / "evaluation" / "report.json").read_text())
    assert 0 <= report["disentanglement"]["factor_vae"]["value"] <= 1  # 0: no latent varies yet
    assert set(report["disentanglement"]) == {"factor_vae", "mig", "sap", "mcc", "mcc_spearman", "weak_mcc"}
    assert set(report["categories"]["code 1"]) == {"shape", "scale"}
    assert report["categories"]["code 1"]["shape"]["value"] >= 1 / 3
    assert report["reconstruction"]["bits_per_pixel"]["value"] > 0
    assert "Traversals" in (tmp_path / "out" / "evaluation" / "report.html").read_text()


def test_pairs_of_contexts_and_samples_in_them(here, check, tmp_path):
    argv = ["--method", "ada_vae", "--architecture", "simple64bn", "--data", "quad", "--samples_per_context", "8"]
    check.succeeded(here("train_baseline.py", "--output_dir", "out", *argv, *QUICK, "--val_fraction", "0.25"))
    argv = ["--metrics", "sliced_wasserstein", "--samples", "10"]
    assert "composition" in check.succeeded(here("evaluate.py", "--model", "out", *argv))


def test_labels_of_a_part_and_factors_set(here, check, tmp_path):
    argv = ["--method", "dear", "--data", "pendulum", "--data_options", "corruption=0.2", "--contexts", "obs"]
    argv += ["--samples_per_context", "40", "--latents", "6", "--labels", "0.5", *QUICK]
    out = check.succeeded(here("train_baseline.py", "--output_dir", "out", *argv))
    assert "out: dear with" in out
    assert "last error" in out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["factors"] == ["pendulum", "light", "length", "position"]
    assert config["graph"] == ["pendulum:length", "pendulum:position", "light:length", "light:position"]
    with Image.open(tmp_path / "out" / "samples" / "step-000004.png") as picture:
        assert picture.height == (3 + 4 + 6) * 66  # images, reconstructions, samples, four factors set, six latents
    message = here("evaluate.py", "--model", "out", "--metrics", "reconstruction", "--samples", "20")[2]
    assert "reconstruction cannot be measured: the method has no likelihood" in message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--method", "vqvae"], "unknown method 'vqvae': expected some of beta_vae"),
        (["--capacity", "-1"], "capacity must be at least 0, got -1"),
        (["--method", "joint_vae", "--categories", "1"], "categories must be at least 2, got 1"),
        (["--max_train_steps", "0"], "--max_train_steps must be at least 1, got 0"),
        (["--resolution", "32"], "the conv64 networks take images of 64x64 pixels, got 1x32x32"),
        (["--method", "dear", "--labels", "0"], "labels must be a share in (0, 1], got 0: without any label take"),
        (
            ["--method", "dear", "--graph", "scale:size"],
            "the edge 'scale:size' names 'size', which is no factor; factors",
        ),
        (["--method", "dear", "--early_stopping_patience", "3"], "early_stopping_patience must be 0"),
        (["--method", "tvae"], "triplets of different contexts need at least two, the data has 'obs' alone"),
    ],
)
def test_errors(argv, message, here, check):
    argv = ["--output_dir", "out", "--samples_per_context", "8", "--val_fraction", "0.25", *argv]
    assert message in check.failed(here("train_baseline.py", *argv))
