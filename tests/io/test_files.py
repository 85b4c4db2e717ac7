"""Reading and writing: whole or absent, data only, and every refusal names the file and the reason."""

import argparse
import tarfile

import pytest
import safetensors.torch
import torch
from torch import nn

from context_module.errors import CheckpointError
from context_module.io.files import (
    load_pickled,
    load_strictly,
    load_tensors,
    read_json,
    read_metadata,
    save_tensors,
    write_atomically,
    write_json,
)
from helpers.files import Trap


@pytest.mark.parametrize("existing", [True, False])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, existing):
    path = tmp_path / "file"
    if existing:
        path.write_text("old")

    def half_write(temporary):
        temporary.write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half_write)
    assert [file.read_text() for file in tmp_path.iterdir()] == (["old"] if existing else [])
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]


def test_json(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, None], "a": "ü"})
    assert read_json(tmp_path / "a.json") == {"b": [1, None], "a": "ü"}
    assert (tmp_path / "a.json").read_text().index('"a"') < (tmp_path / "a.json").read_text().index('"b"')


def test_tensors(tmp_path):
    tensors = {"t": torch.randn(3, 2, requires_grad=True).t(), "empty": torch.zeros(0), "int": torch.tensor(3)}
    save_tensors(tmp_path / "t.safetensors", tensors)
    loaded = load_tensors(tmp_path / "t.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(
        torch.equal(loaded[name], tensor) and not loaded[name].requires_grad for name, tensor in tensors.items()
    )


def test_metadata(tmp_path):
    save_tensors(tmp_path / "t.safetensors", {"t": torch.zeros(1)}, {"key": "value"})
    assert read_metadata(tmp_path / "t.safetensors") == {"format": "pt", "key": "value"}
    safetensors.torch.save_file({"t": torch.zeros(1)}, tmp_path / "t.safetensors")
    assert read_metadata(tmp_path / "t.safetensors") == {}
    (tmp_path / "t.safetensors").write_bytes(b"PNG")
    with pytest.raises(CheckpointError, match="t.safetensors is not a readable safetensors file"):
        read_metadata(tmp_path / "t.safetensors")


def test_the_same_contents_are_the_same_bytes(tmp_path):
    """The library writes metadata in an order of its own: of eight entries hardly twice in the same one."""
    metadata = {f"key {number}": '\u00e9\n"\\' * number for number in range(8)}
    files = [tmp_path / f"{number}.safetensors" for number in range(4)]
    for file in files:
        save_tensors(file, {"t": torch.arange(3.0)}, metadata)
    assert len({file.read_bytes() for file in files}) == 1
    assert read_metadata(files[0]) == {"format": "pt", **metadata}
    assert torch.equal(load_tensors(files[0])["t"], torch.arange(3.0))


@pytest.mark.parametrize("read", [read_json, load_tensors, lambda path: load_pickled(path, "a folder written")])
def test_missing_files(tmp_path, read):
    with pytest.raises(CheckpointError, match="nothing does not exist: expected a folder written"):
        read(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is not a file: expected a folder written"):
        read(tmp_path)


def legacy_tar(path):
    part = path.with_name("part")
    part.write_text("x")
    with tarfile.open(path, "w") as archive:
        for name in ("pickle", "storages", "sys_info", "tensors"):
            archive.add(part, name)


PICKLES = {
    "empty": (lambda p: p.write_bytes(b""), "EOFError"),
    "text": (lambda p: p.write_text("no pickle"), "Unsupported operand 110"),
    "another class": (lambda p: torch.save({"a": argparse.ArgumentError(None, "")}, p), "it needs argparse.Argument"),
    "code": (lambda p: torch.save(Trap(p.parent / "made"), p), r"it needs \w+.mkdir"),
    "code, as of older PyTorch": (
        lambda p: torch.save(Trap(p.parent / "made"), p, _use_new_zipfile_serialization=False),
        r"it needs \w+.mkdir",
    ),
    "an archive of very old PyTorch": (legacy_tar, "RuntimeError"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_pickled_files_are_refused_without_advice_to_trust_them(case, tmp_path):
    spoil, reason = PICKLES[case]
    spoil(tmp_path / "file.pt")
    with pytest.raises(
        CheckpointError, match=f"^{tmp_path}/file.pt cannot be read as a file of ours: truncated.*{reason}"
    ) as caught:
        load_pickled(tmp_path / "file.pt", "a file of ours", [argparse.Namespace])
    assert "weights_only" not in str(caught.value)
    assert "trust" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert not (tmp_path / "made").exists()


def test_pickled_files_may_hold_what_is_allowed(tmp_path):
    content = argparse.Namespace(a=1, b=torch.ones(2))
    torch.save(content, tmp_path / "file.pt")
    loaded = load_pickled(tmp_path / "file.pt", "a file", [argparse.Namespace])
    assert loaded.a == 1
    assert torch.equal(loaded.b, content.b)
    with pytest.raises(CheckpointError, match="it needs argparse.Namespace"):  # allowed for that one call only
        load_pickled(tmp_path / "file.pt", "a file")


def test_loads_strictly():
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    load_strictly(net, other.state_dict(), "a file")
    assert torch.equal(net.weight, other.weight)
    before = net.weight.clone()
    wrong = {"weight": torch.ones(2, 2), "tail": torch.ones(1)}
    with pytest.raises(
        CheckpointError,
        match="^a file does not fit the model it is loaded into: missing: bias; unexpected: tail$",
    ):
        load_strictly(net, wrong, "a file")
    with pytest.raises(CheckpointError, match=r"into: bias: shape \(3,\) in the file, \(2,\) in the model$"):
        load_strictly(net, {"weight": torch.ones(2, 2), "bias": torch.ones(3)}, "a file")
    assert torch.equal(net.weight, before)
    with pytest.raises(CheckpointError, match="; and 3 more$"):
        load_strictly(net, {**net.state_dict(), **{str(k): torch.ones(1) for k in range(11)}}, "a file")


def test_loads_a_part_strictly():
    net = nn.Linear(2, 2)
    before = net.bias.clone()
    part = {"weight": torch.ones(2, 2)}
    load_strictly(net, part, "a file", expected={"weight": net.weight})
    assert torch.equal(net.weight, torch.ones(2, 2))
    assert torch.equal(net.bias, before)
    with pytest.raises(CheckpointError, match="unexpected: weight"):
        load_strictly(net, part, "a file", expected={})


def test_a_truncated_safetensors_file(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(100)}, tmp_path / "t")
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:200])
    with pytest.raises(CheckpointError, match="t is not a readable safetensors file"):
        load_tensors(tmp_path / "t")
