"""Files that are either whole or absent, and that are data only: JSON and safetensors, written atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from context_module.errors import CheckpointError

__all__ = ["load_tensors", "read_json", "save_tensors", "write_atomically", "write_json"]


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary name beside `path`, then rename: an interruption leaves the old file as it was."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON, indented and with sorted keys so that two versions compare line by line."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; CheckpointError if the file is missing, or holds anything else."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: expected a folder written by save_pretrained")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}): truncated, or not written by this library"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, from any device."""
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(owned, temporary, metadata={"format": "pt"}))


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU; CheckpointError if it is missing, truncated or of another format."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: expected a folder written by save_pretrained")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}): truncated or foreign") from None
