import gzip
import sys

import numpy as np
import pytest

from context_module.data.mnist import load_mnist
from context_module.errors import DataError

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 28, 28), dtype=np.uint8)
LABELS = np.array([5, 0, 4, 1, 9, 2, 1], np.uint8)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def contents():
    """Per file of a small MNIST of 5 training and 2 test digits, its bytes."""
    arrays = (IMAGES[:5], LABELS[:5], IMAGES[5:], LABELS[5:])
    return {name: idx(array) for name, array in zip(NAMES, arrays, strict=True)}


def write(folder, contents):
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def check_small(digits):
    assert all(array.dtype == np.uint8 and array.flags.writeable for array in digits)
    assert np.array_equal(digits.train_images, IMAGES[:5])
    assert np.array_equal(digits.train_labels, LABELS[:5])
    assert np.array_equal(digits.test_images, IMAGES[5:])
    assert np.array_equal(digits.test_labels, LABELS[5:])


def test_reads_plain_and_compressed_files_under_either_name(tmp_path, contents):
    check_small(load_mnist(write(tmp_path, contents)))
    dots, packed = tmp_path / "dots", tmp_path / "packed"
    dots.mkdir()
    packed.mkdir()
    check_small(load_mnist(write(dots, {name.replace("-idx", ".idx"): data for name, data in contents.items()})))
    check_small(load_mnist(str(write(packed, {f"{name}.gz": gzip.compress(d) for name, d in contents.items()}))))


def test_reads_a_whole_data_set(mnist_root):
    digits = load_mnist(mnist_root)
    for images, labels in (digits[:2], digits[2:]):
        assert images.shape == (len(labels), 28, 28)
        assert sorted(set(labels.tolist())) == list(range(10))
        assert images.min() == 0
        assert images[:, 0].mean() < 1  # black edges, ink in the middle
        assert images[:, 14].mean() > 20


def test_refuses_a_folder_without_the_files(tmp_path, contents):
    with pytest.raises(DataError, match="no folder .*absent: expected one that holds MNIST's four idx files"):
        load_mnist(tmp_path / "absent")
    del contents[NAMES[3]]
    with pytest.raises(DataError, match=r"no t10k-labels-idx1-ubyte in .*: expected one of .*t10k-labels\.idx1-ubyte"):
        load_mnist(write(tmp_path, contents))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (NAMES[0], lambda data: data[:-1], "holds 3919 bytes of data where its header announces 5 x 28 x 28: trunc"),
        (NAMES[0], lambda data: data + b"0", "holds 3921 bytes of data where its header announces 5 x 28 x 28"),
        (NAMES[2], lambda data: data[:9], "is truncated: it ends within its header"),
        (NAMES[2], lambda data: b"", "begins with the bytes : expected 00 00 08 03"),
        (NAMES[0], lambda data: b"\x89PNG" + data, "begins with the bytes 89 50 4e 47: expected 00 00 08 03"),
        (NAMES[0], lambda data: b"\0\0\x0d\x03" + data[4:], "begins with the bytes 00 00 0d 03: expected 00 00 08 03"),
        (NAMES[1], lambda data: idx(IMAGES[:5]), "begins with the bytes 00 00 08 03: expected 00 00 08 01"),
        (NAMES[0], lambda data: idx(IMAGES[:5, :20]), r"holds images of shape \(5, 20, 28\): expected \(N, 28, 28\)"),
        (NAMES[0], lambda data: idx(IMAGES[:0]), r"holds images of shape \(0, 28, 28\): expected \(N, 28, 28\)"),
        (
            NAMES[3],
            lambda data: idx(LABELS),
            "holds 7 labels for the 2 images of t10k-images-idx3-ubyte: expected one",
        ),
        (NAMES[1], lambda data: idx(LABELS[:5] + 6), "holds the label 15: expected digits, 0 to 9"),
    ],
)
def test_refuses_a_file_that_is_not_what_its_name_says(tmp_path, contents, name, change, message):
    contents[name] = change(contents[name])
    with pytest.raises(DataError, match=f"{name} {message}"):
        load_mnist(write(tmp_path, contents))


@pytest.mark.parametrize("packed", [lambda d: gzip.compress(d)[:-20], lambda d: d, lambda d: gzip.compress(d)[:40]])
def test_refuses_a_damaged_archive(tmp_path, contents, packed):
    contents[f"{NAMES[0]}.gz"] = packed(contents.pop(NAMES[0]))
    with pytest.raises(DataError, match=f"{NAMES[0]}.gz cannot be decompressed .*: truncated or foreign"):
        load_mnist(write(tmp_path, contents))


def test_downloads_without_a_folder(monkeypatch):
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    parts = {}
    for part, rows in (("train", slice(0, 5)), ("test", slice(5, None))):
        columns = {"image": [image.fromarray(pixels) for pixels in IMAGES[rows]], "label": LABELS[rows].tolist()}
        parts[part] = datasets.Dataset.from_dict(columns, features=features)
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or parts)
    check_small(load_mnist())
    assert asked == ["ylecun/mnist"]


def test_a_failed_download_says_to_pass_a_folder(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def fail(name):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"cannot download ylecun/mnist \(ConnectionError: no route.*pass root="):
        load_mnist()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install context-module\[data\], or pass root="):
        load_mnist()
