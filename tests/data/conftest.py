"""For every test of data: digits in the files MNIST comes in."""

import os
from pathlib import Path

import numpy as np
import pytest


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(header + array.tobytes())


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory):
    """A folder with idx files: scikit-learn's handwritten digits, enlarged; or MNIST itself, where it is to be had."""
    if real := os.environ.get("CONTEXT_MODULE_MNIST"):
        return Path(real)
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    zoom = pytest.importorskip("scipy.ndimage").zoom
    small = load_digits()
    large = zoom(small.images * 255 / 16, (1, 2.5, 2.5), order=3, grid_mode=True, mode="grid-constant")
    images = np.pad(large.round().clip(0, 255), ((0, 0), (4, 4), (4, 4))).astype(np.uint8)
    labels = small.target.astype(np.uint8)
    root = tmp_path_factory.mktemp("mnist")
    for part, rows in (("train", slice(0, 1400)), ("t10k", slice(1400, None))):
        write_idx(root / f"{part}-images-idx3-ubyte", images[rows])
        write_idx(root / f"{part}-labels-idx1-ubyte", labels[rows])
    return root
