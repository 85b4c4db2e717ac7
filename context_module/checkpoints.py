"""A saved context module: ``adapter_config.json``, ``adapter_model.safetensors`` and a model card in one folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from context_module.adapters.base import DecoderAdapter, adapt, load_base
from context_module.errors import CheckpointError
from context_module.files import load_tensors, read_json, save_tensors, write_atomically, write_json
from context_module.lora import without_lora

__all__ = [
    "BASE_FOLDER",
    "CARD_NAME",
    "CONFIG_NAME",
    "WEIGHTS_NAME",
    "base_of",
    "fingerprint",
    "load_adapter",
    "save_adapter",
    "trainable_state_dict",
    "upload_adapter",
]

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
CARD_NAME = "README.md"
BASE_FOLDER = "base"  # a base that trained with the module
_FILES = [CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, f"{BASE_FOLDER}/*"]  # a folder may hold a training run besides
_SAMPLED = 4096  # values hashed per tensor: enough to tell two trainings apart, quick on a base of gigabytes
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@torch.no_grad()
def fingerprint(base: nn.Module) -> str:
    """A hash of a base's weights: names, shapes and up to 4,096 evenly spaced values of each tensor.

    Values are rounded to bfloat16, so a base is the same in float32 and in bfloat16. Batch-norm statistics do not
    count: they may be readjusted for sampling (`context_module.batch_norm`). Nor does LoRA.
    """
    digest = hashlib.sha256()
    with without_lora(base):
        tensors = base.state_dict()
    for name, tensor in sorted(tensors.items()):
        if name.rpartition(".")[2] in _STATISTICS:
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


def save_adapter(directory: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str) -> None:
    """Write the folder; each file is whole or absent. An existing README.md is kept: its owner may have edited it."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_tensors(directory / WEIGHTS_NAME, tensors)
    write_json(directory / CONFIG_NAME, config)
    if not (directory / CARD_NAME).exists():
        write_atomically(directory / CARD_NAME, lambda temporary: temporary.write_text(card, encoding="utf-8"))


def load_adapter(
    path: str | Path, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """Read a folder written by `save_adapter`, or the same files of a Hugging Face Hub repository.

    A local folder never touches the network.

    Returns:
        the configuration, the tensors (on the CPU), and the local folder they were read from.

    Raises:
        CheckpointError: if a file is missing, truncated or foreign, or the repository cannot be had.
    """
    directory = Path(path)
    if not directory.exists():
        directory = _download(str(path), revision=revision, token=token, local_files_only=local_files_only)
    return read_json(directory / CONFIG_NAME), load_tensors(directory / WEIGHTS_NAME), directory


def base_of(config: Mapping[str, Any], directory: Path, base: object = None) -> DecoderAdapter:
    """The base of a saved module: `base`, or what lies at that path; without it the one that the configuration names.

    Raises:
        CheckpointError: if it names none, or if the weights are not those that the module was trained on.
    """
    where = config.get("base_name_or_path")
    if base is None:
        if not where:
            raise CheckpointError(f"{directory} does not say where its base is: pass base=...")
        base = directory / where if where == BASE_FOLDER else str(where)
    if isinstance(base, str | Path):
        base = load_base(config["base_adapter"], base, config.get("base_options", {}))
    adapter = adapt(base)
    found = fingerprint(adapter)
    if found != config["base_fingerprint"]:
        raise CheckpointError(
            f"{directory} was trained on another base: its {config['base_adapter']!r} base "
            f"({where or 'no path recorded'}) has fingerprint {config['base_fingerprint']}, the {adapter.name!r} base "
            f"given has {found}. Pass the base it was trained on"
        )
    return adapter


def upload_adapter(
    directory: str | Path, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> None:
    """Upload a folder written by `save_adapter` to a Hugging Face Hub repository, made if needed."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    api.upload_folder(
        repo_id=repo_id, folder_path=directory, commit_message="Upload context module", allow_patterns=_FILES
    )


def _download(repository: str, **options: Any) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=_FILES, **options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{repository!r} is neither a local folder nor a Hub repository that can be read ({reason})"
        ) from error
