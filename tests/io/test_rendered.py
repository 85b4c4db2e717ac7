"""Arrays and tables on disk: full disks, kills, damage."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from context_module.data import load_data
from context_module.errors import CheckpointError, DataError
from context_module.io import MappedArray, cached_table
from context_module.io.rendered import rendered_array
from context_module.io.sums import Sums, sums_hold

SHAPE = (40, 3, 5)
ROWS = torch.arange(600).remainder(251).to(torch.uint8).view(SHAPE)


class Renderer:
    """Renders rows in blocks of seven, and notes from where on; `fails` after so many."""

    def __init__(self, fails=None):
        self.starts, self.fails = [], fails

    def __call__(self, start):
        self.starts.append(start)
        for number, block in enumerate(ROWS[start:].split(7)):
            if number == self.fails:
                raise RuntimeError("power cut")
            yield block


def test_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "a.npy"
    with pytest.raises(RuntimeError, match="power cut"):
        rendered_array(path, SHAPE, Renderer(fails=3))
    assert not path.exists()
    second = Renderer()
    rendered_array(path, SHAPE, second)
    assert second.starts == [21]
    assert torch.equal(MappedArray(path)[torch.arange(40)], ROWS)
    assert np.array_equal(np.load(path), ROWS.numpy())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npy", "a.npy.sums"]
    third = Renderer()
    rendered_array(path, SHAPE, third)
    assert third.starts == []


@pytest.mark.parametrize("place", [3, 130, -1])
def test_damage_is_repaired_with_a_warning(place, tmp_path):
    path = tmp_path / "a.npy"
    rendered_array(path, SHAPE, Renderer())
    content = bytearray(path.read_bytes())
    content[place] ^= 8
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"a\.npy is damaged: making it anew"):
        rendered_array(path, SHAPE, Renderer())
    assert torch.equal(MappedArray(path)[torch.arange(40)], ROWS)


def test_a_torn_row_is_written_again(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        rendered_array(tmp_path / "a.npy", SHAPE, Renderer(fails=2))
    part = tmp_path / ".a.npy.part"
    part.write_bytes(part.read_bytes()[:-4])
    again = Renderer()
    rendered_array(tmp_path / "a.npy", SHAPE, again)
    assert again.starts == [13]
    assert np.array_equal(np.load(tmp_path / "a.npy"), ROWS.numpy())


def test_no_room_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(
        DataError, match=r"cannot keep images in .*a\.npy .*6e-07 GB are needed, 1e-07 GB are free.*goes"
    ):
        rendered_array(tmp_path / "a.npy", SHAPE, Renderer())


def test_a_disk_that_fills_up_is_an_error_and_no_bus_error(tmp_path):
    """A limit on a file's size stands in for the disk: writing beyond it is an error, and a signal if not ignored."""
    script = (
        "import resource, signal, sys; from context_module.data import load_data\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "load_data('quad', samples_per_context=30, resolution=32, cache_dir=sys.argv[1])"
    )
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert f"DataError: cannot keep images in {tmp_path}" in result.stderr
    assert os.strerror(errno.EFBIG) in result.stderr
    given = {"samples_per_context": 30, "resolution": 32}
    kept, fresh = load_data("quad", cache_dir=tmp_path, **given), load_data("quad", **given)
    assert torch.equal(kept.train.first(5), fresh.train.first(5))


def test_killed_at_any_moment_it_goes_on(tmp_path):
    """Children that are killed after a block; the last one ends it."""
    path = tmp_path / "a.npy"
    for blocks in (1, 2, 3):
        child = os.fork()
        if not child:
            seen = iter(range(blocks))

            def rows(start, seen=seen):
                for block in ROWS[start:].split(7):
                    yield block
                    if next(seen, None) is None:
                        os.kill(os.getpid(), signal.SIGKILL)

            rendered_array(path, SHAPE, rows)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    rendered_array(path, SHAPE, Renderer())
    assert np.array_equal(np.load(path), ROWS.numpy())


# --- tables of encodings


TABLE = torch.arange(120.0).view(30, 4)


def table(folder):
    return cached_table(folder, {"of": "tests"}, 30, TABLE[0], lambda start: TABLE[start:].split(8), progress=False)


def spoil(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def paren_lost(content):
    content[content.index(b")")] = 32


def header_of_zeros(content):
    content[20:60] = bytes(40)


def huge_shape(content):
    content[content.index(b"(30, 4)") : content.index(b"(30, 4)") + 7] = b"(9**99,"


def nan_in_the_middle(content):
    content[-64:-60] = np.float32("nan").tobytes()


def one_bit(content):
    content[-9] ^= 1


@pytest.mark.parametrize("change", [paren_lost, header_of_zeros, huge_shape, nan_in_the_middle, one_bit])
def test_a_damaged_table_repairs_itself(change, tmp_path):
    table(tmp_path)
    spoil(tmp_path / "encodings.npy", change)
    with pytest.warns(UserWarning, match="cannot be used .*: encoding the images anew"):
        found = table(tmp_path)
    assert torch.equal(found[torch.arange(30)], TABLE)


@pytest.mark.parametrize(
    "index", ["[" * 50_000 + "]" * 50_000, '{"rows": ' + "9" * 6000 + "}", '{"rows": 1e99}', "\x00"]
)
def test_a_damaged_index_repairs_itself(index, tmp_path):
    table(tmp_path)
    (tmp_path / "index.json").write_text(index)
    with pytest.warns(UserWarning, match="encoding the images anew"):
        found = table(tmp_path)
    assert torch.equal(found[torch.arange(30)], TABLE)


def test_lying_headers_are_errors_by_name(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    for change in (paren_lost, header_of_zeros):
        np.save(tmp_path / "a.npy", np.zeros((3, 4)))
        spoil(tmp_path / "a.npy", change)
        with pytest.raises(CheckpointError, match=r"a\.npy is missing or truncated"):
            MappedArray(tmp_path / "a.npy")


def test_sums_do_not_depend_on_the_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("context_module.io.sums._CHUNK", 10)
    data = bytes(range(37))
    whole, parts = Sums(), Sums()
    whole.add(data)
    for start in range(0, 37, 8):
        parts = Sums(parts.values, parts.size)  # as after a resume
        parts.add(data[start : start + 8])
    assert whole.values == parts.values
    assert len(whole.values) == 4
    (tmp_path / "a").write_bytes(b"xx" + data)
    assert sums_hold(tmp_path / "a", whole.values, 2, 37)
    assert not sums_hold(tmp_path / "a", whole.values, 1, 37)
    assert not sums_hold(tmp_path / "a", whole.values[:3], 2, 37)
    assert not sums_hold(tmp_path / "a", "none", 2, 37)
