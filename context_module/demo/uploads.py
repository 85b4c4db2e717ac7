"""Uploaded images: checked before they are decoded, and kept in one folder, out of which nothing is read."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from pathlib import Path

from context_module.errors import DataError

__all__ = ["MOST_BYTES", "SUFFIXES", "Uploads"]

MOST_BYTES = 8 * 2**20
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_MOST_PIXELS = 4096 * 4096  # decoded as floats: 200 MB
_MOST_ASPECT = 8  # a strip one pixel high would grow beyond all bounds when it is scaled to the model's height
_KEPT = 32


class Uploads:
    """Images by key, in a folder of their own; of more than 32 the one that was not used for longest goes.

    Args:
        folder: the folder, made if needed.

    Attributes:
        incoming: where files arrive, a folder in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.incoming, self._kept = self.folder / "incoming", self.folder / "kept"
        for path in (self.incoming, self._kept):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._used: dict[str, None] = {}

    def take(self, file: str | Path) -> str:
        """Move a file that was uploaded to those that are kept; returns its key, a hash of its content.

        Raises:
            DataError: for a file that is not among those that arrived, one that is too large, has too many pixels or
                too narrow a shape, or is no PNG, JPEG or WebP image that can be decoded.
        """
        path = Path(file).resolve()
        if not path.is_relative_to(self.incoming) or not path.is_file():
            raise DataError("the file is not one that was uploaded: upload it again")
        name = _plain(path)
        try:
            _check(path, name)
            key = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
            with self._lock:
                shutil.rmtree(self._kept / key, ignore_errors=True)
                (self._kept / key).mkdir()
                shutil.move(path, self._kept / key / name)
                self._touch(key)
        finally:
            path.unlink(missing_ok=True)
        return key

    def find(self, key: str) -> Path:
        """The file of a key; DataError if there is none (any more)."""
        with self._lock:
            if not re.fullmatch(r"[0-9a-f]{32}", key, re.ASCII) or key not in self._used:
                raise DataError("the image of this link is not here any more: upload it again")
            self._touch(key)
            (file,) = (self._kept / key).iterdir()
            return file

    def make_room(self) -> None:
        """Remove the oldest files that arrived and were never taken, beyond 32."""
        with self._lock:
            waiting = [path for path in self.incoming.rglob("*") if path.is_file()]
            for path in sorted(waiting, key=_age)[:-_KEPT]:
                path.unlink(missing_ok=True)

    def _touch(self, key: str) -> None:
        self._used.pop(key, None)
        self._used[key] = None
        for old in list(self._used)[:-_KEPT]:
            del self._used[old]
            shutil.rmtree(self._kept / old, ignore_errors=True)


def _age(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # it was taken meanwhile
        return 0


def _plain(path: Path) -> str:
    """The file's name, of letters, digits and ``_.-`` alone."""
    stem = re.sub(r"[^\w-]+", "_", path.stem, flags=re.ASCII).strip("_-")[:40] or "image"
    suffix = re.sub(r"[^\w.]", "", path.suffix.lower(), flags=re.ASCII)[:8]
    return f"{stem}{suffix}"


def _check(path: Path, name: str) -> None:
    from PIL import Image

    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{name} is not taken: expected an image, {', '.join(SUFFIXES)}")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise DataError(f"{name} has {size / 2**20:.1f} MB, of at most {MOST_BYTES / 2**20:.0f}: save it smaller")
    try:
        with Image.open(path, formats=tuple(set(SUFFIXES.values()))) as picture:
            width, height = picture.size
            if width * height <= _MOST_PIXELS and max(width, height) <= _MOST_ASPECT * min(width, height):
                picture.load()
                return
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{name} has too many pixels, at most {_MOST_PIXELS:,d} are taken: save it smaller") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise DataError(f"{name} cannot be read as an image: it is damaged, or something else") from error
    if width * height > _MOST_PIXELS:
        raise DataError(f"{name} has {width} x {height} pixels, at most {_MOST_PIXELS:,d} are taken: save it smaller")
    raise DataError(f"{name} is {width} x {height}, too narrow: crop it to at most {_MOST_ASPECT} : 1")
