"""A run that is killed at any of its writes ends, once resumed, as one that was left alone."""

import itertools
import os
import shutil

import pytest
import torch

from context_module.cli.training import TrainingArguments
from context_module.data import ArrayContextDataset
from context_module.io import load_tensors, misfitting, save_tensors
from context_module.training import RunDirectory, Trainer, make_accelerator
from helpers.kills import killed_at
from helpers.loaders import Stub
from helpers.loop import a_process_of_its_own

LONG = bool(os.environ.get("FAULTS"))
RESULT = "result.safetensors"


def finished_run(folder, *, overwrite=False, resume=None, seed=0):
    """A run as the recipes make one: it trains, keeps its result, and says that it is finished."""
    images = (torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    data = ArrayContextDataset(images, torch.arange(3).repeat_interleave(20), ("obs", "a", "b"), ("a", "b"))
    args = TrainingArguments(
        output_dir=str(folder),
        max_train_steps=6,
        train_batch_size=6,
        checkpointing_steps=2,
        checkpoints_total_limit=1,
        validation_steps=3,
        logging_steps=1,
        seed=seed,
        overwrite=overwrite,
        resume_from_checkpoint=resume,
    )
    with a_process_of_its_own():
        run = args.run_directory([RESULT])
        objective = Stub()
        result = Trainer(make_accelerator(args), args, run, objective, *data.split(0.1)).train()
        save_tensors(run.path / RESULT, objective.state_dict())
        with run.finishing({"steps": result.steps, "loss": result.loss}):
            pass
    del run


def read(folder):
    """What a run ended with."""
    assert misfitting(folder) == {}
    assert not list(folder.glob(".*.tmp"))
    return load_tensors(folder / RESULT)["weight"], (folder / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "out"
    finished_run(folder)
    return folder


def same(folder, expected):
    weight, lines = read(folder)
    other, others = read(expected)
    assert torch.equal(weight, other)
    assert lines == others


def test_killed_at_every_write(alone, tmp_path):
    for number in itertools.count(0, 1 if LONG else 5):
        folder = tmp_path / "out"
        shutil.rmtree(folder, ignore_errors=True)
        if not killed_at(number, folder, lambda folder=folder: finished_run(folder)):
            break
        if not (folder / "result.json").exists():
            finished_run(folder, resume="latest")
        same(folder, alone)
    assert number > 30  # it did write


def test_killed_at_every_write_while_an_earlier_run_is_overwritten(alone, tmp_path):
    """At no time are there old weights beside new flags: either all is of the earlier run, or nothing is whole."""
    earlier = tmp_path / "earlier"
    finished_run(earlier, seed=1)
    before, _ = read(earlier)
    for number in itertools.count(0, 1 if LONG else 6):
        folder = tmp_path / "out"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(earlier, folder)
        if not killed_at(number, folder, lambda folder=folder: finished_run(folder, overwrite=True)):
            break
        if (folder / "manifest.json").exists() and not misfitting(folder):
            weight, _ = read(folder)
            assert torch.equal(weight, before) or torch.equal(weight, read(alone)[0])
            assert ('"seed": 1' in (folder / "arguments.json").read_text()) == torch.equal(weight, before)
        elif (folder / RESULT).exists() and (folder / "arguments.json").exists():
            if '"seed": 1' in (folder / "arguments.json").read_text():
                continue
            assert not torch.equal(load_tensors(folder / RESULT)["weight"], before)
        finished_run(folder, overwrite=True)
        same(folder, alone)
    assert number > 30


def test_killed_twice(alone, tmp_path):
    for first, second in ((20, 7), (40, 15), (60, 30)):
        folder = tmp_path / "out"
        shutil.rmtree(folder, ignore_errors=True)
        killed_at(first, folder, lambda folder=folder: finished_run(folder))
        if not (folder / "result.json").exists():
            killed_at(second, folder, lambda folder=folder: finished_run(folder, resume="latest"))
        if not (folder / "result.json").exists():
            finished_run(folder, resume="latest")
        same(folder, alone)


def test_a_run_directory_is_free_after_a_kill(tmp_path):
    assert killed_at(12, tmp_path / "out", lambda: finished_run(tmp_path / "out"))
    RunDirectory(tmp_path / "out", overwrite=True)
