"""What is in a folder: `python -m context_module info DIR`. Of large files it reads the headers alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors

from context_module.errors import CheckpointError
from context_module.io import CONFIG_FILE, MANIFEST, is_hub_id, misfitting, read_json
from context_module.nn import ConceptPack, ContextModuleConfig
from context_module.saving.layout import BASE_FOLDER, CONFIG_NAME, WEIGHTS_NAME, named_modules

__all__ = ["describe"]

BASE_CONFIGS = (CONFIG_FILE, "model_index.json")  # of a base, or of a pipeline of diffusers


def describe(folder: str | Path) -> str:
    """A text about a folder of a module, of concept packs, of a base or of a training run.

    Raises:
        CheckpointError: if it is no folder, holds nothing of this library, or files that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; expected one of a module, a concept pack or a base")
    sections: dict[str, dict[str, str]] = {}
    if (folder / CONFIG_NAME).is_file():
        sections["context module"] = _module(folder)
    for name in named_modules(folder):
        sections[f"context module {name!r}"] = _module(folder / name)
    for file in sorted(folder.glob("*.safetensors")):
        if pack := _pack(file):
            sections[f"concept pack {file.name}"] = pack
    if any((folder / name).is_file() for name in BASE_CONFIGS):
        sections["base"] = _base(folder)
    if not sections:
        raise CheckpointError(
            f"{folder} holds no context module, concept pack or base: none of {CONFIG_NAME}, {CONFIG_FILE} and "
            "CONCEPT.safetensors is there"
        )
    sections |= {title: found for title, found in _run(folder).items() if found}
    lines = [str(folder)]
    for title, rows in sections.items():
        width = max(map(len, rows), default=0)
        lines += ["", title, *(f"  {row:<{width}}  {value}" for row, value in rows.items())]
    return "\n".join(lines)


def _module(folder: Path) -> dict[str, str]:
    content = read_json(folder / CONFIG_NAME)
    if "module" not in content or "base_adapter" not in content:
        raise CheckpointError(f"{folder / CONFIG_NAME} is not of a context module: it has no module and base_adapter")
    config = ContextModuleConfig.from_dict(content["module"])
    where = content.get("base_name_or_path")
    where = where if isinstance(where, str) else None
    rows = {
        "concepts": ", ".join(config.concepts) or "none",
        "widths": f"noise {config.noise_width}, concept {config.concept_width}, depth {config.depth}, "
        f"{config.free_blocks} free blocks",
        "form": config.form,
        "decoder input": "x".join(map(str, config.latent_shape)),
        "tensors": f"{_values(folder / WEIGHTS_NAME):,d} values",
        "base": f"{content['base_adapter']}, {_place(folder, where)}",
        "fingerprint": str(content.get("base_fingerprint", "none")),
        "version": str(content.get("context_module_version", "not recorded")),
    }
    if lora := content.get("lora"):
        rows["LoRA"] = f"rank {lora['rank']}, on {len(lora['target_modules'])} decoder layers"
    if values := content.get("value_maps"):
        rows["values"] = ", ".join(values)
    if data := content.get("card", {}).get("data"):
        rows["trained on"] = data
    return rows


def _place(folder: Path, where: str | None) -> str:
    if not where:
        return "given by the caller: pass base=..."
    if where == BASE_FOLDER:
        return f"in {folder / BASE_FOLDER}"
    return f"{where} ({'on the Hub' if is_hub_id(where) else 'there' if Path(where).exists() else 'not there now'})"


def _pack(file: Path) -> dict[str, str] | None:
    if not ConceptPack.is_in(file):  # the weights of something else
        return None
    config = ConceptPack.load(file).config
    return {
        "concept": config.concept,
        "widths": f"rank {config.rank}, noise {config.noise_width}, hidden {config.hidden_width}",
        "fingerprints": f"base {config.base_fingerprint}, module {config.module_fingerprint}",
    }


def _base(folder: Path) -> dict[str, str]:
    content = read_json(next(path for name in BASE_CONFIGS if (path := folder / name).is_file()))
    arguments = read_json(folder / "arguments.json") if (folder / "arguments.json").is_file() else {}
    family = arguments.get("base") or content.get("base") or content.get("_class_name") or "not recorded"
    names = sorted({*content, "encoder"})  # of a pipeline, and beside it
    parts = [folder, *(folder / name for name in names if (folder / name).is_dir())]
    files = [file for part in parts for file in sorted(part.glob("*model.safetensors")) if file.name != WEIGHTS_NAME]
    return {"family": str(family), "tensors": ", ".join(f"{_values(file):,d} values" for file in files) or "none"}


def _run(folder: Path) -> dict[str, dict[str, str]]:
    """The flags and the result of the training in a folder."""
    found: dict[str, dict[str, str]] = {}
    if (folder / "result.json").is_file():
        found["result"] = _rows(read_json(folder / "result.json"))
    if (folder / MANIFEST).is_file():
        problems = misfitting(folder)
        found["files"] = problems or {"all": "as the run wrote them"}
    if (folder / "arguments.json").is_file():
        given = {
            name: value for name, value in read_json(folder / "arguments.json").items() if value not in (None, [])
        }
        found["flags (python recipes/... --config arguments.json repeats them)"] = _rows(given)
    return found


def _rows(content: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: " ".join(map(str, value))
        if isinstance(value, list)
        else value
        if isinstance(value, str)
        else json.dumps(value)
        for name, value in content.items()
    }


def _values(file: Path) -> int:
    """How many values a safetensors file holds, by its header."""
    try:
        with safetensors.safe_open(file, "pt") as tensors:
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file ({error}): truncated or foreign") from None
