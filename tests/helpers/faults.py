"""What was tried against this library: `make faults`, or ``python -m helpers.faults FILES KILLS STEPS [KIND]``.

FILES damaged versions of every kind of file are read, every kind of run is killed KILLS times and resumed, and one
goes on for STEPS.
"""

import sys
import tempfile
from pathlib import Path

import torch

from helpers.harness import GOOD, damaged
from helpers.loaders import LOADERS
from helpers.long_runs import generating, training
from helpers.recipe_kills import RUNS, trials


def of_files(count, names):
    """A line for every kind of file, as each is done."""
    if count:
        yield "| damaged files | tried | the same | an error that says so | other values, of others | anything else |"
        yield "|---|---|---|---|---|---|"
    for name in names if count else ():
        with tempfile.TemporaryDirectory() as folder:
            counts, wrong = damaged(name, range(count), Path(folder))
        other = 0 if LOADERS[name].ours else counts["other values"]
        print(*wrong[:20], sep="\n", file=sys.stderr)
        yield f"| {name} | {sum(counts.values())} | {counts[GOOD[0]]} | {counts[GOOD[1]]} | {other} | {len(wrong)} |"


def of_kills(count, names):
    """A line for every kind of run, as each is done."""
    if count:
        yield "\n| runs killed at a write, and resumed | tried | the same bits in the end | anything else |"
        yield "|---|---|---|---|"
    for name in names if count else ():
        with tempfile.TemporaryDirectory() as folder:
            tried, wrong = trials(name, count, Path(folder))
        print(*wrong[:20], sep="\n", file=sys.stderr)
        yield f"| {name} | {tried} | {tried - len(wrong)} | {len(wrong)} |"


def of_long_runs(steps):
    """A line for a long training, and for a tenth as many samples, as each is done."""
    if steps:
        yield "\n| long runs | MB after a fifth | MB at the end | open files | at the end |"
        yield "|---|---|---|---|---|"
        with tempfile.TemporaryDirectory() as folder:
            seen, files, lines = training(folder, steps)
        found = {f"{steps:,} steps ({files} files, a log of {lines:,} lines)": seen}
        found[f"{steps // 10:,} calls of generate"] = generating(steps // 10)
        for title, ((memory, opened), (memory_after, opened_after)) in found.items():
            yield f"| {title} | {memory:.0f} | {memory_after:.0f} | {opened} | {opened_after} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    files, kills, steps, *chosen = sys.argv[1:]
    for row in of_files(int(files), [name for name in LOADERS if not chosen or name in chosen]):
        print(row, flush=True)
    for row in of_kills(int(kills), [name for name in RUNS if not chosen or name in chosen]):
        print(row, flush=True)
    for row in of_long_runs(int(steps)):
        print(row, flush=True)
