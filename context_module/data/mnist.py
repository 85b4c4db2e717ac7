"""MNIST's handwritten digits, from its four idx files or from the Hugging Face Hub."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from context_module.errors import DataError

__all__ = ["Digits", "load_mnist"]

_HUB_NAME = "ylecun/mnist"
_UNSIGNED_BYTE = 8  # the idx format's code of the only dtype MNIST uses
_SIDE, _CLASSES = 28, 10
_MOST_BYTES = 1_000_000 * _SIDE * _SIDE + 16


class Digits(NamedTuple):
    """MNIST, as it is: white ink on black, 60,000 digits to train on and 10,000 to test on.

    Attributes:
        train_images, test_images: uint8 (N, 28, 28).
        train_labels, test_labels: uint8 (N,), the digits 0 to 9.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_mnist(root: str | Path | None = None) -> Digits:
    """MNIST's images and labels.

    Args:
        root: a folder that holds MNIST's four files, ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
            ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, with or without ``.gz``; a dot in place of the
            hyphen before ``idx`` will do. Default: download it from the Hugging Face Hub, once.

    Returns:
        `Digits`.

    Raises:
        DataError: for a missing folder or file, a file that is truncated or not what its name says, numbers of images
            and labels that differ, or a failed download.
        ImportError: without a root, if the `datasets` library is not installed.
    """
    if root is None:
        return _from_hub()
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"no folder {root}: expected one that holds MNIST's four idx files, as train-images-idx3-ubyte"
        )
    return Digits(*_read_part(root, "train"), *_read_part(root, "t10k"))


def _read_part(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images_file, labels_file = _find(root, f"{part}-images", "idx3"), _find(root, f"{part}-labels", "idx1")
    images, labels = _read_idx(images_file, dimensions=3), _read_idx(labels_file, dimensions=1)
    if images.shape[1:] != (_SIDE, _SIDE) or not len(images):
        raise DataError(f"{images_file} holds images of shape {images.shape}: expected (N, {_SIDE}, {_SIDE})")
    if len(images) != len(labels):
        raise DataError(
            f"{labels_file} holds {len(labels)} labels for the {len(images)} images of {images_file.name}: "
            "expected one each"
        )
    if labels.max() >= _CLASSES:
        raise DataError(f"{labels_file} holds the label {labels.max()}: expected digits, 0 to {_CLASSES - 1}")
    return images, labels


def _find(root: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{joint}{kind}-ubyte{suffix}" for joint in "-." for suffix in ("", ".gz")]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise DataError(f"no {names[0]} in {root}: expected one of {', '.join(names)}")


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array in an idx file: two zero bytes, dtype, number of dimensions, the sizes as big-endian 32 bits, data."""
    try:
        # no more than MNIST can hold is decompressed: a file of megabytes may be gigabytes inside
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} cannot be decompressed ({error}): truncated or foreign, fetch it again") from None
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path} holds more than {_MOST_BYTES:,d} bytes, more than a million digits: foreign")
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != expected:
        raise DataError(
            f"{path} begins with the bytes {content[:4].hex(' ')}: expected {expected.hex(' ')}, "
            f"an idx file of unsigned bytes in {dimensions} dimension{'s' * (dimensions > 1)}"
        )
    body = 4 + 4 * dimensions
    if len(content) < body:
        raise DataError(f"{path} is truncated: it ends within its header, fetch it again")
    shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
    if len(content) - body != math.prod(shape):
        raise DataError(
            f"{path} holds {len(content) - body} bytes of data where its header announces "
            f"{' x '.join(map(str, shape))}: truncated or foreign, fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=body).reshape(shape).copy()  # writable, as torch wants it


def _from_hub() -> Digits:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "downloading MNIST needs the datasets library: pip install context-module[data], "
            "or pass root=, a folder with its idx files"
        ) from error
    try:
        parts = datasets.load_dataset(_HUB_NAME)
    except Exception as error:  # each library on the way to the Hub raises errors of its own
        raise DataError(
            f"cannot download {_HUB_NAME} ({type(error).__name__}: {error}): "
            "pass root=, a folder with MNIST's four idx files"
        ) from error
    return Digits(*_as_arrays(parts["train"]), *_as_arrays(parts["test"]))


def _as_arrays(part: Any) -> tuple[np.ndarray, np.ndarray]:
    columns = part.with_format("numpy")[:]
    return columns["image"].astype(np.uint8), columns["label"].astype(np.uint8)
