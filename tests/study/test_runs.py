"""Runs of commands: in order, in parallel, after a failure, after a kill."""

import os
import signal
import subprocess
import sys
import time

import pytest

from context_module.study.runs import Command, Run, flags, run_all, slots, with_needs, work_on

WRITE = "import sys, os, pathlib; pathlib.Path(sys.argv[1]).write_text(os.environ.get('SLOT', 'none'))"


def writes(path, *, resumable=False):
    return Command(("-c", WRITE, str(path)), path, resumable)


def make_run(folder, name, needs=(), argv=None):
    path = folder / name
    command = writes(path / "result") if argv is None else Command(argv, path / "result")
    return Run(name, path, (command,), needs)


def test_commands_run_in_order_and_once(tmp_path):
    count = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.open('a').write('x')"
    one, two = tmp_path / "one", tmp_path / "two"
    check = f"import pathlib; assert pathlib.Path({str(one)!r}).exists(); {count}"
    run = Run("both", tmp_path, (Command(("-c", count, str(one)), one), Command(("-c", check, str(two)), two)))
    assert not run.finished
    for _ in range(2):
        work_on(run, {})
    assert run.finished
    assert (one.read_text(), two.read_text()) == ("x", "x")
    assert (tmp_path / "log.txt").read_text().count("$ python -c") == 2


def test_only_resumable_commands_are_told_to_resume(tmp_path):
    words = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[2:]))"
    results = [tmp_path / "plain", tmp_path / "resumable"]
    for path, resumable in zip(results, (False, True), strict=True):
        work_on(Run("r", tmp_path, (Command(("-c", words, str(path)), path, resumable),)), {})
    assert [path.read_text() for path in results] == ["", "--resume_from_checkpoint latest"]


def test_a_command_that_fails_names_its_log(tmp_path):
    run = make_run(tmp_path, "bad", argv=("-c", "raise SystemExit('error: no such thing')"))
    with pytest.raises(RuntimeError, match=r"exit code 1: error: no such thing \(all of it in .*bad/log.txt\)"):
        work_on(run, {})
    silent = make_run(tmp_path, "silent", argv=("-c", "print('all is well')"))
    with pytest.raises(RuntimeError, match="exit code 0: all is well"):  # but there is no result
        work_on(silent, {})


def test_needs_slots_and_failures(tmp_path):
    runs = [
        make_run(tmp_path, "last", needs=("first", "second")),
        make_run(tmp_path, "first"),
        make_run(tmp_path, "second", needs=("first",)),
        make_run(tmp_path, "bad", argv=("-c", "raise SystemExit('error: broken')")),
        make_run(tmp_path, "lost", needs=("bad",)),
        make_run(tmp_path, "lost too", needs=("lost",)),
    ]
    failures = run_all(runs, slots=[{"SLOT": "a"}, {"SLOT": "b"}])
    assert set(failures) == {"bad", "lost", "lost too"}
    assert "error: broken" in failures["bad"]
    assert failures["lost"] == "needs bad"
    assert failures["lost too"] == "needs lost"
    assert {(tmp_path / name / "result").read_text() for name in ("first", "second", "last")} <= {"a", "b"}
    times = [(tmp_path / name / "result").stat().st_mtime_ns for name in ("first", "second", "last")]
    assert times == sorted(times)
    assert run_all(runs[:3]) == {}  # nothing left to do


def test_runs_come_after_those_they_build_upon(tmp_path):
    runs = [make_run(tmp_path, name, needs) for name, needs in (("c", ("b",)), ("b", ("a",)), ("a", ()), ("d", ()))]
    assert [run.name for run in with_needs(runs, [runs[0], runs[1]])] == ["a", "b", "c"]


def test_flags():
    assert flags(rows=["a", 1], overwrite=True, seed=0, base=None) == [
        "--rows",
        "a",
        "1",
        "--overwrite",
        "--seed",
        "0",
    ]


def test_slots_share_what_the_machine_has(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert slots() == [{"OMP_NUM_THREADS": "1"}] * 8
    assert slots(jobs=2) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert slots(jobs=20) == [{"OMP_NUM_THREADS": "1"}] * 20
    assert slots("slurm") == [{}] * 16
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert slots(jobs=3) == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "010"]


def test_on_a_cluster_jobs_are_submitted(tmp_path, monkeypatch):
    """submitit's own stand-in for Slurm: jobs as processes of this machine."""
    submitit = pytest.importorskip("submitit")
    asked = {}

    class Executor(submitit.LocalExecutor):
        def __init__(self, folder, cluster):
            assert cluster == "slurm"
            super().__init__(folder)

        def update_parameters(self, **options):
            asked.update(options)

    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(0.1))
    runs = [make_run(tmp_path, "good"), make_run(tmp_path, "bad", argv=("-c", "raise SystemExit('error: broken')"))]
    options = {"gpus_per_node": 1}
    failures = run_all(runs, slots=[{}, {}], cluster="slurm", folder=tmp_path / "jobs", options=options)
    assert asked == options
    assert runs[0].finished
    assert list(failures) == ["bad"]
    assert failures["bad"].startswith("-c ended with exit code 1: error: broken (all of it in ")


def test_a_run_that_outlived_its_parent_is_waited_for(tmp_path):
    slow = "import sys, time, pathlib; p = pathlib.Path(sys.argv[1]); p.open('a').write('x'); time.sleep(2)"
    slow += "; pathlib.Path(sys.argv[2]).write_text('')"
    seen, result = tmp_path / "seen", tmp_path / "result"
    run = Run("slow", tmp_path, (Command(("-c", slow, str(seen), str(result)), result),))
    script = (
        "from pathlib import Path; from context_module.study.runs import *;"
        f"run_all([Run('slow', Path({str(tmp_path)!r}), (Command({run.commands[0].argv!r}, Path({str(result)!r})),))])"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    wait_for(seen)
    process.kill()
    process.wait()
    assert run_all([run]) == {}
    assert seen.read_text() == "x"  # not called a second time


def test_an_interruption_reaches_the_commands(tmp_path):
    """As Ctrl-C does: the recipe in hand is told, and may keep what it has."""
    patient = (
        "import signal, sys, time, pathlib; folder = pathlib.Path(sys.argv[1]);"
        "signal.signal(signal.SIGTERM, lambda *a: ((folder / 'told').write_text(''), sys.exit(1)));"
        "(folder / 'started').write_text('');"
        "time.sleep(60)"
    )
    script = (
        "from pathlib import Path; from context_module.study.runs import *;"
        f"folder = Path({str(tmp_path)!r});"
        f"run_all([Run('r', folder, (Command(('-c', {patient!r}, str(folder)), folder / 'x'),))])"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(tmp_path / "started")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30) != 0
    wait_for(tmp_path / "told")


def wait_for(path, seconds=30):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)
