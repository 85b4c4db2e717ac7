"""One process at a time in a folder, and whoever comes second is told who is there."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import IO, Any, ClassVar
from weakref import WeakValueDictionary, finalize

from context_module.errors import OutputExistsError

__all__ = ["FolderLock", "only_here"]

_NAME = ".lock"
_GRACE = 6.0  # seconds in which helpers of a process that was killed end, too


class FolderLock:
    """Held by this process for as long as the object lives; a killed process leaves none.

    `FolderLock.of` gives one and the same to all who ask in one process.

    Args:
        folder: exists.
        doing: what is done in it, for the message: "training".

    Raises:
        OutputExistsError: if another process holds it; says which.
    """

    _held: ClassVar[WeakValueDictionary[Path, FolderLock]] = WeakValueDictionary()
    _guard: ClassVar[Any] = RLock()

    def __init__(self, folder: Path, doing: str) -> None:
        self.path = folder / _NAME
        self._file: IO[str] | None = None
        deadline = time.monotonic() + _GRACE
        while self._file is None:
            file = self.path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(file)
                file.close()
                if time.monotonic() > deadline or not _gone(holder):
                    raise OutputExistsError(
                        f"{folder} is in use: {holder or 'another process'} is {doing} there. Wait for its end or "
                        "stop it, or give another output_dir"
                    ) from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                file.close()
                return
            else:
                if _same_file(file, self.path):
                    self._file = file
                else:  # its holder took it away in the meantime
                    file.close()
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M')}")
        self._file.flush()
        finalize(self, _release, self.path, self._file, os.getpid())  # at the end of the process, too

    @classmethod
    def of(cls, folder: Path, doing: str) -> FolderLock:
        """The lock of a folder, taken unless this process has it."""
        with cls._guard:
            path = folder.resolve()
            lock = cls._held.get(path)
            if lock is None:
                lock = cls._held[path] = cls(path, doing)
            return lock


def _release(path: Path, file: IO[str], owner: int) -> None:
    if owner == os.getpid():  # not in a process that was forked from it
        with suppress(OSError):
            path.unlink()
    file.close()


@contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Within it no other thread of this process is in such a block for the same folder; it waits for its turn."""
    with _THREADS_GUARD:
        key = folder.resolve()
        lock = _THREADS.get(key)
        if lock is None:
            lock = _THREADS[key] = _Turn()
    with lock.turn:
        yield


class _Turn:
    def __init__(self) -> None:
        self.turn = RLock()


_THREADS: WeakValueDictionary[Path, _Turn] = WeakValueDictionary()
_THREADS_GUARD = RLock()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read(200).strip()


def _gone(holder: str) -> bool:
    """Whether a holder was a process of this machine that is no more."""
    words = holder.split()
    if len(words) < 4 or not words[1].isdigit() or words[3].rstrip(",") != socket.gethostname():
        return False
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
