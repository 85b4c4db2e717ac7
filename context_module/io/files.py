"""Files that are either whole or absent, and that are data only: nothing in them is ever executed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from context_module.errors import CheckpointError, OutputError
from context_module.io.bounds import bounded_by, check_counts

__all__ = [
    "CONFIG_FILE",
    "SEAL",
    "WEIGHTS_FILE",
    "broken_seal",
    "file_hash",
    "is_finite",
    "load_network",
    "load_pickled",
    "load_strictly",
    "load_tensors",
    "misfits",
    "read_json",
    "read_metadata",
    "save_network",
    "save_tensors",
    "sealed",
    "unusable",
    "write_atomically",
    "write_json",
    "write_text",
]

SEAL = "sha256"  # in a configuration: of itself, and of the file of tensors beside it
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"  # in the folder of a base
_LONGEST = 1 << 26  # bytes of a JSON file
_UNPICKLING = threading.RLock()  # torch has one list of safe classes for all threads
_OURS = "a folder written by save_pretrained"
Network = TypeVar("Network", bound=nn.Module)


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary name beside `path`, then rename: an interruption leaves the old file as it was."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON, indented and with sorted keys so that two versions compare line by line."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; CheckpointError if the file is missing, or holds anything else."""
    path = _existing(path, _OURS)
    if path.stat().st_size > _LONGEST:
        raise CheckpointError(f"{path} has {path.stat().st_size:,d} bytes: too many for a configuration")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise CheckpointError(f"{path} is nested too deeply: not written by this library") from None
    except ValueError as error:  # of JSON, of UTF-8, of a number with thousands of digits
        raise CheckpointError(
            f"{path} is not valid JSON ({error}): truncated, or not written by this library"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, from any device: the same bytes of the same contents. `metadata` is in its header.

    Tensors that share memory, such as tied weights, are written one by one, as if they did not.
    """
    owned: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        owned[name] = plain.clone() if place in seen else plain
        seen.add(place)
    header = {"format": "pt", **(metadata or {})}

    def write(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(owned, temporary, metadata=header)
            if metadata:
                _sort_metadata(temporary)
        except safetensors.SafetensorError as error:
            raise OutputError(f"cannot write {path} ({error}): make room, or the folder writable") from error

    write_atomically(path, write)


def _sort_metadata(file: Path) -> None:
    """Put a safetensors file's metadata in order: the library writes it in another one each time."""
    with file.open("r+b") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # as long as it was, or shorter by what it was filled up with
            opened.seek(8)
            opened.write(text.ljust(size))


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU; CheckpointError if it is missing, truncated or of another format."""
    path = _existing(path, _OURS)
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}): truncated or foreign") from None


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata in the header of a safetensors file; errors as for `load_tensors`."""
    path = _existing(path, "a safetensors file")
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}): truncated or foreign") from None


def load_pickled(path: str | Path, what: str, allowed: Sequence[type] = ()) -> Any:
    """Read a file of ``torch.save`` onto the CPU. Nothing in it is executed.

    Args:
        path: the file.
        what: what it should be, for the messages, as in "a checkpoint.pt of ...".
        allowed: classes it may hold besides tensors and plain values.

    Raises:
        CheckpointError: if it is missing, truncated, foreign, or needs any other class.
    """
    path = _existing(path, what)
    try:
        with _UNPICKLING, torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 (a broken pickle can raise anything)
        raise CheckpointError(
            f"{path} cannot be read as {what}: truncated, foreign, or with objects that are never loaded "
            f"({_reason(error)})"
        ) from None  # torch advises to trust the file


def misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """In words, what is missing in the tensors of a file, what is unexpected, and what has another shape."""
    problems = [f"missing: {name}" for name in expected if name not in tensors]
    problems += [f"unexpected: {name}" for name in tensors if name not in expected]
    problems += [
        f"{name}: shape {tuple(tensors[name].shape)} in the file, {tuple(tensor.shape)} in the model"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    return problems


def unusable(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """In words, which tensors of a file are not of the kind that a model takes, or hold NaN or infinite numbers."""
    problems = []
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = "quantised" if tensor.is_quantized else "without data" if tensor.is_meta else "sparse"
            problems.append(f"{name}: is {kind}, expected plain numbers")
        elif _kind(tensor) != _kind(wanted):
            problems.append(f"{name}: {tensor.dtype} in the file, {wanted.dtype} in the model")
        elif not is_finite(tensor) and (wanted.is_meta or is_finite(wanted)):
            problems.append(f"{name}: NaN or infinite values")
    return problems


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinite numbers, in one pass over it."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    tensor = tensor if tensor.element_size() > 1 else tensor.float()  # of 8 bits there are no extremes
    return all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "bool"
    return "complex" if tensor.is_complex() else "float" if tensor.is_floating_point() else "integer"


def load_strictly(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: object,
    expected: Mapping[str, Tensor] | None = None,
    inside: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict,
) -> None:
    """Load `tensors` into `module`, which wants exactly the entries of `expected`: without it, all of its own.

    Where files have other names than the module, `inside` gives entries the module's.

    Raises:
        CheckpointError: naming `source` and every missing, unexpected or differently shaped tensor, every one of
            integers in place of floats and the like, and every one with NaN or infinite values; nothing is loaded
            then.
    """
    expected = module.state_dict() if expected is None else expected
    if problems := misfits(tensors, expected) or unusable(tensors, expected):
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(f"{source} does not fit the model it is loaded into: {shown}")
    module.load_state_dict(inside(tensors), strict=False)  # strict above: entries beyond `expected` stay as they are


def file_hash(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, read a piece at a time."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sealed(path: str | Path, content: Mapping[str, Any]) -> str:
    """A hash of a file and of what is written of it in a configuration, of JSON's types."""
    text = json.dumps({**content, "file": file_hash(path)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def broken_seal(path: str | Path, content: Mapping[str, Any], expected: object) -> CheckpointError | None:
    """What to raise unless a file and its configuration are as they were `sealed`; None if there was no seal."""
    if expected is None or sealed(path, content) == expected:
        return None
    return CheckpointError(
        f"{path} and its configuration do not hold what was written together: one is damaged, or of something else. "
        f"If you changed it on purpose, take {SEAL!r} out of the configuration"
    )


def save_network(directory: str | Path, network: nn.Module, config: Mapping[str, Any]) -> None:
    """Write a network of our own: its tensors, and what `load_network` builds it from."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_tensors(directory / WEIGHTS_FILE, network.state_dict())
    write_json(directory / CONFIG_FILE, {**config, SEAL: sealed(directory / WEIGHTS_FILE, config)})


def load_network(
    directory: str | Path,
    build: Callable[..., Network],
    name: str,
    marks: Mapping[str, str],
    uncounted: Collection[str] = (),
) -> Network:
    """The network of a folder written by `save_network`.

    Args:
        directory: the folder.
        build: makes the network from its configuration without the marks.
        name: of what it is, for the messages.
        marks: entries of the configuration by which the folder is known to hold one.
        uncounted: entries that say nothing of the network's size.

    Raises:
        CheckpointError: for files that are missing, broken, of anything else, or do not fit each other.
    """
    directory = Path(directory)
    config = read_json(directory / CONFIG_FILE)
    if any(config.pop(key, None) != value for key, value in marks.items()):
        raise CheckpointError(f"{directory} does not hold a {name}")
    source = directory / CONFIG_FILE
    tensors = load_tensors(directory / WEIGHTS_FILE)
    seal = config.pop(SEAL, None)
    broken = broken_seal(directory / WEIGHTS_FILE, config | dict(marks), seal)
    check_counts(config, tensors, source, uncounted)
    try:
        with bounded_by(tensors, source):
            network = build(**config)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{source} is of no usable {name}: {error}") from error
    load_strictly(network, tensors, directory / WEIGHTS_FILE)
    if broken is not None:
        raise broken
    return network


def _existing(path: str | Path, expected: str) -> Path:
    path = Path(path)
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {problem}: expected {expected}")
    return path


def _reason(error: Exception) -> str:
    """What stopped torch.load, without its advice to trust the file."""
    if needed := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it needs {needed[1]}"
    if detail := re.search(r"WeightsUnpickler error:\s*(.+)", str(error)):
        return detail[1]
    first = str(error).strip().partition("\n")[0]
    return type(error).__name__ if not first or "weights_only" in first else f"{type(error).__name__}: {first}"
