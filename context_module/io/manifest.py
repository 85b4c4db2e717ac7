"""Which files of a folder belong together: their sizes and hashes in one file that is written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from context_module.errors import CheckpointError
from context_module.io.files import file_hash, read_json, write_json

__all__ = ["MANIFEST", "misfitting", "write_manifest"]

MANIFEST = "manifest.json"


def write_manifest(folder: Path, files: Iterable[str], **more: Any) -> None:
    """Write down what these files hold now, and `more` besides, in JSON's types."""
    found = {name: {"bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)} for name in files}
    content = {**more, "files": found}
    write_json(folder / MANIFEST, {**content, "sha256": _hash(content)})


def misfitting(folder: Path) -> dict[str, str]:
    """The files of a manifest that are not as it says, each with what is wrong with it: empty if all are.

    Raises:
        CheckpointError: if there is no manifest, or if it was itself changed.
    """
    path = folder / MANIFEST
    content = read_json(path)
    files = content.get("files")
    if content.pop("sha256", None) != _hash(content) or not isinstance(files, Mapping):
        raise CheckpointError(f"{path} is damaged: it does not have the hash that was written with it")
    problems = {}
    for name, expected in files.items():
        if not (folder / name).is_file():
            problems[name] = "is missing"
        elif (size := (folder / name).stat().st_size) != expected["bytes"]:
            problems[name] = f"has {size} bytes, {expected['bytes']} were written"
        elif file_hash(folder / name) != expected["sha256"]:
            problems[name] = "is damaged: it does not hold what was written"
    return problems


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
