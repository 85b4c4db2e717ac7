"""What is said of settings that make a training slow, before it begins."""

import os
import subprocess
import sys

import pytest
import torch

from context_module.training import TrainingSettings, accelerator, make_accelerator
from helpers.loop import a_process_of_its_own


@pytest.fixture(autouse=True)
def fresh():
    with a_process_of_its_own():
        yield


def said(capsys, tmp_path, **settings):
    make_accelerator(TrainingSettings(output_dir=str(tmp_path), **settings))
    return capsys.readouterr().out


def test_nothing_where_nothing_is_slow(capsys, tmp_path):
    assert said(capsys, tmp_path) == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="of CPUs")
@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("bf16", "note: this CPU has no instructions for bf16, which is far slower here than --mixed_precision no\n"),
        ("no", ""),
    ],
)
def test_bf16_without_its_instructions(precision, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "multiplies_bf16", lambda: False)
    assert said(capsys, tmp_path, mixed_precision=precision) == expected


def test_instructions_that_cannot_be_told_are_taken_to_be_there(monkeypatch):
    monkeypatch.setattr(accelerator.platform, "machine", lambda: "aarch64")
    assert accelerator.multiplies_bf16()


@pytest.mark.skipif(torch.cuda.is_available(), reason="of CPUs")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two cores to leave one idle")
def test_one_thread_of_accelerate_launch(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from context_module.training import TrainingSettings, make_accelerator\n"
        "make_accelerator(TrainingSettings(output_dir='out'))\n"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    cores = len(os.sched_getaffinity(0))
    for threads, expected in ((1, f"note: one thread on {cores} cores"), (2, "")):
        options = ["--num_cpu_threads_per_process", str(threads), str(script)]
        result = subprocess.run(
            [*command, *options], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
        )
        assert result.stdout.startswith(expected)
        assert bool(result.stdout) == bool(expected)
