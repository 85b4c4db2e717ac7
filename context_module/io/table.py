"""Rows of numbers computed once and kept on disk: by one process at a time, and gone on with after a kill."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from context_module.errors import CheckpointError, DataError
from context_module.io.files import read_json, write_json
from context_module.io.sums import Sums, sums_hold

__all__ = ["MappedArray", "MappedTable", "cached_table"]

# what numpy raises for a header that is torn, lies, or asks for too much
_UNREADABLE = (OSError, ValueError, EOFError, SyntaxError, TokenError, TypeError, ArithmeticError, MemoryError)
_TABLE, _INDEX, _LOCK = "encodings.npy", "index.json", "lock"
_TOLERANCE = 0.05  # relative: devices and batch sizes differ in the last digits, another encoder by more
_SECONDS = 2.0  # between two records of what is on the disk, for which the disk has to be waited for


class MappedArray:
    """An array in an NPY file, of which only the rows that are asked for are read into memory.

    It pickles as its path, so that worker processes map the file themselves.

    Raises:
        CheckpointError: for a file that is missing or truncated.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (
            OSError,
            ValueError,
            EOFError,
            SyntaxError,
            TokenError,
            TypeError,
            ArithmeticError,
            MemoryError,
        ) as error:
            raise CheckpointError(f"{self.path.name} is missing or truncated ({error})") from None
        self.offset: int = array.offset  # bytes before the first row
        self._array = np.asarray(array)  # a plain view of the map: quicker to index

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self._array[rows.numpy()])  # indexing by an array copies

    def __reduce__(self) -> tuple[type[MappedArray], tuple[Path]]:
        return type(self), (self.path,)


class MappedTable(MappedArray):
    """Rows of an NPY file, float32 or float16 (N, D).

    Raises:
        CheckpointError: for a file that is missing, truncated, or holds anything else.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        array = self._array
        if array.dtype not in (np.float32, np.float16) or array.ndim != 2:
            raise CheckpointError(
                f"{self.path.name} holds {array.dtype} {array.shape}, expected float32 or float16 rows (N, D)"
            )

    @property
    def row_bytes(self) -> int:
        return self._array.dtype.itemsize * self.shape[1]


def cached_table(
    folder: Path,
    description: Mapping[str, Any],
    count: int,
    first: Tensor,
    compute: Callable[[int], Iterable[Tensor]],
    *,
    progress: bool = True,
) -> MappedTable:
    """The table in `folder`, computed unless it is there; of several processes one computes and the others wait.

    A table that is damaged, or whose index says other things of it than `description`, is computed anew, with a
    warning that says why; values that went wrong on the disk are noticed by checksums.

    Args:
        folder: of this table alone; made if needed.
        description: all that the rows depend on, in JSON's types.
        count: N, rows of the table.
        first: (D,), row 0 as it would be now, float32 or float16, as all rows are; to see that a table still holds
            what it should.
        compute: gives the rows from a number on, in blocks (n, D), of the type of `first`, on the CPU. Every two
            seconds they are flushed to the disk and counted as kept: no more is lost by a kill.
        progress: say so when another process has to be waited for.

    Raises:
        DataError: for a folder that cannot be written, or without room for the table; what is written is kept.
    """
    index = {**description, "shape": [count, len(first)]}
    with _explained(folder):
        with suppress(CheckpointError):  # a whole table takes no lock: its folder may be read-only
            if _rows_kept(folder, index, first) == count:
                return MappedTable(folder / _TABLE)
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w")
    with lock:
        with _explained(folder):
            _acquire(lock, folder, progress)
            try:
                kept = _rows_kept(folder, index, first)
            except CheckpointError as error:
                warnings.warn(
                    f"the encodings in {folder} cannot be used ({error}): encoding the images anew", stacklevel=3
                )
                kept = 0
        if kept < count:
            _write(folder, index, kept, first, compute)
        return MappedTable(folder / _TABLE)


def _rows_kept(folder: Path, index: Mapping[str, Any], first: Tensor) -> int:
    """How many rows are there to go on from; CheckpointError if what is there cannot be used."""
    if not (folder / _INDEX).exists():
        if (folder / _TABLE).exists():
            raise CheckpointError(f"{_INDEX} is missing")
        return 0
    found = read_json(folder / _INDEX)
    for name, expected in index.items():
        if found.get(name) != expected:
            raise CheckpointError(f"{_INDEX} records {name} {found.get(name)!r}, expected {expected!r}")
    kept = found.get("rows")
    if not isinstance(kept, int) or not 0 <= kept <= index["shape"][0]:
        raise CheckpointError(f"{_INDEX} records {kept!r} rows of {index['shape'][0]}")
    if kept:
        table = MappedTable(folder / _TABLE)
        row = table[torch.tensor([0])][0]
        if list(table.shape) != index["shape"]:
            raise CheckpointError(f"{_TABLE} has shape {list(table.shape)}, expected {index['shape']}")
        if row.dtype != first.dtype:
            raise CheckpointError(f"{_TABLE} holds {row.dtype}, expected {first.dtype}")
        if (row.float() - first.float()).norm() > _TOLERANCE * first.float().norm():
            raise CheckpointError("the first image is encoded in another way now")
        if not sums_hold(folder / _TABLE, found.get("crc32"), table.offset, kept * table.row_bytes):
            raise CheckpointError(f"{_TABLE} does not hold what was written")
    return kept


def _write(
    folder: Path, index: Mapping[str, Any], kept: int, first: Tensor, compute: Callable[[int], Iterable[Tensor]]
) -> None:
    """Write the rows from number `kept` on; they are recorded as kept once they are on the disk."""
    path, (count, width), row_bytes = folder / _TABLE, index["shape"], first.nbytes
    with _explained(folder):
        if not kept:
            path.unlink(missing_ok=True)  # not overwritten: another process may have mapped it
            write_json(folder / _INDEX, {**index, "rows": 0, "crc32": []})
            dtype = first.numpy().dtype
            np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(count, width))  # takes no room yet
        needed, free = row_bytes * (count - kept), shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
        offset = MappedTable(path).offset
        sums = Sums(read_json(folder / _INDEX)["crc32"], row_bytes * kept)
    recorded = time.monotonic()
    for block in compute(kept):
        # not through the map: a full disk would end the process there instead of raising an error
        with _explained(folder), path.open("r+b") as file:
            file.seek(offset + row_bytes * kept)
            data = block.numpy().tobytes()
            file.write(data)
            sums.add(data)
            kept += len(block)
            if kept == count or time.monotonic() - recorded >= _SECONDS:
                file.flush()
                os.fsync(file.fileno())
                write_json(folder / _INDEX, {**index, "rows": kept, "crc32": sums.values})
                recorded = time.monotonic()


def _acquire(lock: IO[str], folder: Path, progress: bool) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if progress:
            tqdm.write(f"waiting for another process, which encodes the images into {folder}", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """An OSError becomes a DataError that names the folder and the way out."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot keep encodings in {folder} ({error}): make room, or the folder writable, and start again, which "
            "goes on from what is written; or give another cache_dir, or none to keep them in memory"
        ) from error
