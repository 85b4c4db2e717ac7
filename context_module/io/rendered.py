"""An array that is made here and kept in an NPY file: written in pieces, gone on with, checked when it is read."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from context_module.errors import CheckpointError, DataError
from context_module.io.files import read_json, write_json
from context_module.io.sums import Sums, sums_hold

__all__ = ["rendered_array"]

_SYNCED = 1 << 26  # bytes between two waits for the disk


def rendered_array(path: Path, shape: tuple[int, ...], compute: Callable[[int], Iterable[Tensor]]) -> Path:
    """A file with an array of uint8, made unless it is there and whole; of several processes one makes it.

    A full disk is an error, and not the end of the process, as it would be through a memory map. What is written
    stays, and the next call goes on from there. A file that is damaged is made anew, with a warning.

    Args:
        path: of the file; its checksums are beside it, in ``NAME.sums``.
        shape: (N, ...).
        compute: gives the rows from a number on, in blocks (n, ...), uint8.

    Raises:
        DataError: for a folder that cannot be written, or without room; names the file.
    """
    header, sums = _header(shape), path.with_name(f"{path.name}.sums")
    if _whole(path, sums, header, shape):
        return path
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _whole(path, sums, header, shape):  # another process may have made it meanwhile
                if path.exists():
                    warnings.warn(f"{path} is damaged: making it anew", stacklevel=4)
                try:
                    _go_on(file, part, header, shape, compute)
                except BaseException:
                    if file.seek(0, os.SEEK_END) <= len(header):
                        part.unlink()  # nothing to go on from
                    raise
                _sum_up(file, sums)
                part.replace(path)
            elif part.exists():
                part.unlink()
    except OSError as error:
        raise DataError(
            f"cannot keep images in {path} ({error}): make room, or the folder writable, and start again, which goes "
            "on from what is written; or give another cache_dir, or none to keep them in memory"
        ) from error
    return path


def _header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _whole(path: Path, sums: Path, header: bytes, shape: tuple[int, ...]) -> bool:
    size = len(header) + int(np.prod(shape, dtype=np.int64))
    if not (path.is_file() and sums.is_file()) or path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            return False
    try:
        return sums_hold(path, read_json(sums).get("crc32"), 0, size)
    except CheckpointError:
        return False


def _go_on(
    file: io.BufferedRandom,
    part: Path,
    header: bytes,
    shape: tuple[int, ...],
    compute: Callable[[int], Iterable[Tensor]],
) -> None:
    """Write the rows that are not there yet."""
    width = int(np.prod(shape[1:], dtype=np.int64))
    file.seek(0)
    kept = (part.stat().st_size - len(header)) // width if file.read(len(header)) == header else 0
    kept = min(max(kept, 0), shape[0])
    file.truncate(len(header) + kept * width if kept else 0)
    if not kept:
        file.write(header)
    needed, free = (shape[0] - kept) * width, shutil.disk_usage(part.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.2g} GB are needed, {free / 1e9:.2g} GB are free")
    waiting = 0
    for block in compute(kept) if kept < shape[0] else ():
        data = block.numpy().tobytes()
        file.write(data)  # at the end: the file is open to append
        waiting += len(data)
        if waiting > _SYNCED:
            file.flush()
            os.fsync(file.fileno())
            waiting = 0
    file.flush()
    os.fsync(file.fileno())


def _sum_up(file: io.BufferedRandom, sums: Path) -> None:
    found = Sums()
    file.seek(0)
    while piece := file.read(1 << 22):
        found.add(piece)
    write_json(sums, {"crc32": found.values})
