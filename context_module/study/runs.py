"""Many runs of recipes: in parallel on this machine or on a Slurm cluster, and resumable run by run."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from context_module.io import Interruption, TrainingInterrupted, progress_bar

__all__ = ["Command", "Run", "flags", "run_all", "slots", "with_needs", "work_on"]

_processes: set[subprocess.Popen[bytes]] = set()  # commands called by this process


@dataclass(frozen=True)
class Command:
    """One call of a recipe.

    Attributes:
        argv: what follows the Python interpreter.
        result: the file it writes last; where it exists the command is not called again.
        resumable: it takes ``--resume_from_checkpoint latest``, with or without a checkpoint.
    """

    argv: tuple[str, ...]
    result: Path
    resumable: bool = False


@dataclass(frozen=True)
class Run:
    """Commands that follow each other, in a folder of their own.

    Attributes:
        name: unique among the runs.
        folder: for the log and the lock.
        commands: in order.
        needs: names of the runs that must have finished before.
    """

    name: str
    folder: Path
    commands: tuple[Command, ...]
    needs: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        return all(command.result.exists() for command in self.commands)


def flags(**values: Any) -> list[str]:
    """Command-line flags: lists are spread, true stands alone, None is left out."""
    words: list[str] = []
    for name, value in values.items():
        if value is not None:
            words += [
                f"--{name}",
                *([] if value is True else map(str, value) if isinstance(value, list) else [str(value)]),
            ]
    return words


def with_needs(runs: Iterable[Run], chosen: Iterable[Run]) -> list[Run]:
    """The chosen ones of these runs, after those they build upon."""
    by_name = {run.name: run for run in runs}
    found: dict[str, Run] = {}

    def add(run: Run) -> None:
        for need in run.needs:
            add(by_name[need])
        found[run.name] = run

    for run in chosen:
        add(run)
    return list(found.values())


def slots(cluster: Literal["local", "slurm"] = "local", jobs: int | None = None) -> list[dict[str, str]]:
    """Environment variables of each run that may go on at a time: a GPU each, or a share of the cores.

    Args:
        cluster: see `run_all`.
        jobs: runs at a time; by default one per GPU, or per core without; on Slurm 16.
    """
    if cluster == "slurm":
        return [{}] * (jobs or 16)
    if gpus := torch.cuda.device_count():
        return [{"CUDA_VISIBLE_DEVICES": str(job % gpus)} for job in range(jobs or gpus)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = jobs or cores
    return [{"OMP_NUM_THREADS": str(max(1, cores // jobs))}] * jobs


def work_on(run: Run, environment: Mapping[str, str]) -> None:
    """Call the commands of a run whose results are missing; output goes to ``log.txt`` in its folder.

    Args:
        run: what to do.
        environment: variables for its commands, beside those of this process.

    Raises:
        RuntimeError: if a command fails; names the log and shows its last line.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    log = run.folder / "log.txt"
    with (run.folder / "lock").open("w") as lock, log.open("a", encoding="utf-8") as output:
        # the commands inherit the lock: where one outlives a killed process, the next to come waits for it
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in run.commands:
            if command.result.exists():
                continue
            argv = [*command.argv, *(["--resume_from_checkpoint", "latest"] if command.resumable else [])]
            output.write(f"\n$ python {shlex.join(argv)}\n")
            output.flush()
            process = subprocess.Popen(
                [sys.executable, *argv],
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],
            )
            _processes.add(process)
            try:
                code = process.wait()
            finally:
                _processes.discard(process)
            if code or not command.result.exists():
                last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
                raise RuntimeError(f"{Path(argv[0]).name} ended with exit code {code}: {last} (all of it in {log})")


def run_all(
    runs: Iterable[Run],
    *,
    slots: Sequence[Mapping[str, str]] = ({},),
    cluster: Literal["local", "slurm"] = "local",
    folder: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Do all runs that are not finished, each as soon as those it needs are; a failed run does not stop the others.

    Args:
        runs: in any order.
        slots: as many runs go on at a time; each entry holds environment variables of its own for the run in it, such
            as a number of threads or a GPU.
        cluster: processes on this machine, or jobs of the Slurm cluster that this machine submits to.
        folder: Slurm: for submitit's job files; shared by all machines, as the runs' folders are.
        options: Slurm: parameters of submitit's executor, such as ``slurm_partition``, ``timeout_min`` or
            ``gpus_per_node``.

    Returns:
        per run that failed or had to be left out, why.

    Raises:
        ImportError: for Slurm without submitit.
        TrainingInterrupted: on SIGINT or SIGTERM, which the commands in hand are told of: they keep what they have.
    """
    waiting = {run.name: run for run in runs}
    failures: dict[str, str] = {}
    finished = {name for name, run in waiting.items() if run.finished}
    running: dict[str, tuple[Any, Mapping[str, str]]] = {}
    free = list(slots)
    executor = ThreadPoolExecutor(len(free)) if cluster == "local" else _slurm(folder, options or {})
    bar = progress_bar(total=len(waiting), initial=len(finished), unit="run", desc="runs")
    for name in finished:
        del waiting[name]
    with Interruption() as interruption:
        while waiting or running:
            for name, run in list(waiting.items()):
                if lost := [need for need in run.needs if need in failures]:
                    failures[name] = f"needs {', '.join(lost)}"
                    del waiting[name]
                elif free and finished.issuperset(run.needs):
                    slot = free.pop(0)
                    running[name] = executor.submit(work_on, waiting.pop(name), slot), slot
                    bar.set_postfix_str(f"{name} started")
            time.sleep(0.1 if cluster == "local" else 5)
            if interruption.signum is not None:
                _stop(running)
                raise TrainingInterrupted(
                    f"interrupted with {len(finished)} runs finished: the same command goes on", interruption.signum
                )
            for name in [name for name, (job, _) in running.items() if job.done()]:
                job, slot = running.pop(name)
                free.append(slot)
                error = job.exception()
                if error is None:
                    finished.add(name)
                else:
                    failures[name] = _reason(error)
                bar.update()
                bar.set_postfix_str(f"{name} {'failed' if error else 'finished'}")
    bar.close()
    return failures


def _slurm(folder: str | Path | None, options: Mapping[str, Any]) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ImportError("Slurm needs submitit: pip install context-module[evaluate]") from error
    executor = submitit.AutoExecutor(folder=folder or "jobs", cluster="slurm")
    executor.update_parameters(**options)
    return executor


def _stop(running: Mapping[str, tuple[Any, Mapping[str, str]]]) -> None:
    for job, _ in running.values():
        job.cancel()  # of a thread: only if it has not begun
    for process in list(_processes):
        process.terminate()
    for process in list(_processes):
        process.wait()


def _reason(error: BaseException) -> str:
    """The message itself: submitit wraps it in the traceback of the job."""
    lines = [line for line in str(error).splitlines() if line.startswith("RuntimeError: ")]
    return lines[-1].removeprefix("RuntimeError: ") if lines else str(error)
