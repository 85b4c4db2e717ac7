"""Loads damaged versions of good folders, in a process of their own with bounds, and says what came of them."""

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter

import torch

from context_module.errors import ContextModuleError
from helpers.loaders import LOADERS, chooser, files_of, loaded
from helpers.mutations import mutate

SECONDS, MEGABYTES = 20, 3000  # of one file; memory is that of the process besides what it had
GOOD = ("the same", "an error that says so")


def damaged(name, numbers, work):
    """What came of so many damaged versions of a loader's files: counts by outcome, and those that went wrong."""
    loader = LOADERS[name]
    good, marker = work / "good", work / "executed"
    good.mkdir(parents=True, exist_ok=True)
    loader.make(good)
    expected = loaded(loader, _copy(good, work / "as it is"))
    counts, wrong, rest = Counter(), [], list(numbers)
    while rest:
        done = _in_a_child(lambda number: _one(name, loader, good, work, marker, expected, number), rest)
        for number, (outcome, said) in done:
            if marker.exists():
                outcome = "EXECUTED"
                marker.rmdir()
            counts[outcome] += 1
            if outcome not in GOOD and not (outcome == "other values" and not loader.ours):
                wrong.append(f"{name} {number}: {outcome}: {said}")
        rest = rest[len(done) :]
    return counts, wrong


def _copy(good, place):
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(good, place)
    return place


def _one(name, loader, good, work, marker, expected, number):
    folder = _copy(good, work / "damaged")
    rng = chooser(name, number)
    path = rng.choice(files_of(loader, folder))
    said = "nothing"
    try:
        said = mutate(path, rng, marker)
    except (ValueError, KeyError, TypeError, SyntaxError, OverflowError, RecursionError):  # cannot be written so
        path.write_bytes(path.read_bytes()[:-1])
        said = f"{path.name} without its last byte"
    try:
        with contextlib.redirect_stderr(None):
            outcome = "the same" if loaded(loader, folder) == expected else "other values"
    except (ContextModuleError, *loader.errors) as error:
        outcome = "an error that says so"
        said += f": {str(error)[:150]}"
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is told)
        where = " < ".join(
            f"{frame.name}:{frame.lineno}" for frame in reversed(traceback.extract_tb(error.__traceback__)[-5:])
        )
        outcome, said = f"A TRACEBACK of {type(error).__name__}", f"{said}: {str(error)[:150]} ({where})"
    return outcome, said


def _in_a_child(work, numbers):
    """Results of `work` for these numbers in a forked process, until it dies or takes too long over one."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        torch.set_num_threads(1)
        devnull = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(devnull, stream)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the end of the process)
        own = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_AS, (own + MEGABYTES * 2**20,) * 2)
        for number in numbers:
            os.write(writing, (json.dumps(work(number)) + "\n").encode())
        os._exit(0)
    os.close(writing)
    done, text, started = [], b"", time.monotonic()
    ending = None
    while len(done) < len(numbers):
        ready, _, _ = select.select([reading], [], [], max(0.0, SECONDS - (time.monotonic() - started)))
        if not ready:
            ending = f"TOOK MORE THAN {SECONDS} s"
            os.kill(child, signal.SIGKILL)
            break
        piece = os.read(reading, 65_536)
        if not piece:
            break
        *lines, text = (text + piece).split(b"\n")
        done += [(numbers[len(done) + place], tuple(json.loads(line))) for place, line in enumerate(lines)]
        started = time.monotonic() if lines else started
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if len(done) < len(numbers):
        done.append((numbers[len(done)], (ending or f"ENDED THE PROCESS ({status})", "")))
    return done
