"""Encodings of a data set: those of the base, in memory or on disk, whatever happens to the disk or the process."""

import errno
import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from context_module import adapt
from context_module.adapters.contract import DecoderAdapter, Encoding, LatentSpec
from context_module.adapters.lightweight import LightweightVAE
from context_module.data import ArrayContextDataset
from context_module.data.loader import mixed_context_loader
from context_module.errors import DataError, ShapeError
from context_module.training.encodings import EncodedDataset, encode_dataset
from helpers.pictures import random_data

CONTEXTS = ("obs", "a", "b", "a+b")
KEYS = ["features", "mean", "log_var", "mask"]


@pytest.fixture
def make_base(make_base):
    """The adapters around the tiny bases."""
    return lambda family, seed=0: adapt(make_base(family, seed))


@pytest.fixture
def every_batch(monkeypatch):
    """Every batch is recorded: none is quicker than the clock."""
    monkeypatch.setattr("context_module.io.table._SECONDS", 0)


@pytest.fixture
def base(family, make_base):
    return make_base(family)


make_data = functools.partial(random_data, (1, 4, 4))


class Spy(DecoderAdapter):
    """A linear base that counts the images it encodes; it may be slow, or fail once it has encoded some."""

    name, latent, image_shape, num_features = "spy", LatentSpec((2, 1)), (1, 4, 4), 3

    def __init__(self, delay=0.0, lasts=10**9):
        super().__init__()
        self.net = nn.Linear(16, 7)
        with torch.no_grad():
            self.net.weight.copy_(torch.linspace(-1, 1, 7 * 16).sin().view(7, 16))
            self.net.bias.copy_(torch.arange(7.0))
        self.delay, self.lasts, self.encoded = delay, lasts, 0
        self.eval()

    def encode(self, x):
        time.sleep(self.delay)
        if self.encoded + len(x) > self.lasts:
            raise RuntimeError("power cut")
        self.encoded += len(x)
        features, mean, log_var = self.net(x.flatten(1)).split([3, 2, 2], dim=1)
        return Encoding(features, mean[..., None], log_var[..., None])

    def decode(self, *args, **kwargs):
        raise AssertionError("nothing is decoded here")


def encode(base, data, folder=None):
    return encode_dataset(base, data, cache_dir=folder, batch_size=5, progress=False)


def everything(encodings):
    return encodings.batch(torch.arange(len(encodings)))


def assert_same(found, expected):
    found, expected = everything(found), everything(expected)
    assert list(found) == list(expected) == KEYS
    assert all(torch.equal(found[key], expected[key]) for key in KEYS)


def cached_folder(root):
    (folder,) = root.glob("encodings-*")
    return folder


# --- what encodings are


@pytest.mark.parametrize("cached", [False, True], ids=["memory", "disk"])
def test_encodings_are_those_of_the_base(base, cached, tmp_path):
    data = random_data(base.image_shape, per_context=5)
    encodings = encode_dataset(base, data, cache_dir=tmp_path if cached else None, batch_size=7, progress=False)
    assert isinstance(encodings, EncodedDataset)
    assert len(encodings) == 20
    assert encodings.context_names == CONTEXTS
    assert encodings.concepts == data.concepts
    assert torch.equal(encodings.labels, data.labels)
    item = encodings[11]
    with torch.no_grad():
        expected = base.encode(data[11]["x"][None])
    torch.testing.assert_close(item["features"], expected.features[0])
    torch.testing.assert_close(item["mean"], expected.mean[0])
    assert torch.equal(item["mask"], data[11]["mask"])
    if expected.log_var is None:
        assert item["log_var"].shape == item["mean"].shape
        assert (item["log_var"] == -torch.inf).all()
    else:
        torch.testing.assert_close(item["log_var"], expected.log_var[0])
    assert all(value.dtype == torch.float32 for name, value in item.items() if name != "mask")
    assert bool(list(tmp_path.iterdir())) == cached


