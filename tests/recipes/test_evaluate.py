"""recipes/evaluate.py as a user runs it."""

import json
import re
import shutil

import pytest

from helpers.pictures import write_photos

QUICK = ["--max_train_steps", "2", "--train_batch_size", "14", "--validation_steps", "2", "--logging_steps", "1"]
TINY_NVAE = ["--channels", "4", "--latent_channels", "2", "--num_blocks", "1", "--ops", "res_bnelu"]
FEW = ["--samples", "10", "--metrics", "sliced_wasserstein"]


@pytest.fixture(scope="module")
def base(run, check, tmp_path_factory):
    """A tiny NVAE for 16 x 16 images of the quad data."""
    cwd = tmp_path_factory.mktemp("base")
    argv = ["--output_dir", "base", "--resolution", "16", "--samples_per_context", "20", "--seed", "1"]
    check.succeeded(run("pretrain.py", "--base", "nvae", *argv, *TINY_NVAE, *QUICK, cwd=cwd))
    return cwd / "base"


@pytest.fixture(scope="module")
def model(run, check, base, tmp_path_factory):
    """A module in front of it, trained for two steps."""
    cwd = tmp_path_factory.mktemp("model")
    argv = ["--base_checkpoint", base, "--samples_per_context", "20", "--score_samples", "10", "--seed", "1"]
    check.succeeded(run("finetune.py", "--output_dir", "model", *argv, *QUICK, cwd=cwd))
    return cwd / "model"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder per context, of 40 images in each."""
    return write_photos(tmp_path_factory.mktemp("photos"), (16, 16), {"obs": 40, "a": 40, "b": 40, "a+b": 40})


def read(folder):
    return json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text()


def test_the_folder_alone_is_enough(model, here, check, short_trainings):
    """Data, seed and base are the training's; the figures of compositions are those of its table."""
    out = check.succeeded(here("evaluate.py", "--model", model, "--samples", "10"))
    assert "| composition | sliced wasserstein |" in out
    assert "reconstruction was not measured: edits draw embeddings by example" in out
    assert "downstream was not measured: the data has no factor to predict" in out
    assert out.endswith(f"{model}/evaluation/report.html\n{model}/evaluation/report.json\n")
    report, html = read(model / "evaluation")
    assert len(report["contexts"]) == 7 + 9
    rows = [line for line in (model / "composition.md").read_text().splitlines() if line.startswith("|")]
    for row in rows[2:]:
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        mean = report["summary"]["composition"]
        scores = (mean if name == "mean" else report["contexts"][name])["sliced_wasserstein"]
        assert [f"{scores[column]['value']:.3f}" for column in ("base", "model", "floor")] == [
            cells[place] for place in (0, 4, 5)
        ]
        assert name == "mean" or report["verdicts"][name]["verdict"] == cells[-1]  # training's end said the same
        assert name == "mean" or f"{name}: {cells[-1]}\n" in out
        assert name == "mean" or f'>{cells[-1]} <span class="why">' in html
    assert report["reconstruction"] is None
    assert set(report["counterfactual"]["concepts"]) == {"quad1", "quad2", "quad3", "quad4", "size", "orientation"}
    assert report["seed"] == 1
    assert "test images, never trained on" in html
    # three pictures for each context, a film for each concept, a strip for each context and the real images, edges,
    # curves
    assert len(re.findall(r'src="data:image/png;base64,', html)) == 3 * 16 + 6 + 17 + 2
    assert html.count("<figcaption>Gaussian maps</figcaption>") == 16
    assert html.count('<input type="range" min="-2.0" max="3.0" step="0.5"') == 6  # of edits
    assert f"python recipes/evaluate.py --model {model} --samples 10" in html


