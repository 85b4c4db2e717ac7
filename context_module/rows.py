"""Which rows of a batch are in hand, where processes or passes each have a share of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Rows", "at_rows", "number_in_group", "rows_in_hand", "spread_over_rows"]


@dataclass(frozen=True)
class Rows:
    """A share of a batch: rows `start` to `start + count` of `total`."""

    start: int
    count: int
    total: int

    @property
    def place(self) -> slice:
        """The share, to index the whole batch with."""
        return slice(self.start, self.start + self.count)


_IN_HAND: ContextVar[Rows | None] = ContextVar("rows", default=None)


@contextmanager
def at_rows(rows: Rows | None) -> Iterator[None]:
    """Within it, `rows_in_hand` are these."""
    token = _IN_HAND.set(rows)
    try:
        yield
    finally:
        _IN_HAND.reset(token)


def rows_in_hand() -> Rows | None:
    """The share of a batch that this process and pass works on; None: all of it."""
    return _IN_HAND.get()


def spread_over_rows(offset: Tensor, n: int) -> Tensor:
    """Numbers in [0, 1), (n,), spread evenly over the rows of a batch from one draw: (offset + row / rows) % 1.

    >>> spread_over_rows(torch.tensor(0.25), 4).tolist()
    [0.25, 0.5, 0.75, 0.0]
    >>> with at_rows(Rows(2, 2, 4)):
    ...     spread_over_rows(torch.tensor(0.25), 2).tolist()
    [0.75, 0.0]
    """
    rows = _IN_HAND.get()
    start, total = (0, max(n, 1)) if rows is None or n != rows.count else (rows.start, rows.total)
    return (offset + torch.arange(start, start + n, device=offset.device) / total) % 1


def number_in_group(groups: Tensor) -> Tensor:
    """How many earlier rows are of the same group, int64 (B,), of the groups' numbers (B,): 0 or more.

    >>> number_in_group(torch.tensor([2, 0, 2, 2, 0])).tolist()
    [0, 0, 1, 2, 1]
    """
    order, counts = groups.argsort(stable=True), groups.bincount()
    found = torch.empty_like(order)
    found[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[groups[order]]
    return found
