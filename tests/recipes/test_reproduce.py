"""recipes/reproduce.py as a user runs it: killed half-way, run again, and its table."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest

from context_module.cli.arguments import parse_arguments
from context_module.study import DEAR_TABLES, PAPER_TABLES, PERTURBATION_TABLES

SMOKE = ["--table", "quad_dependent", "--budget", "smoke", "--output_dir", "out", "--jobs", "2"]
FOLDER = "out/quad_dependent-smoke"
TABLES = [*PAPER_TABLES, "dsprites_lecture", *DEAR_TABLES, *PERTURBATION_TABLES]


def test_killed_and_run_again(command, run, check, tmp_path):
    """The module on the frozen base: it needs the pooled base, whose training is killed after a checkpoint."""
    argv = [*SMOKE, "--methods", "base", "CM (frozen)"]
    process = command("reproduce.py", *argv, cwd=tmp_path)
    pooled = tmp_path / FOLDER / "base-pooled" / "seed-0"
    end = time.monotonic() + 90
    while not any(pooled.glob("checkpoint-*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    unfinished = not (pooled / "result.json").exists()  # nearly always: three of its four steps are left
    assert not (pooled / "evaluation").exists()

    out = check.succeeded(run("reproduce.py", *argv, cwd=tmp_path))
    log = (pooled / "log.txt").read_text()
    assert log.count("pretrain.py --output_dir") == 1 + unfinished
    assert json.loads((pooled / "result.json").read_text())["steps"] == 4
    folder = tmp_path / FOLDER
    assert "| CM (frozen) | " in out
    assert (folder / "table.md").read_text().strip().endswith(out.split("\n\n")[0].splitlines()[-1])
    with (folder / "table.csv").open() as file:
        rows = {(row["method"], row["score"]): row for row in csv.DictReader(file)}
    assert {method for method, _ in rows} == {"base", "CM (frozen)"}
    for score in ("concept", "composition", "reconstruction"):
        assert float(rows["CM (frozen)", score]["mean"]) > 0
        assert rows["CM (frozen)", score]["seeds"] == "1"
    assert rows["base", "composition"]["published"] == "0.222"
    report = json.loads((folder / "CM-frozen" / "seed-0" / "evaluation" / "report.json").read_text())
    expected = report["summary"]["composition"]["sliced_wasserstein"]["model"]["value"]
    assert float(rows["CM (frozen)", "composition"]["mean"]) == pytest.approx(expected)
    assert (folder / "table.png").stat().st_size > 1000

    before = (pooled / "result.json").stat().st_mtime_ns
    check.succeeded(run("reproduce.py", *argv, cwd=tmp_path))  # nothing is done again
    assert (pooled / "result.json").stat().st_mtime_ns == before


def test_a_failed_run_is_named_and_the_table_is_written(here, check, tmp_path):
    argv = [*SMOKE, "--methods", "CM (frozen)", "--data_options", "shade=blue"]
    message = here("reproduce.py", *argv)[2]
    assert "error: 2 runs failed; mend the cause and give the same command again" in message
    assert "the quad_dependent data takes no option 'shade'" in message
    assert "- CM (frozen), seed 0: needs base pooled, seed 0" in message
    assert "| CM (frozen) |  | 0.121 |" in (tmp_path / FOLDER / "table.md").read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--methods", "CM"], "unknown method 'CM'; methods: 'base', 'base pooled', "),
        (["--seeds", "0"], "--seeds and --jobs must be at least 1, got 0 and None"),
        (["--jobs", "0"], "--seeds and --jobs must be at least 1, got 1 and 0"),
        (["--cluster_options", "gpus"], "cannot read the option 'gpus': write name=value"),
    ],
)
def test_errors(argv, message, here, check):
    assert message in check.failed(here("reproduce.py", *argv))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("budget", ["smoke", "cpu", "paper"])
def test_every_budget_calls_recipes_as_they_are(table, budget, load_recipe, tmp_path):
    reproduce = load_recipe("reproduce")
    arguments = {
        name: getattr(load_recipe(name), f"{name.title().replace('_', '')}Arguments")
        for name in ("finetune", "evaluate", "train_classifier")
    }
    # whose flags depend on one of them
    named = {"train_baseline": "--method", "pretrain": "--base"}
    arguments_of = {name: load_recipe(name).arguments_of for name in named}
    args = reproduce.ReproduceArguments(table=table, budget=budget, data_options=["resolution=28"])
    runs = reproduce.runs_of_seed(args, tmp_path, 3)
    assert set(reproduce.TABLES[table].rows) <= set(runs)
    names = {run.name for run in runs.values()}
    for run in runs.values():
        assert set(run.needs) <= names
        for command in run.commands:
            script, *words = command.argv
            recipe = Path(script).stem
            if recipe in named:
                kind = arguments_of[recipe](words[words.index(named[recipe]) + 1])
            else:
                kind = arguments[recipe]
            parsed = parse_arguments(kind, description="", argv=words)
            assert str(command.result).startswith(str(run.folder))
            if command.resumable:
                assert parsed.seed == 3
                assert parsed.data_options[-1] == "resolution=28"
                assert command.result == Path(parsed.output_dir) / "result.json"
    if "CM (frozen)" not in runs:
        return
    trained = parse_arguments(arguments["finetune"], description="", argv=runs["CM (frozen)"].commands[0].argv[1:])
    assert trained.reference == (budget == "paper")
    assert (trained.max_train_steps > 40_000) == (budget == "paper")
