"""GGUF files, in which llama.cpp keeps language models: transformers reads them as weights of its own."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from context_module.errors import CheckpointError

__all__ = ["gguf_files", "plain_weights", "reading_options"]

_MAGIC = b"GGUF"


def gguf_files(path: str | Path) -> list[str]:
    """The names of the GGUF files in a folder, sorted; none of a Hub id, which is not looked into."""
    return sorted(file.name for file in Path(path).glob("*.gguf")) if Path(path).is_dir() else []


def reading_options(path: str | Path, gguf_file: str) -> dict[str, Any]:
    """What ``from_pretrained`` of transformers is told to read configuration, tokenizer and weights from one file.

    Args:
        path: the folder of the file, or a Hub id.
        gguf_file: its name there.

    Raises:
        ImportError: without the packages that read such files; names the extra to install.
        CheckpointError: for a folder without that file, naming those that are there, and for a file that is not GGUF.
    """
    for package in ("gguf", "accelerate"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f"GGUF files are read with {package}: pip install context-module[gguf]") from error
    if Path(path).is_file():
        raise CheckpointError(
            f"{path} is a file: give its folder, and its name as gguf_file, {str(Path(path).name)!r} (--gguf_file)"
        )
    if Path(path).is_dir():
        file = Path(path) / gguf_file
        if not file.is_file():
            raise CheckpointError(f"{path} has no file {gguf_file}; GGUF files there: {_listed(gguf_files(path))}")
        with file.open("rb") as content:
            if (begin := content.read(len(_MAGIC))) != _MAGIC:
                raise CheckpointError(f"{file} is not a GGUF file: it begins with {begin!r} instead of {_MAGIC!r}")
    return {"gguf_file": gguf_file}


def plain_weights(library: Any) -> dict[str, Any]:
    """What ``from_pretrained`` of a model is told besides, for floats in place of quantised blocks.

    Gradients go through a base, LoRA and training reach into it, and it is saved as safetensors. Releases of
    transformers without this setting know no other way.
    """
    settings = getattr(library, "GgufConfig", None)
    return {} if settings is None else {"quantization_config": settings(dequantize=True)}


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
