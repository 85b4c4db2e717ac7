"""Files that are not what they should be are refused with their name and the reason, and nothing in them runs."""

import argparse
import collections
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from context_module.adapters.nvae import NVAE
from context_module.errors import CheckpointError

MakeNet = Callable[..., NVAE]
PUBLIC = "a checkpoint.pt of the public NVAE training code"
UNREADABLE = f"cannot be read as {PUBLIC}"


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def public(checkpoints: Path) -> dict[str, Any]:
    """The content of a public-format file."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(checkpoints / "cifar10-one_group-5bit.checkpoint.pt", weights_only=True)


def _refused(path: Path, *reasons: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        NVAE.from_checkpoint(path)
    for text in (path.name, *reasons):
        assert text in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["args", "epoch"])
def test_code_is_never_run(zipped: bool, key: str, public: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "made"
    torch.save({**public, key: _Evil(target)}, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    _refused(tmp_path / "evil.pt", "never loaded", "mkdir")
    assert not target.exists()


def test_other_classes_are_refused(public: dict[str, Any], tmp_path: Path) -> None:
    torch.save({**public, "epoch": collections.UserDict()}, tmp_path / "other.pt")
    _refused(tmp_path / "other.pt", "it needs collections.UserDict")


def test_broken_and_foreign_files(checkpoints: Path, tmp_path: Path) -> None:
    for name in ("cifar10-one_group-5bit", "mnist-res_bnelu-nf2"):  # a zip, and a plain pickle as of older PyTorch
        whole = (checkpoints / f"{name}.checkpoint.pt").read_bytes()
        for length in (0, 10, len(whole) // 2, len(whole) - 1000):
            (tmp_path / "cut.pt").write_bytes(whole[:length])
            _refused(tmp_path / "cut.pt", UNREADABLE)
    with zipfile.ZipFile(tmp_path / "foreign.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing of interest")
    _refused(tmp_path / "foreign.zip", UNREADABLE)
    (tmp_path / "text.pt").write_text("no pickle")
    _refused(tmp_path / "text.pt", UNREADABLE)
    _refused(tmp_path / "absent.pt", f"does not exist: expected {PUBLIC}")
    for content in (
        [1, 2],
        {"state_dict": {}, "model": 1},
        {"state_dict": {"a": 1}, "args": argparse.Namespace()},
        {"state_dict": {1: torch.ones(1)}, "args": argparse.Namespace()},
    ):
        torch.save(content, tmp_path / "odd.pt")
        _refused(tmp_path / "odd.pt", "is not an NVAE checkpoint: expected 'args'")


def test_tensors_that_do_not_fit_are_named(public: dict[str, Any], tmp_path: Path) -> None:
    tensors = public["state_dict"]
    tensors["stem.extra"] = tensors.pop("stem.bias")
    tensors["enc_sampler.0.bias"] = torch.zeros(3)
    torch.save(public, tmp_path / "misfit.pt")
    _refused(
        tmp_path / "misfit.pt",
        "misfit.pt does not fit the model it is loaded into: ",
        "missing: stem.bias",
        "unexpected: stem.extra",
        "enc_sampler.0.bias: shape (3,) in the file, (8,) in the model",
    )


def test_arguments_that_do_not_fit_are_named(public: dict[str, Any], tmp_path: Path) -> None:
    public["args"].num_x_bits = "five"
    torch.save(public, tmp_path / "args.pt")
    _refused(tmp_path / "args.pt", "num_bits must be an integer of at least 1, got 'five'")


def test_folder_round_trip_of_a_public_file(checkpoints: Path, tmp_path: Path) -> None:
    net = NVAE.from_checkpoint(checkpoints / "mnist-res_mbconv.checkpoint.pt")
    net.save_pretrained(tmp_path / "new" / "folder")
    again = NVAE.from_pretrained(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())


def test_bad_folders_are_named(make_net: MakeNet, tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            NVAE.from_pretrained(tmp_path)

    refused("config.json does not exist: expected a folder written by save_pretrained")
    make_net().save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    good, tensors = json.loads(config.read_text()), load_file(weights)
    for text, message in (
        ("{", "config.json is not valid JSON"),
        ("[]", "config.json holds a JSON list, expected an object"),
        (json.dumps({**good, "depth": 3}), "config.json is of no usable NVAE: unknown keys depth"),
        (json.dumps({**good, "latent_channels": 4}), "model.safetensors does not fit .*enc_sampler.0.weight: shape"),
    ):
        config.write_text(text)
        refused(message)
    config.write_text(json.dumps(good))
    save_file({key: value for key, value in tensors.items() if key != "stem.bias"}, weights)
    refused("model.safetensors does not fit .*missing: stem.bias")
    save_file({**tensors, "extra": torch.zeros(1)}, weights)
    refused("model.safetensors does not fit .*unexpected: extra")
    weights.write_bytes(weights.read_bytes()[:200])
    refused("model.safetensors is not a readable safetensors file")
    weights.unlink()
    refused("model.safetensors does not exist: expected a folder written by save_pretrained")


def test_a_failed_save_leaves_the_old_files(
    make_net: MakeNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = make_net()
    net.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def half_write(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", half_write)
    with pytest.raises(OSError, match="disk full"):
        net.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