def test_float16_takes_half_the_room(tmp_path):
    data = random_data((1, 4, 4), per_context=6)
    whole, found = encode(Spy(), data), {}
    for name, folder in (("memory", None), ("disk", tmp_path), ("again", tmp_path)):
        found[name] = encode_dataset(Spy(), data, cache_dir=folder, half=True, progress=False)
    assert found["memory"].table.nbytes * 2 == whole.table.nbytes
    file = cached_folder(tmp_path) / "encodings.npy"
    assert file.stat().st_size == 128 + whole.table.nbytes / 2  # numpy's header, and the rows
    assert_same(found["disk"], found["memory"])
    assert_same(found["again"], found["memory"])
    rounded, exact = everything(found["memory"]), everything(whole)
    for key in ("features", "mean", "log_var"):
        assert rounded[key].dtype == torch.float32
        torch.testing.assert_close(rounded[key], exact[key], rtol=1e-3, atol=1e-6)
    encode(Spy(), data, tmp_path)  # another type is another folder
    assert len(list(tmp_path.iterdir())) == 2


def test_encodings_beyond_float16(tmp_path):
    base = Spy()
    base.net.bias.data[0] = 1e5
    data = random_data((1, 4, 4), per_context=1)
    encode(base, data)
    for folder in (None, tmp_path):
        with pytest.raises(DataError, match=r"encodings reach 1e\+05, float16 ends at 65504: keep them in float32"):
            encode_dataset(base, data, cache_dir=folder, half=True, progress=False)


def test_images_of_another_size_are_refused(make_base, tmp_path):
    base = make_base("nvae")
    data = ArrayContextDataset(torch.zeros(2, 3, 9, 9, dtype=torch.uint8), [0, 1], ("obs", "a"), ("a",))
    for folder in (None, tmp_path):
        with pytest.raises(ShapeError, match=r"takes images of shape \(batch, 3, 8, 8\)"):
            encode_dataset(base, data, cache_dir=folder, progress=False)
    assert not list(tmp_path.iterdir())


def test_features_that_are_the_mean_are_kept_once(make_base):
    headless = adapt(LightweightVAE("conv3", heads=False).eval())
    for base, width in ((make_base("modules"), 8), (headless, 128), (make_base("lightweight"), 3 * 128), (Spy(), 7)):
        encodings = encode(base, random_data(base.image_shape, per_context=1))
        assert encodings.table.shape == (4, width)


def test_moments_are_those_of_all_encodings(monkeypatch):
    monkeypatch.setattr("context_module.training.encodings._CHUNK", 7)
    encodings = encode(Spy(), make_data())
    batch = everything(encodings)
    mean, log_var = batch["mean"].flatten(1), batch["log_var"].flatten(1)
    for found, expected in zip(encodings.moments(), (mean.mean(0), mean.var(0), log_var.exp().mean(0)), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)


def test_moments_of_nearly_constant_encodings_far_from_zero():
    encodings = encode(Spy(), make_data())
    encodings.table = torch.full((32, 7), 1000.0) + torch.arange(32)[:, None] % 2 / 1024
    encodings.table[:, -2:] = 0
    expected = torch.full((2,), 0.25 / 1024**2 * 32 / 31)
    torch.testing.assert_close(encodings.moments()[1], expected)


# --- the cache


def test_cached_encodings_are_the_same_bits_and_made_once(tmp_path):
    data, expected, first, again = make_data(), Spy(), Spy(), Spy()
    memory = encode(expected, data)
    for spy in (first, again):
        assert_same(encode(spy, data, tmp_path / "new"), memory)
    assert (first.encoded, again.encoded) == (33, 1)  # the first image is encoded to be compared


def test_batches_are_the_same_from_disk_and_read_at_once(tmp_path, monkeypatch):
    data = make_data()
    memory, disk = encode(Spy(), data), encode(Spy(), data, tmp_path)
    reads, read = [], type(disk.table).__getitem__
    monkeypatch.setattr(type(disk.table), "__getitem__", lambda table, rows: reads.append(1) or read(table, rows))
    loaders = [mixed_context_loader(encodings, 8, 0, num_steps=3) for encodings in (memory, disk)]
    for expected, found in zip(*loaders, strict=True):
        assert list(found) == KEYS
        assert all(torch.equal(found[key], expected[key]) for key in KEYS)
    assert len(reads) == 3


