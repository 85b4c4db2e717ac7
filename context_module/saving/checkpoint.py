"""A saved context module: ``adapter_config.json``, ``adapter_model.safetensors`` and a model card in one folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from context_module.adapters.contract import DecoderAdapter, adapt, get_adapter
from context_module.adapters.loading import load_base
from context_module.base.lora import foreign_lora, without_lora
from context_module.errors import CheckpointError
from context_module.io.files import load_tensors, read_json, save_tensors, write_json
from context_module.io.hub import PLACE_OPTIONS, is_hub_id, local_folder
from context_module.saving.card import CARD_NAME, GRID_NAME

__all__ = [
    "BASE_FOLDER",
    "CONFIG_NAME",
    "FILES",
    "WEIGHTS_NAME",
    "base_entries",
    "base_of",
    "fingerprint",
    "load_adapter",
    "named_modules",
    "save_adapter",
    "trainable_state_dict",
]

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
BASE_FOLDER = "base"  # a base that trained with the module
_NAMES = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, GRID_NAME)
FILES = (*_NAMES, *(f"*/{name}" for name in _NAMES), f"{BASE_FOLDER}/*")  # a folder may hold a training run besides
_SAMPLED = 4096  # values hashed per tensor: enough to tell two trainings apart, quick on a base of gigabytes
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@torch.no_grad()
def fingerprint(base: nn.Module) -> str:
    """A hash of a base's weights: names, shapes and up to 4,096 evenly spaced values of each tensor.

    Values are rounded to bfloat16, so a base is the same in float32 and in bfloat16. Batch-norm statistics do not
    count: they may be readjusted for sampling (`context_module.base.batch_norm`). Nor does LoRA that trained with a
    module; LoRA that the base came with does.
    """
    digest = hashlib.sha256()
    with without_lora(base):
        tensors = base.state_dict()
    ours = tuple(f"{part}." for part in getattr(base, "own_parts", ()))
    for name, tensor in sorted(tensors.items()):
        if name.rpartition(".")[2] in _STATISTICS or name.startswith(ours):
            continue
        values = tensor.detach().flatten()
        values = values[:: max(1, len(values) // _SAMPLED)]
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(values.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:32]


def trainable_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The entries of a state dict that training can change: all but those below a frozen submodule.

    A submodule is frozen when it has parameters and none of them asks for a gradient; its buffers are then frozen too.
    """
    frozen = tuple(
        f"{name}."
        for name, child in module.named_modules()
        if name and (parameters := list(child.parameters())) and not any(p.requires_grad for p in parameters)
    )
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(frozen)}


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


def named_modules(directory: Path) -> list[str]:
    """Names of the subfolders that hold a module."""
    return sorted(path.parent.name for path in directory.glob(f"*/{CONFIG_NAME}"))


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
