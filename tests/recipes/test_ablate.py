"""recipes/ablate.py as a user runs it, and its table."""

import csv
import json
from pathlib import Path

import pytest

from context_module.cli.arguments import parse_arguments

FOLDER = Path("out/quad_dependent-smoke")
SMOKE = ["--budget", "smoke", "--output_dir", "out", "--jobs", "2"]
# read at the start of every Python process: classifiers that evaluations need learn for a few steps only
SHORT_TRAININGS = """
import functools
import importlib
module = importlib.import_module("context_module.metrics.concept_accuracy")
module.train_concept_classifier = functools.partial(module.train_concept_classifier, steps=3, batch_size=14)
leak = importlib.import_module("context_module.metrics.leak")
leak.train_factor_regressor = functools.partial(leak.train_factor_regressor, steps=3, batch_size=14)
"""


@pytest.fixture
def short_trainings(monkeypatch, tmp_path):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(SHORT_TRAININGS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "start"))


@pytest.mark.usefixtures("short_trainings")
def test_two_rows_on_one_base(here, check, tmp_path):
    argv = [*SMOKE, "--rows", "without matching", "default"]
    out = check.succeeded(here("ablate.py", *argv))
    folder = tmp_path / FOLDER
    lines = out.splitlines()
    assert lines[2] == (
        "| method | concept ↓ | composition ↓ | worst pair ↓ | Gaussian maps | the base's own "
        "| of what the base allows ↑ | worst pair beside maps ↓ | floor | precision ↑ "
        "| accuracy, contexts ↑ | accuracy, pairs ↑ | leak ↓ | graph distance ↓ |"
    )
    assert [line.split(" | ")[0] for line in lines[4:6]] == ["| without matching", "| default"]
    assert (folder / "table.png").stat().st_size > 1000
    with (folder / "table.csv").open() as file:
        rows = {(row["method"], row["score"]): row["mean"] for row in csv.DictReader(file)}
    report = json.loads((folder / "without-matching" / "seed-0" / "evaluation" / "report.json").read_text())
    pairs = [found["sliced_wasserstein"] for found in report["contexts"].values() if found["held_out"]]
    expected = {
        "composition": sum(pair["model"]["value"] for pair in pairs) / 9,
        "worst_pair": max(pair["model"]["value"] for pair in pairs),
        "maps": sum(pair["maps"]["value"] for pair in pairs) / 9,
        "recon": sum(pair["recon"]["value"] for pair in pairs) / 9,
        "floor": sum(pair["floor"]["value"] for pair in pairs) / 9,
        "precision": report["summary"]["composition"]["precision"]["model"]["value"],
        "graph_distance": report["graph"]["structural_hamming_distance"],
    }
    for score, value in expected.items():
        assert float(rows["without matching", score]) == pytest.approx(value)
    arguments = json.loads((folder / "without-matching" / "seed-0" / "arguments.json").read_text())
    assert (arguments["matching"], arguments["least_change"]) == (0, 3.0)
    assert arguments["base_checkpoint"] == str(folder / "base-pooled" / "seed-0")

    results = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    check.succeeded(here("ablate.py", *argv))  # nothing is done again
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")} == results


@pytest.mark.usefixtures("short_trainings")
def test_several_data_sets_make_a_table_of_all(here, check, tmp_path):
    argv = [*SMOKE, "--rows", "in closed form", "--data", "quad", "chase", "--base", "nvae", "--resolution", "32"]
    out = check.succeeded(here("ablate.py", *argv))
    assert "\nall:\n\n| method | concept | composition |" in out
    with (tmp_path / "out" / "all-smoke" / "table.csv").open() as file:
        rows = {(row["method"], row["score"]): row["mean"] for row in csv.DictReader(file)}
    of_each = [float(rows[f"{data}: in closed form", "composition"]) for data in ("quad", "chase")]
    assert float(rows["mean: in closed form", "composition"]) == pytest.approx(sum(of_each) / 2)
    assert (tmp_path / "out" / "chase-smoke" / "table.md").exists()


def test_a_failed_run_is_named_and_the_table_is_written(here, tmp_path):
    message = here("ablate.py", *SMOKE, "--rows", "default", "--data_options", "shade=blue")[2]
    assert "error: 2 runs failed; mend the cause and give the same command again" in message
    assert "the quad_dependent data takes no option 'shade'" in message
    assert "- default, seed 0: needs base pooled, seed 0" in message
    assert "| default |  |" in (tmp_path / FOLDER / "table.md").read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rows", "default", "sparsity"], "unknown row 'sparsity'; rows: 'default', 'in closed form', "),
        (["--seeds", "0"], "--seeds and --jobs must be at least 1, got 0 and None"),
        (["--base_checkpoint", ".", "--data", "quad", "chase"], "--base_checkpoint is one base, of the images of one"),
        (["--base_checkpoint", "nowhere"], "--base_checkpoint nowhere: no such file or folder; leave it out to"),
    ],
)
def test_errors(argv, message, here, check):
    assert message in check.failed(here("ablate.py", *argv))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("budget", ["smoke", "cpu"])
def test_every_row_calls_recipes_as_they_are(budget, given, load_recipe, tmp_path):
    ablate = load_recipe("ablate")
    arguments = {
        name: getattr(load_recipe(name), f"{name.capitalize()}Arguments")
        for name in ("pretrain", "finetune", "evaluate")
    }
    checkpoint = str(tmp_path) if given else None
    args = ablate.AblateArguments(budget=budget, data_options=["resolution=64"], base_checkpoint=checkpoint)
    runs = ablate.runs_of_seed(args, "quad_dependent", "lightweight", tmp_path, 3)
    assert list(runs) == [*([] if given else ["base pooled"]), *ablate.ROWS]
    parsed = {}
    for row, run in runs.items():
        for command in run.commands:
            script, *words = command.argv
            flags = parse_arguments(arguments[Path(script).stem], description="", argv=words)
            assert command.result.is_relative_to(run.folder)
            if command.resumable:
                parsed[row] = vars(flags)
                assert (flags.seed, flags.data_options) == (3, ["resolution=64"])
        assert run.needs == (() if given or row in ("base pooled", "paper's training") else ("base pooled, seed 3",))
    base = str(tmp_path if given else runs["base pooled"].folder)
    for row, changed in ablate.ROWS.items():
        own = {name for name, value in parsed[row].items() if value != parsed["default"][name]} - {"output_dir"}
        if parsed[row]["objective"] != "pixel":  # one thing is changed
            assert own == set(changed)
        assert parsed[row]["base_checkpoint"] == (None if row == "paper's training" else base)
    assert parsed["paper's training"]["reference"]
    assert parsed["default"]["max_train_steps"] == (8 if budget == "smoke" else 1000)
