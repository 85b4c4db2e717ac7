"""Training mode and eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a block of code, then every part its own: generating must not move batch-norm statistics.

    Threads may be in such blocks of one model at a time: the last one to leave restores the modes.
    """
    with _GUARD:
        block = _BLOCKS.get(model)
        if block is None:
            block = _BLOCKS[model] = _Block({part: part.training for part in model.modules()})
        block.inside += 1
        model.eval()
    try:
        yield
    finally:
        with _GUARD:
            block.inside -= 1
            if not block.inside:
                del _BLOCKS[model]
                for part, training in block.modes.items():
                    part.training = training


@dataclass
class _Block:
    """The modes before the first thread came, and how many are inside."""

    modes: dict[nn.Module, bool]
    inside: int = 0


_GUARD = RLock()
_BLOCKS: WeakKeyDictionary[nn.Module, _Block] = WeakKeyDictionary()
