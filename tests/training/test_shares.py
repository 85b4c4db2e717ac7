"""How many processes and passes share a batch does not change what is trained."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from context_module.errors import ShapeError
from context_module.io import load_tensors
from context_module.objective import BatchObjective
from context_module.rows import Rows
from context_module.training.whole_batch import WholeBatch
from helpers.loop import a_process_of_its_own
from helpers.shares import CASES, NORMALISED, trained

IN_PROCESSES = ("latent", "edits", "pixel", "reference", "factor_vae", "dropped")  # each takes seconds


@pytest.fixture(autouse=True)
def one_thread_and_fresh_accelerate():
    with a_process_of_its_own():
        yield


def losses(folder):
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Trains a case in one process and one pass, once; where it did."""
    folder = tmp_path_factory.mktemp("alone")

    def train(case):
        if not (folder / case).exists():
            trained(case, folder / case)
        return folder / case

    return train


def assert_same(case, folder, expected):
    """The same log up to rounding, and the same weights where rounding is not all there is to their gradients."""
    for line, other in zip(losses(folder), losses(expected), strict=True):
        assert line == pytest.approx(other, rel=2e-4, abs=1e-3)
    weights, others = (load_tensors(path / "end.safetensors") for path in (folder, expected))
    assert weights["best_step"] == others["best_step"]
    if case not in NORMALISED:  # Adam makes full steps of the rounded gradients of a bias before a batch norm
        for name, tensor in others.items():  # and of one weight in ten thousand, whose gradient is next to zero
            off = ~torch.isclose(weights[name], tensor, rtol=2e-3, atol=2e-4)
            assert off.sum() <= 1e-4 * off.numel(), name
            torch.testing.assert_close(weights[name], tensor, rtol=2e-3, atol=1e-3, msg=name)  # a step or so


@pytest.mark.parametrize("case", [case for case in CASES if case not in NORMALISED])
def test_passes_train_alike(case, alone, tmp_path):
    trained(case, tmp_path, gradient_accumulation_steps=4)
    assert_same(case, tmp_path, alone(case))


def in_processes(count, folder, how, *cases):
    """Train cases in processes of their own."""
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-W", "ignore", "-m", "helpers.shares", str(count), str(folder), how, *cases]
    environment = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tests, env=environment, check=True, timeout=240)


@pytest.mark.parametrize(("count", "cases"), [(2, IN_PROCESSES), (4, ("latent",))])
def test_processes_train_alike(count, cases, alone, tmp_path):
    expected = {case: alone(case) for case in cases}
    in_processes(count, tmp_path, "fresh", *cases)
    for case in cases:
        assert_same(case, tmp_path / case, expected[case])


def test_resuming_with_another_number_of_processes_goes_on_the_same(alone, tmp_path):
    expected = alone("latent")
    shutil.copytree(expected, tmp_path / "latent")
    shutil.rmtree(tmp_path / "latent" / "checkpoint-4")  # cut off after step 2
    in_processes(2, tmp_path, "resume", "latent")
    assert_same("latent", tmp_path / "latent", expected)
    shutil.copytree(tmp_path / "latent" / "checkpoint-4", tmp_path / "one" / "checkpoint-4")
    end = trained("latent", tmp_path / "one", resume="latest", max_train_steps=4)  # and the other way round
    assert end["best_step"] == 4


def test_draws_are_rows_of_those_of_the_whole_batch():
    """Draws of every kind that torch's own code makes."""
    draws = {
        "randn": lambda n: torch.randn(n, 3),
        "rand by size": lambda n: torch.rand(size=(n, 3)),
        "randn_like": lambda n: torch.randn_like(torch.empty(n, 3)),
        "randint": lambda n: torch.randint(9, (n,)),
        "two ends": lambda n: torch.randint(3, 9, size=(n, 2)),
        "stacked": lambda n: torch.randn(2 * n, 3).view(2, n, 3).transpose(0, 1),
        "in place": lambda n: torch.empty(n, 3).uniform_(-1, 1),
        "normal": lambda n: torch.normal(torch.ones(n, 20), torch.ones(n, 20)),
        "dropout": lambda n: torch.nn.functional.dropout(torch.ones(n, 20)),
    }
    for name, draw in draws.items():
        torch.manual_seed(3)
        whole = draw(6)
        parts = []
        for start in (0, 2, 4):
            batch = WholeBatch(3)
            with batch.share(Rows(start, 2, 6)):
                parts.append(draw(2))
        torch.testing.assert_close(torch.cat(parts), whole, msg=name)
    batch, generator = WholeBatch(3), torch.Generator().manual_seed(7)
    with batch.share(Rows(0, 2, 6)):  # a draw with a generator is the caller's
        mine = torch.randn(2, 3, generator=generator)
    assert torch.equal(mine, torch.randn(2, 3, generator=torch.Generator().manual_seed(7)))


class Averaged(BatchObjective):
    """One that gives no row for each image."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3, 8, 8))

    def represent(self, batch, progress=1.0):
        return {"mean": (batch["x"] - self.weight).mean()}


def test_what_is_said_of_images_has_a_row_for_each(tmp_path, monkeypatch):
    monkeypatch.setitem(CASES, "averaged", lambda: (Averaged(), *CASES["dropped"]()[1:]))
    with pytest.raises(ShapeError, match=r"Averaged\.represent gives 'mean' of shape \(\) for 12 images: expected a"):
        trained("averaged", tmp_path, gradient_accumulation_steps=2)


def test_a_batch_objective_without_its_halves():
    with pytest.raises(NotImplementedError, match=r"BatchObjective has no represent\(batch, progress\)"):
        BatchObjective()({})
    with pytest.raises(NotImplementedError, match=r"BatchObjective has no combine\(parts, progress\)"):
        BatchObjective().combine({})