def test_cached_encodings_pickle_without_their_rows(tmp_path):
    data = make_data(per_context=500)
    memory, disk = encode(Spy(), data), encode(Spy(), data, tmp_path)
    pickled = pickle.dumps(disk)
    assert len(pickle.dumps(memory)) - len(pickled) > 0.99 * 2000 * 7 * 4
    assert_same(pickle.loads(pickled), memory)


def test_a_pooled_view_shares_the_file_and_keeps_its_own_contexts(tmp_path):
    data, spy = make_data(), Spy()
    pooled = encode(spy, data.pooled(), tmp_path)
    contexts = encode(spy, data, tmp_path)
    assert spy.encoded == 33 + 1
    assert (pooled.context_names, contexts.context_names) == (("obs",), CONTEXTS)
    assert not everything(pooled)["mask"].any()
    assert torch.equal(everything(contexts)["mask"], default_collate(data.__getitems__(range(32)))["mask"])


def test_views_of_other_images_have_files_of_their_own(tmp_path):
    data = make_data()
    parts = [
        *data.split(0.25),
        *data.split(0.25, seed=1),
        data.only(["obs", "b"]),
        data.subset(torch.arange(32).flip(0)),
    ]
    for number, part in enumerate(parts):
        assert_same(encode(Spy(), part, tmp_path), encode(Spy(), part))
        assert len(list(tmp_path.iterdir())) == number + 1


def test_a_changed_base_has_a_file_of_its_own(tmp_path, make_base):
    base = make_base("modules")
    data = random_data(base.image_shape, per_context=1)

    def files():
        encode(base, data, tmp_path)
        return len(list(tmp_path.iterdir()))

    assert files() == files() == 1
    with torch.no_grad():
        weight = base.encoder[0].weight
        weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))  # by one bit
    assert files() == 2
    base.encoder[1].running_mean += 1  # statistics are part of the encoder
    assert files() == 3
    base.encoder[2] = nn.Tanh()  # no weight is different
    assert files() == 4
    base.latent = LatentSpec(base.latent.shape, scale=3.0, shift=base.latent.shift)
    assert files() == 5
    base.register_buffer("extra", torch.zeros(()), persistent=False)
    assert files() == 6


def damage_table(change):
    return lambda folder: change(folder / "encodings.npy")


def damage_index(**values):
    def damage(folder):
        path = folder / "index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return damage


def cut(path, kept):
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])


def zero_rows(path):
    array = np.load(path, mmap_mode="r+")
    array[:] = 0
    array.flush()


