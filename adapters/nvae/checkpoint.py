"""Reading the public training code's checkpoints, and our own folders of config.json and model.safetensors."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from context_module.adapters.nvae.config import NVAEConfig, NVAEConfigError
from context_module.errors import CheckpointError

__all__ = ["load_strictly", "read_folder", "read_public_checkpoint", "write_folder"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def read_public_checkpoint(path: str | Path) -> tuple[NVAEConfig, dict[str, Tensor]]:
    """Configuration and tensors of a ``checkpoint.pt`` of the public NVAE training code.

    Raises:
        CheckpointError: for a file that is missing, truncated, foreign, or needs more than tensors, plain values and
            ``argparse.Namespace`` to be read. Nothing in the file is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a checkpoint.pt of the public NVAE training code")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle can raise anything
        raise CheckpointError(
            f"{path}: not a readable NVAE checkpoint (truncated, of another kind, or with objects other than tensors, "
            f"plain values and argparse.Namespace, which are never loaded): {_reason(error)}"
        ) from error
    args = content.get("args") if isinstance(content, Mapping) else None
    tensors = content.get("state_dict") if isinstance(content, Mapping) else None
    arch_instance = content.get("arch_instance") if isinstance(content, Mapping) else None
    if (
        not isinstance(args, argparse.Namespace)
        or not isinstance(tensors, Mapping)
        or not all(isinstance(value, Tensor) for value in tensors.values())
        or not (arch_instance is None or isinstance(arch_instance, Mapping))
    ):
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{path}: not an NVAE checkpoint: expected 'args' (a Namespace), 'state_dict' (tensors) and "
            f"'arch_instance' (a dict), got {found}"
        )
    config = _checked(path, lambda: NVAEConfig.from_checkpoint_args(args, arch_instance))
    # copies that convolutions without weight norm leave in the file
    return config, {key: value for key, value in tensors.items() if not key.endswith(".weight_normalized")}


def read_folder(folder: str | Path) -> tuple[NVAEConfig, dict[str, Tensor]]:
    """Configuration and tensors of a folder written by `write_folder`.

    Raises:
        CheckpointError: for a missing or broken file; names it.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name}: no such file; expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, "
                "as written by NVAE.save_pretrained"
            )
    try:
        values = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:  # of the JSON or of the text's encoding
        raise CheckpointError(f"{folder / CONFIG_FILE}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{folder / CONFIG_FILE}: expected a JSON object, got {type(values).__name__}")
    config = _checked(folder / CONFIG_FILE, lambda: NVAEConfig.from_dict(values))
    try:
        return config, load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE}: not a readable safetensors file: {error}") from error


def write_folder(folder: str | Path, config: NVAEConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors``, each in full or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    _replace(folder / WEIGHTS_FILE, lambda path: save_file(contiguous, path, metadata={"format": "pt"}))
    _replace(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Load all of `tensors` into all of `module`.

    Raises:
        CheckpointError: listing by name the tensors that are missing, unexpected, or of another shape.
    """
    own = module.state_dict()
    problems = [f"missing {key}" for key in own if key not in tensors]
    problems += [f"unexpected {key}" for key in tensors if key not in own]
    problems += [
        f"{key} has shape {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise CheckpointError(f"{source}: the tensors do not fit the network its configuration describes: {shown}")
    module.load_state_dict(tensors)


def _reason(error: Exception) -> str:
    """What went wrong in torch.load, without its advice to trust the file."""
    text = str(error).strip()
    needed = re.search(r"GLOBAL (\S+)", text)
    if needed:
        return f"it needs {needed[1]}"
    detail = re.search(r"WeightsUnpickler error: (.+)", text)
    return detail[1] if detail else f"{type(error).__name__}: {text.partition(chr(10))[0]}"


def _checked(path: Path, build: Callable[[], NVAEConfig]) -> NVAEConfig:
    try:
        return build()
    except NVAEConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write through a temporary file beside `path`, so that no half-written file bears its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
