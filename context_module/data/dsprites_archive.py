"""The pictures of the original dSprites archive, from a file that the user has.

dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz: https://github.com/google-deepmind/dsprites-dataset (Apache-2.0).
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from context_module.errors import DataError

__all__ = ["DSpritesArchive"]

_SHAPE = (737_280, 64, 64)
_CHUNK = 4096  # images unpacked at a time


class DSpritesArchive:
    """The archive's images, in memory as bits (377 MB) from the first one that is asked for on.

    Nothing else in the file is read: its metadata are pickled.

    Args:
        path: of the npz file.

    Raises:
        DataError: for a file that is missing, or does not hold the images.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._bits: np.ndarray | None = None
        with self._open() as file:
            _check_header(file, self.path)

    def read(self, places: Tensor) -> Tensor:
        """The images at these places (n,) in the order of dSprites: uint8 (n, 1, 64, 64), 0 or 255."""
        if self._bits is None:
            self._bits = self._load()
        images = np.unpackbits(self._bits[places.numpy()], axis=1).reshape(-1, 1, *_SHAPE[1:])
        return torch.from_numpy(images * 255)

    def _load(self) -> np.ndarray:
        count, size = _SHAPE[0], _SHAPE[1] * _SHAPE[2]
        bits = np.empty((count, size // 8), dtype=np.uint8)
        with self._open() as file:
            _check_header(file, self.path)
            for start in range(0, count, _CHUNK):
                rows = min(_CHUNK, count - start)
                read = file.read(rows * size)
                if len(read) != rows * size:
                    raise DataError(f"{self.path} ends after {start} images and some: get the archive again")
                bits[start : start + rows] = np.packbits(np.frombuffer(read, np.uint8).reshape(rows, size), axis=1)
        return bits

    def _open(self) -> IO[bytes]:
        try:
            return zipfile.ZipFile(self.path).open("imgs.npy")
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{self.path} is not the dSprites archive, an npz file with imgs.npy in it ({error})"
            ) from None


def _check_header(file: Any, path: Path) -> None:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if (shape, fortran, dtype) != (_SHAPE, False, np.dtype(np.uint8)):
        raise DataError(f"the images in {path} are {dtype} {shape}: those of dSprites are uint8 {_SHAPE}")
