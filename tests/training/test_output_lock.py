"""One run at a time in an output folder, and what is left of one that was killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from context_module.errors import HubError, OutputExistsError
from context_module.io import MANIFEST, misfitting
from context_module.training.run_directory import RunDirectory

HOLD = """
import sys, time, pathlib
from context_module.training.run_directory import RunDirectory
run = RunDirectory(sys.argv[1], overwrite=True)
run.make_room()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Another process that has a folder; its id and the folder."""
    folder = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process, folder
        process.kill()


def test_a_folder_in_use_is_refused_and_its_holder_named(elsewhere):
    process, folder = elsewhere
    expected = rf"out is in use: process {process.pid} on .* is training there\. Wait for its end or stop it"
    for options in ({}, {"overwrite": True}, {"resume": "latest"}):
        with pytest.raises(OutputExistsError, match=expected):
            RunDirectory(folder, **options)


def test_a_killed_process_holds_nothing(elsewhere):
    process, folder = elsewhere
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    RunDirectory(folder).begin({})


def test_two_fresh_runs_do_not_mix(tmp_path):
    mine = RunDirectory(tmp_path / "out")  # there is no folder yet, and nothing to lock
    with subprocess.Popen([sys.executable, "-c", HOLD, str(mine.path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(OutputExistsError, match=f"process {process.pid}"):
            mine.begin({})
        process.kill()
    mine.begin({})


def test_a_run_that_came_and_ended_meanwhile_is_not_mixed_with(tmp_path):
    mine = RunDirectory(tmp_path / "out")
    (tmp_path / "out" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(OutputExistsError, match="got a run of another process meanwhile"):
        mine.begin({})


def test_one_process_may_come_back_and_leaves_no_lock(tmp_path):
    one = RunDirectory(tmp_path)
    two = RunDirectory(tmp_path)
    assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    del one, two
    assert not (tmp_path / ".lock").exists()


def test_other_processes_of_a_run_take_no_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run = RunDirectory(tmp_path)
    assert not (tmp_path / ".lock").exists()
    del run


def test_a_forked_process_does_not_take_the_lock_away(tmp_path):
    run = RunDirectory(tmp_path)
    child = os.fork()
    if not child:
        del run
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / ".lock").exists()
    del run


# --- what belongs together


def finished(folder, weights=b"old", **options):
    run = RunDirectory(folder, results=["weights.bin", "base/*"], **options)
    run.begin({"seed": 0})
    (folder / "weights.bin").write_bytes(weights)
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base" / "part").write_bytes(weights)
    run.finish({"loss": 1.0})
    return run


def test_the_manifest_holds_results_and_flags(tmp_path):
    finished(tmp_path)
    assert misfitting(tmp_path) == {}
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert content["result"] == {"loss": 1.0}
    assert sorted(content["files"]) == ["arguments.json", "base/part", "weights.bin"]
    (tmp_path / "weights.bin").write_bytes(b"new")
    (tmp_path / "arguments.json").write_text("{}")
    (tmp_path / "base" / "part").unlink()
    problems = misfitting(tmp_path)
    assert problems["weights.bin"] == "is damaged: it does not hold what was written"
    assert problems["arguments.json"].startswith("has 2 bytes")
    assert problems["base/part"] == "is missing"


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": "checkpoint"}])
def test_old_weights_are_never_beside_new_flags(options, tmp_path):
    finished(tmp_path)
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "train_state.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    if "resume" in options:
        options = {"resume": str(tmp_path / "checkpoint-2")}
    run = RunDirectory(tmp_path, results=["weights.bin", "base/*"], **options)
    assert misfitting(tmp_path) == {}  # until the inputs are found good
    run.begin({"seed": 1})  # and then it is killed
    assert not run.finished()
    assert not (tmp_path / MANIFEST).exists()
    assert not (tmp_path / "weights.bin").exists()
    assert not (tmp_path / "base" / "part").exists()
    assert (tmp_path / "notes.txt").exists()


def test_what_a_killed_write_left_is_removed(tmp_path):
    (tmp_path / ".arguments.json.12.34.tmp").write_text("{")
    RunDirectory(tmp_path).begin({})
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_run_is_finished_after_its_upload(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(KeyboardInterrupt), run.finishing({}):
        raise KeyboardInterrupt
    assert not run.finished()
    with run.finishing({}):
        assert not run.finished()
    assert run.finished()


def test_a_refused_upload_finishes_the_run(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(HubError), run.finishing({}):
        raise HubError("no")
    assert run.finished()


def test_waiting_is_short(elsewhere):
    start = time.monotonic()
    with pytest.raises(OutputExistsError):
        RunDirectory(elsewhere[1])
    assert time.monotonic() - start < 3
