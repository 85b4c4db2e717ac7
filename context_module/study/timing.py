"""Ratios of times, as a noisy machine allows them: of pieces of work that take turns, and of each its shortest."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["ratio", "seconds"]

Work = Callable[[], object]


def seconds(work: Work, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long a piece of work takes, by a clock."""
    start = clock()
    work()
    return clock() - start


def ratio(one: Work, other: Work, repeats: int) -> float:
    """Processor time of one piece of work over another's: of the shortest of each, which others disturb least."""
    for work in (one, other):
        work()  # warms up
    times = [(seconds(one, time.process_time), seconds(other, time.process_time)) for _ in range(repeats)]
    return min(first for first, _ in times) / min(second for _, second in times)
