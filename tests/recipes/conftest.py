"""Running recipes as users do."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.loop import forget_accelerate

RECIPES = Path(__file__).parents[2] / "recipes"


def environment(tmp_path):
    """Offline, without the configuration of whoever runs the tests, and on one thread per process."""
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **settings}


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """Starts ``python [launcher] recipes/<recipe> ...`` in a folder; returns the process."""
    home = tmp_path_factory.mktemp("home")

    def start(recipe, *argv, cwd, launcher=(), **settings):
        return subprocess.Popen(
            [sys.executable, *launcher, str(RECIPES / recipe), *map(str, argv)],
            cwd=cwd,
            env={**environment(home), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture(scope="session")
def run(command):
    """Runs ``python [launcher] recipes/<recipe> ...`` in a folder to its end: (exit code, stdout, stderr)."""

    def run(recipe, *argv, cwd, **options):
        process = command(recipe, *argv, cwd=cwd, **options)
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
            process.communicate()
            raise
        return process.returncode, out, err

    return run


@pytest.fixture
def here(monkeypatch, tmp_path, capsys):
    """The same in this process, which saves the imports: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(recipe, *argv):
        monkeypatch.setattr(sys, "argv", [str(RECIPES / recipe), *map(str, argv)])
        code = 0
        try:
            runpy.run_path(str(RECIPES / recipe), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
            if isinstance(code, str):  # what the interpreter does with it
                print(code, file=sys.stderr)
                code = 1
        finally:
            forget_accelerate()
        return code, *capsys.readouterr()

    yield run
    torch.set_num_threads(threads)


def succeeded(result):
    """stdout of a run that must have gone well."""
    code, out, err = result
    assert code == 0, err
    return out


def failed(result):
    """The one line of a run that must have ended in an error a user can read."""
    code, _, err = result
    assert code == 1, err
    assert "Traceback" not in err, err
    (message,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return message


@pytest.fixture(scope="session")
def check():
    """`succeeded` and `failed`, on what `run` and `here` return."""

    class Check:
        pass

    Check.succeeded, Check.failed = staticmethod(succeeded), staticmethod(failed)
    return Check
