"""The table of what was tried against this library: `make faults`, ``python -m helpers.faults COUNT [KIND ...]``."""

import sys
import tempfile
from pathlib import Path

import torch

from helpers.harness import GOOD, damaged
from helpers.loaders import LOADERS


def rows(count, names):
    """A line of the table for every kind of file, as each is done; and whether anything went wrong."""
    yield "| damaged files | tried | the same | an error that says so | other values, of others | anything else |"
    yield "|---|---|---|---|---|---|"
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            counts, wrong = damaged(name, range(count), Path(folder))
        other = 0 if LOADERS[name].ours else counts["other values"]
        print(*wrong[:20], sep="\n", file=sys.stderr)
        yield f"| {name} | {sum(counts.values())} | {counts[GOOD[0]]} | {counts[GOOD[1]]} | {other} | {len(wrong)} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in rows(int(sys.argv[1]), sys.argv[2:] or LOADERS):
        print(row, flush=True)