def test_again_with_other_flags_replaces_the_report_alone(model, run, here, check, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    shutil.rmtree(folder / "evaluation", ignore_errors=True)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    argv = ["--model", "model", "--output_dir", "report", "--projections", "10", *FEW]
    check.succeeded(run("evaluate.py", *argv, cwd=tmp_path))
    (tmp_path / "report" / "notes.txt").write_text("mine")
    first, _ = read(tmp_path / "report")
    check.succeeded(here("evaluate.py", *argv, "--seed", "5"))
    second, _ = read(tmp_path / "report")
    assert (first["seed"], second["seed"]) == (1, 5)
    assert first["summary"] != second["summary"]
    assert set(second["contexts"]["obs"]) == {"held_out", "sliced_wasserstein"}
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["notes.txt", "report.html", "report.json"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_base_alone(base, here, check, tmp_path):
    argv = ["--model", base, "--output_dir", "out", "--samples", "10"]
    check.succeeded(here("evaluate.py", *argv, "--metrics", "mmd", "reconstruction"))
    report, html = read(tmp_path / "out")
    scores = report["summary"]["composition"]["mmd"]
    assert scores["model"] == scores["base"] != scores["floor"]
    assert "samples of the base" in html
    assert "Counterfactuals" not in html


@pytest.mark.parametrize("options", [[], ["--pooled"]])
def test_folders_are_scored_on_what_the_training_kept_for_validation(options, base, photos, here, check, tmp_path):
    argv = ["--base_checkpoint", base, "--data", photos, "--val_fraction", "0.7", "--score_samples", "0", *options]
    check.succeeded(here("finetune.py", "--output_dir", "model", *argv, *QUICK[:2], "--train_batch_size", "3"))
    check.succeeded(here("evaluate.py", "--model", "model", *FEW))
    report, html = read(tmp_path / "model" / "evaluation")
    assert set(report["contexts"]) == {"obs", "a", "b", "a+b"}
    assert "the validation split of the training, as the data has no test part" in html
    assert ("Counterfactuals" in html) == (not options)
    message = check.failed(here("evaluate.py", "--model", "model", "--samples", "20"))
    assert re.search(r"context '(obs|a|b)' has \d\d images, scoring 20 needs 40", message)


def test_a_base_that_learned_from_some_folders_alone(photos, here, check, tmp_path):
    argv = ["--base", "nvae", "--data", photos, "--contexts", "b", "obs", "--val_fraction", "0.5", *TINY_NVAE]
    check.succeeded(here("pretrain.py", "--output_dir", "base", *argv, *QUICK, "--train_batch_size", "4"))
    check.succeeded(here("evaluate.py", "--model", "base", *FEW))
    report, _ = read(tmp_path / "base" / "evaluation")
    assert set(report["contexts"]) == {"obs", "a", "b", "a+b"}


def test_a_pipeline_of_diffusers_is_a_base(load_recipe, make_base, tmp_path):
    make_base("denoiser").save(tmp_path)
    recipe = load_recipe("evaluate")
    assert recipe.load_model(recipe.EvaluateArguments(model=str(tmp_path)), {"base": "denoiser"}).name == "denoiser"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--model", "nowhere"],
            "nowhere: no such folder; expected one written by recipes/finetune.py or pretrain.py",
        ),
        (["--model", "."], ". holds no model: neither adapter_config.json (of recipes/finetune.py) nor config.json"),
        (
            ["--data", "pendulum"],
            "the model has the concepts quad1, quad2, quad3, quad4, size, orientation, the data ",
        ),
        (["--data", "nowhere"], "unknown data 'nowhere'"),
        (["--metrics", "fid"], "unknown metric 'fid': expected some of sliced_wasserstein"),
        (["--metrics", "downstream"], "downstream cannot be measured: the data has no factor to predict"),
        (["--samples", "5"], "needs at least 10 items, got 5"),
        (["--samples", "0"], "samples must be at least 1, got 0"),
        (["--data_options", "held_out_samples=4"], "context 'quad1+quad2' has 4 images, scoring 10 needs 20"),
        (["--base_checkpoint", "nowhere"], "nowhere: no such file or folder"),
        (["--output_dir", "file"], "the output directory file is a file: give another --output_dir"),
    ],
)
def test_errors(argv, message, model, here, check, tmp_path):
    (tmp_path / "file").write_text("")
    argv = [*(["--model", model] if "--model" not in argv else []), *FEW, "--output_dir", "out", *argv]
    assert message in check.failed(here("evaluate.py", *argv))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_does_not_say_what_it_was_trained_on(model, base, here, check, tmp_path):
    for folder in (model, base):
        shutil.copytree(folder, tmp_path / folder.name)
        (tmp_path / folder.name / "arguments.json").unlink()
    message = check.failed(here("evaluate.py", "--model", "model", *FEW))
    assert message == "error: model does not say which data it was trained on: give --data"
    message = check.failed(here("evaluate.py", "--model", "base", *FEW))
    assert message == "error: base does not say which family its base is of: give --base"
    few = ["--data", "quad", "--samples_per_context", "5", *FEW]
    check.succeeded(here("evaluate.py", "--model", "base", "--base", "nvae", *few))


def test_help(here):
    code, out, _ = here("evaluate.py", "--help")
    assert code == 0
    assert "--projections" in out
