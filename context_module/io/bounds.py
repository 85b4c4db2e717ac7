"""Networks no larger than the file that they are built for.

A configuration of a few bytes can ask for any number of layers: what is built from one is bounded by the tensors that
lie beside it, before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from context_module.errors import CheckpointError

__all__ = ["bounded_by", "check_counts"]

_LEAST = 1 << 16  # a count in a configuration that any file may have
_SPARE_VALUES, _SPARE_CALLS = 1 << 20, 1 << 12
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye, torch.arange}


def check_counts(
    config: object, tensors: Mapping[str, Tensor], source: object, free: Collection[str] = (), name: str = ""
) -> None:
    """Raise CheckpointError for a number in a configuration that is beyond what its file's tensors can be counted by.

    Args:
        config: of JSON's types.
        tensors: of the file.
        source: of the configuration, for the message.
        free: names of entries that count something else.
        name: of what `config` is an entry of.
    """
    most = max(_LEAST, sum(tensor.numel() for tensor in tensors.values()))
    pending: list[tuple[str, Any]] = [(name, config)]
    while pending:
        name, value = pending.pop()
        if isinstance(value, Mapping):
            pending += [(str(key), entry) for key, entry in value.items() if key not in free]
        elif isinstance(value, (list, tuple)):
            pending += [(name, entry) for entry in value]
        elif isinstance(value, int) and not -most <= value <= most:
            shown = value if abs(value) < 10**30 else "a number of more than 30 digits"
            raise CheckpointError(
                f"{source} has {name} {shown}, but the tensors beside it hold {most:,d} values at most: damaged, or "
                "not written by this library"
            )


@contextmanager
def bounded_by(tensors: Mapping[str, Tensor], source: object) -> Iterator[None]:
    """Within it, a network is built that these tensors go into: CheckpointError once it is larger than they are.

    Whatever else goes wrong with impossible sizes is one, too.

    Args:
        tensors: of the file.
        source: of the configuration, for the message.
    """
    try:
        with _Budget(tensors, source):
            yield
    except CheckpointError:
        raise
    except (RuntimeError, OverflowError, ZeroDivisionError, RecursionError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{source} asks for a network that cannot be built ({reason})") from None


class _Budget(TorchFunctionMode):
    """Counts what is allocated."""

    def __init__(self, tensors: Mapping[str, Tensor], source: object) -> None:
        super().__init__()
        self.source = source
        self.held = sum(tensor.numel() for tensor in tensors.values())
        self.values = 8 * self.held + _SPARE_VALUES
        self.calls = 64 * len(tensors) + _SPARE_CALLS

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in _FACTORIES:
            self.calls -= 1
            self.values -= _values(func, args, given)
            if self.values < 0 or self.calls < 0:
                raise CheckpointError(
                    f"{self.source} asks for a larger network than the tensors beside it, of {self.held:,d} values: "
                    "damaged, or not written by this library"
                )
        return func(*args, **given)


def _values(func: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> int:
    """How many values a factory makes."""
    bare = {name: value for name, value in given.items() if name not in ("generator", "pin_memory")}
    # on "meta" these would import torch's compiler, which takes half as long as torch itself
    if func in (torch.rand, torch.randn):
        func = torch.empty
    if func is torch.eye and args and "m" not in bare:
        return int(args[0] * args[-1])
    if func is torch.arange and not bare.keys() & {"start", "end", "step"}:
        start, end, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
        return max(0, math.ceil((end - start) / step))
    return int(func(*args, **{**bare, "device": "meta"}).numel())
