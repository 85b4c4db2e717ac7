"""A saved context module: ``adapter_config.json``, ``adapter_model.safetensors`` and a model card in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from context_module.adapters import DecoderAdapter, adapt, get_adapter, load_base
from context_module.base import fingerprint, foreign_lora
from context_module.errors import CheckpointError
from context_module.io import PLACE_OPTIONS, is_hub_id, load_tensors, local_folder, read_json, save_tensors, write_json
from context_module.saving.layout import (
    BASE_FOLDER,
    CONFIG_NAME,
    FILES,
    WEIGHTS_NAME,
    named_modules,
)

__all__ = ["base_entries", "base_of", "load_adapter", "save_adapter"]


def save_adapter(directory: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write configuration and tensors; each file is whole or absent."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_tensors(directory / WEIGHTS_NAME, tensors)
    write_json(directory / CONFIG_NAME, config)


def load_adapter(
    path: str | Path, *, subfolder: str | None = None, **options: Any
) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """Read a folder written by `save_adapter`, or the same files of a Hugging Face Hub repository.

    A local folder never touches the network.

    Args:
        path: the folder or repository.
        subfolder: the folder in it, of a module with a name.
        options: `revision`, `token` and `local_files_only`, as everywhere in huggingface_hub.

    Returns:
        the configuration, the tensors (on the CPU), and the local folder they were read from.

    Raises:
        CheckpointError: if a file is missing, truncated or foreign, or the repository cannot be had.
    """
    root = local_folder(path, FILES, **options)
    directory = root / subfolder if subfolder else root
    if not (directory / CONFIG_NAME).is_file() and (named := named_modules(root)):
        raise CheckpointError(
            f"{directory / CONFIG_NAME} does not exist; {root} has modules in subfolders: load one of them with "
            f"{' or '.join(f'subfolder={name!r}' for name in named)}"
        )
    return read_json(directory / CONFIG_NAME), load_tensors(directory / WEIGHTS_NAME), directory


def base_of(config: Mapping[str, Any], directory: Path, base: object = None, **hub: Any) -> DecoderAdapter:
    """The base of a saved module: `base`, or without it the one that the configuration names, in its revision.

    It is loaded with the options that it had.

    Args:
        config: of the module.
        directory: where it was read.
        base: as for `adapt`, or where it lies now: a path or Hub id.
        hub: `token` and `local_files_only`, for a base on the Hub.

    Raises:
        CheckpointError: if it names none, if there is none where it says, or if the weights are not those that the
            module was trained on.
    """
    family, where = config["base_adapter"], config.get("base_name_or_path")
    revision, given = config.get("base_revision"), base is not None
    if base is None or isinstance(base, str | Path):
        options = _options(config, directory)
        if base is not None:
            place: str | Path = base
        elif where:
            place, options["revision"] = directory / where if where == BASE_FOLDER else where, revision
        else:
            raise CheckpointError(f"{directory} does not say where its base is: pass base=...")
        if is_hub_id(place) or is_hub_id(options.get("encoder")):
            options |= {name: value for name, value in hub.items() if name in get_adapter(family).load_options}
        try:
            base = load_base(family, place, **options)
        except CheckpointError as error:
            raise CheckpointError(f"the base of {directory} cannot be loaded: {error}. Pass base=...") from error
    adapter = adapt(base)
    found = fingerprint(adapter)
    if found != config["base_fingerprint"]:
        at = f"{where or 'no path recorded'}{f', revision {revision}' if revision else ''}"
        lora = ""
        if layers := config.get("base_lora"):
            has = len(foreign_lora(adapter))
            lora = f" (that base came with LoRA of its own, in {layers} layers; this one has it in {has})"
        raise CheckpointError(
            f"{directory} was trained on another base: its {family!r} base ({at}) has fingerprint "
            f"{config['base_fingerprint']}, the {adapter.name!r} base {'given' if given else 'that is there now'} has "
            f"{found}{lora}. Pass the base it was trained on"
        )
    return adapter


def base_entries(base: DecoderAdapter, owned: bool) -> dict[str, Any]:
    """What the configuration of a saved module says of its base, for `base_of`.

    Args:
        base: in its state at the time.
        owned: whether it is saved with the module, no longer the one it came from.
    """
    options = {name: value for name, value in base.options.items() if not (owned and name in PLACE_OPTIONS)}
    optional = {
        "base_revision": options.pop("revision", None),
        "base_options": options,
        "base_lora": len(foreign_lora(base)),
    }
    return {
        "base_adapter": base.name,
        "base_name_or_path": BASE_FOLDER if owned else base.source,
        "base_fingerprint": fingerprint(base),
        **{name: value for name, value in optional.items() if value},
    }


def _options(config: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    options = config.get("base_options", {})
    if not isinstance(options, dict):
        raise CheckpointError(f"{directory} has unusable base_options in its configuration: {options!r}")
    return dict(options)
