"""Checksums of a file that grows: one for every 16 MiB, so that what went wrong on the disk is noticed when read."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["Sums", "sums_hold"]

_CHUNK = 1 << 24


class Sums:
    """The checksums of bytes that are added one after another.

    Args:
        values: of those that were added before.
        size: how many they were.
    """

    def __init__(self, values: Iterable[int] = (), size: int = 0) -> None:
        self.values, self.size = [*values], size

    def add(self, data: bytes) -> None:
        """Go on with these bytes."""
        view = memoryview(data)
        while len(view):
            inside = self.size % _CHUNK
            piece = view[: _CHUNK - inside]
            if not inside:
                self.values.append(0)
            self.values[-1] = zlib.crc32(piece, self.values[-1])
            self.size += len(piece)
            view = view[len(piece) :]


def sums_hold(path: Path, values: object, start: int, size: int) -> bool:
    """Whether `size` bytes of a file from `start` on have these checksums."""
    if not isinstance(values, Sequence) or len(values) != -(-size // _CHUNK):
        return False
    with path.open("rb") as file:
        file.seek(start)
        for value in values:
            piece = file.read(min(_CHUNK, size))
            size -= len(piece)
            if not piece or zlib.crc32(piece) != value:
                return False
    return size == 0
