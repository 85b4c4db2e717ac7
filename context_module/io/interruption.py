"""Ctrl-C and SIGTERM between two steps instead of in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = ["Interruption", "TrainingInterrupted"]


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped from outside; the message says what is kept and how to resume.

    Attributes:
        exit_code: 128 plus the signal's number, as shells report it.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class Interruption:
    """While active, the first SIGINT or SIGTERM only sets `signum`; a second one interrupts at once.

    ``accelerate launch`` passes no signals on. What it started takes its launcher's end as SIGTERM, and does not go on
    alone.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        self._previous: dict[int, Any] = {}
        self._launcher = os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ else None  # which it always sets

    @property
    def signum(self) -> int | None:
        """The signal that asks to stop, or None."""
        if self._signum is None and self._launcher not in (None, os.getppid()):
            return signal.SIGTERM
        return self._signum

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals there alone
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self._signum is not None:
            raise KeyboardInterrupt
        self._signum = signum