DAMAGES = {
    "truncated": (damage_table(lambda path: cut(path, 0.7)), "encodings.npy is missing or truncated"),
    "truncated to its header": (damage_table(lambda path: cut(path, 0.01)), "encodings.npy is missing or truncated"),
    "empty": (damage_table(lambda path: cut(path, 0)), "encodings.npy is missing or truncated"),
    "no table": (damage_table(Path.unlink), "encodings.npy is missing or truncated"),
    "another shape": (
        damage_table(lambda path: np.save(path, np.zeros((32, 6), "f4"))),
        r"shape \[32, 6\], expected \[32, 7\]",
    ),
    "another dtype": (damage_table(lambda path: np.save(path, np.zeros((32, 7)))), "holds float64"),
    "pickled": (damage_table(lambda path: np.save(path, np.array([{}]))), "encodings.npy is missing or truncated"),
    "zeros": (damage_table(zero_rows), "the first image is encoded in another way now"),
    "no index": (lambda folder: (folder / "index.json").unlink(), "index.json is missing"),
    "broken index": (lambda folder: cut(folder / "index.json", 0.5), "is not valid JSON"),
    "binary index": (lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe"), "is not valid JSON"),
    "index of a list": (lambda folder: (folder / "index.json").write_text("[1]"), "holds a JSON list"),
    "another base": (
        damage_index(base="0" * 32),
        "index.json records base '00000000000000000000000000000000', expected",
    ),
    "other images": (damage_index(images="ff"), "index.json records images 'ff', expected"),
    "another count": (damage_index(shape=[33, 7]), r"records shape \[33, 7\], expected \[32, 7\]"),
    "too many rows": (damage_index(rows=33), "records 33 rows of 32"),
    "rows in words": (damage_index(rows="all"), "records 'all' rows of 32"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_cache_is_built_anew_and_says_why(kind, tmp_path):
    damage, reason = DAMAGES[kind]
    data = make_data()
    memory = encode(Spy(), data)
    encode(Spy(), data, tmp_path)
    damage(cached_folder(tmp_path))
    spy = Spy()
    with pytest.warns(
        UserWarning, match=rf"the encodings in .* cannot be used \(.*{reason}.*encoding the images anew"
    ):
        rebuilt = encode(spy, data, tmp_path)
    assert spy.encoded == 33
    assert_same(rebuilt, memory)
    assert_same(encode(spy, data, tmp_path), memory)  # without a warning
    assert spy.encoded == 34


def test_rebuilding_leaves_those_who_read_the_old_file_alone(tmp_path):
    data = make_data()
    old, memory = encode(Spy(), data, tmp_path), encode(Spy(), data)
    damage_index(rows="all")(cached_folder(tmp_path))
    with pytest.warns(UserWarning, match="encoding the images anew"):
        encode(Spy(), data, tmp_path)
    assert_same(old, memory)


# --- interrupted, and several at once


def test_the_disk_is_waited_for_now_and_then(tmp_path, monkeypatch):
    clock, synced = iter([0.0, 0.5, 1.9, 2.1, 2.1, 3.0, 5.0, 5.0, 5.1, 5.1]), []
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(rows_written(tmp_path)[0]))
    encode(Spy(), make_data(), tmp_path)
    assert synced == [0, 15, 25]  # recorded before: nothing, then three and five batches
    assert rows_written(tmp_path) == [32]


@pytest.mark.parametrize(("lasts", "kept"), [(3, 0), (12, 10), (31, 30)])
def test_a_build_that_failed_goes_on_from_its_last_batch(lasts, kept, tmp_path, every_batch):
    data = make_data()
    with pytest.raises(RuntimeError, match="power cut"):
        encode(Spy(lasts=lasts + 1), data, tmp_path)
    spy = Spy()
    assert_same(encode(spy, data, tmp_path), encode(Spy(), data))
    assert spy.encoded == 1 + 32 - kept


BUILD = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]  # as pytest does
import context_module.io.table
context_module.io.table._SECONDS = 0
from test_encodings import Spy, encode, make_data
encode(Spy(delay=float(sys.argv[3])), make_data(), sys.argv[2])
"""


def start_building(root, delay):
    """Another process that encodes so slowly; returns once some of it is on the disk."""
    argv = [sys.executable, "-c", BUILD, str(Path(__file__).parent), str(root), str(delay)]
    process = subprocess.Popen(argv, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None and not any(rows_written(root)):
        time.sleep(0.02)
    assert process.poll() is None
    return process


def rows_written(root):
    return [json.loads(path.read_text())["rows"] for path in root.glob("encodings-*/index.json")]


def test_a_killed_build_goes_on_where_it_stopped(tmp_path):
    process = start_building(tmp_path, delay=0.5)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (kept,) = rows_written(tmp_path)
    assert 0 < kept < 32
    spy, data = Spy(), make_data()
    assert_same(encode(spy, data, tmp_path), encode(Spy(), data))
    assert spy.encoded == 1 + 32 - kept


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path, capsys):
    process = start_building(tmp_path, delay=0.4)
    spy, data = Spy(), make_data()
    found = encode_dataset(spy, data, cache_dir=tmp_path, batch_size=5)
    assert process.wait() == 0
    assert spy.encoded == 1
    assert_same(found, encode(Spy(), data))
    assert f"waiting for another process, which encodes the images into {tmp_path}" in capsys.readouterr().err


# --- disks


def test_a_full_disk_is_explained_and_what_is_written_is_kept(tmp_path, monkeypatch, every_batch):
    data, spy = make_data(), Spy()

    def sync(file):
        if spy.encoded > 11:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        with pytest.raises(
            DataError, match=r"cannot keep encodings in .*encodings-.*No space left.*make room.* or none to"
        ):
            encode(spy, data, tmp_path)
    assert rows_written(tmp_path) == [10]
    spy = Spy()
    assert_same(encode(spy, data, tmp_path), encode(Spy(), data))
    assert spy.encoded == 1 + 22


def test_too_little_room_is_seen_before_encoding(tmp_path, monkeypatch):
    spy = Spy()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=32 * 7 * 4 - 1))
    with pytest.raises(DataError, match=r"cannot keep encodings in .*0\.0 GB are needed, 0\.0 GB are free"):
        encode(spy, make_data(), tmp_path)
    assert spy.encoded == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=rf"cannot keep encodings in {tmp_path}/file/encodings-.*give another cache_dir"
    ):
        encode(Spy(), make_data(), tmp_path / "file")


def test_a_whole_cache_is_only_read(tmp_path):
    encode(Spy(), make_data(), tmp_path)
    folder = cached_folder(tmp_path)
    (folder / "lock").unlink()
    (folder / "lock").mkdir()  # opening it would fail, as in a folder that is read-only
    assert_same(encode(Spy(), make_data(), tmp_path), encode(Spy(), make_data()))


def test_images_that_cannot_be_read_are_not_blamed_on_the_cache(tmp_path, every_batch):
    class Unreadable(ArrayContextDataset):
        def read(self, rows):
            if (rows > 20).any():
                raise FileNotFoundError("no image 21")
            return super().read(rows)

        def fingerprint(self):
            return "known"

    data = make_data()
    data = Unreadable(data._images, data.labels, CONTEXTS, ("a", "b"))
    with pytest.raises(FileNotFoundError, match="no image 21"):
        encode(Spy(), data, tmp_path)
    assert rows_written(tmp_path) == [20]


# --- the fingerprint of images


def test_fingerprint_is_of_the_images_and_their_order_alone():
    data = make_data()
    assert len(data.fingerprint()) == 32
    assert data.fingerprint() == make_data().fingerprint() == data.pooled().fingerprint()
    assert data.fingerprint() == data.subset(torch.arange(32)).fingerprint() == data.only(CONTEXTS).fingerprint()
    changed = data._images.clone()
    changed[17, 0, 2, 2] ^= 1
    others = [
        data.subset(torch.arange(32).flip(0)),
        data.subset(torch.arange(31)),
        data.only(["obs", "a"]),
        data.only(["obs", "b"]),
        *data.split(0.5),
        ArrayContextDataset(changed, data.labels, CONTEXTS, ("a", "b")),
        ArrayContextDataset(data._images.view(32, 1, 2, 8), data.labels, CONTEXTS, ("a", "b")),
    ]
    assert len({part.fingerprint() for part in (data, *others)}) == 1 + len(others)


def test_fingerprint_of_many_images_reads_few_of_them_the_last_among_them():
    class Counting(ArrayContextDataset):
        rows = ()

        def read(self, rows):
            self.rows += tuple(rows.tolist())
            return super().read(rows)

    images = torch.zeros(300_000, 1, 1, 1, dtype=torch.uint8)
    data = Counting(images, torch.arange(300_000) % 2, ("obs", "a"), ("a",))
    before = data.fingerprint()
    assert len(data.rows) == len(set(data.rows)) == 2000
    assert {0, 299_999} <= set(data.rows)
    gaps = torch.tensor(sorted(data.rows)).diff()
    assert gaps.max() - gaps.min() <= 1
    images[-1] = 1
    assert data.fingerprint() != before
    swapped = torch.arange(300_000)
    swapped[[1, 2]] = swapped[[2, 1]]  # neither is read
    assert data.subset(swapped).fingerprint() != data.fingerprint()


@pytest.mark.parametrize(("value", "message"), [(0.3, "all images look the same"), (float("nan"), "are not finite")])
def test_encodings_that_tell_nothing_are_named(value, message):
    """Whatever is trained on them: no NaN, and no advice on the learning rate."""
    rows = torch.full((20, 3), value)

    class Constant(DecoderAdapter):
        name = "constant"
        latent, image_shape, num_features = LatentSpec((3,)), (1, 4, 4), 3

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def encode(self, x):
            return Encoding(rows[: len(x)], rows[: len(x)])

        def decode(self, latent, *_, **__):
            raise NotImplementedError

    data = ArrayContextDataset(torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8), [0] * 20, ("obs",), ())
    with pytest.raises(DataError, match=message):
        encode_dataset(Constant(), data, progress=False).moments()
