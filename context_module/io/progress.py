"""Progress bars, for terminals and for files of logs alike."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm

__all__ = ["progress_bar"]

_OFTEN, _SELDOM = 0.1, 30.0  # seconds


def progress_bar(iterable: Any = None, **options: Any) -> Any:
    """A bar of tqdm; where it goes to a file, a line every half minute, so that it does not fill it.

    Args:
        iterable, options: as of `tqdm.tqdm`.
    """
    shown = sys.stderr.isatty() or "ipykernel" in sys.modules
    every = {"mininterval": _OFTEN} if shown else {"mininterval": _SELDOM, "maxinterval": _SELDOM, "ascii": True}
    return tqdm(iterable, **(every | options))
