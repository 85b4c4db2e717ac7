"""Which family the base is of that lies in a folder or Hub repository."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from context_module.adapters.gguf import gguf_files
from context_module.errors import CheckpointError
from context_module.io import CONFIG_FILE, HUB_OPTIONS, local_folder, read_json

__all__ = ["PEFT_CONFIG", "family_of"]

PEFT_CONFIG = "adapter_config.json"  # ours has this name, too
_PIPELINE = "model_index.json"
_EXPECTED = (
    "a folder with a model_index.json (a pipeline of diffusers) or a config.json (a model of diffusers or "
    "transformers, an NVAE, a lightweight VAE), a checkpoint.pt of the public NVAE training code"
)


def family_of(path: str | Path, **options: Any) -> str:
    """The name of the family whose `load` reads what lies at a path or Hub id, such as ``diffusers``.

    Args:
        path: a folder of ``save_pretrained``, an NVAE's checkpoint, or the id of a Hub repository.
        options: those of `load_base`: of these count ``gguf_file``, ``subfolder``, and how to read repositories.

    Raises:
        CheckpointError: if there is nothing, if it is not known what it is, or if it is no base: a context module, or
            a denoiser without its scheduler.
    """
    if options.get("gguf_file") is not None:
        return "transformers"
    inside = options.get("subfolder") or ""
    hub = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    files = [str(Path(inside) / name) for name in (_PIPELINE, PEFT_CONFIG, CONFIG_FILE)]
    folder = local_folder(path, files, expected=_EXPECTED, **hub)
    if folder.is_file():
        return "nvae"
    pipeline, peft, config = (_content(folder / name) for name in files)
    if pipeline is not None:
        return "denoiser"
    if peft is not None and peft.get("base_model_name_or_path"):
        return family_of(peft["base_model_name_or_path"], **{name: hub[name] for name in hub if name != "revision"})
    where = str(Path(path) / inside)
    if config is not None:
        return _family_of_config(config, where)
    if peft is not None and "base_adapter" in peft:
        raise CheckpointError(
            f"{where} holds a context module, not a base: ContextualDecoder.from_pretrained reads it with its base"
        )
    if found := gguf_files(where):
        raise CheckpointError(f"{where} holds GGUF files: say which one, gguf_file={found[0]!r} (--gguf_file)")
    raise CheckpointError(f"{where} holds no base that is known here: expected {_EXPECTED}")


def _content(file: Path) -> Mapping[str, Any] | None:
    return read_json(file) if file.is_file() else None


def _family_of_config(config: Mapping[str, Any], where: str) -> str:
    """The family of a network whose config.json this is."""
    from context_module.adapters.denoiser.conditioning import SUPPORTED

    if config.get("_class_name") in SUPPORTED:
        raise CheckpointError(
            f"{where} holds a {config['_class_name']} alone, which does not say how noisy its data is: give the "
            f"folder of its pipeline, with its {_PIPELINE}"
        )
    if "_class_name" in config:
        return "diffusers"
    if "model_type" in config:
        return "transformers"
    if config.get("base") == "lightweight":
        return "lightweight"
    if {"num_scales", "groups_per_scale"} <= set(config):
        return "nvae"
    raise CheckpointError(
        f"{where} has a {CONFIG_FILE} of no base that is known here (its entries: {', '.join(sorted(config)[:6])}): "
        "load it yourself and give the model"
    )
