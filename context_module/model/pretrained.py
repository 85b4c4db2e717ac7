"""Saving and loading, methods of `ContextualDecoder`: folders in peft's layout, and the base that goes along."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from context_module.base import LoraSettings, plain_name, without_lora
from context_module.errors import CheckpointError
from context_module.io import bounded_by, check_counts, load_strictly, make_repository, only_here, upload
from context_module.model.switching import DEFAULT, check_loaded, check_name
from context_module.nn import ValueMaps
from context_module.saving import BASE_FOLDER, CONFIG_NAME, FILES, BaseRecord, Checkpoint, model_card, write_card

if TYPE_CHECKING:
    from context_module.model.decoder import ContextualDecoder

__all__ = ["from_pretrained", "load_saved", "push_to_hub", "save_pretrained"]

_LATER = ("module.order",)  # what the first files have none of


def save_pretrained(
    self: ContextualDecoder,
    directory: str | Path,
    *,
    selected_adapters: Iterable[str] | None = None,
    push_to_hub: bool = False,
    repo_id: str | None = None,
) -> None:
    """Write ``adapter_config.json``, ``adapter_model.safetensors`` and a model card; a base that trained, too.

    As in peft, the module named ``default`` goes into the folder itself, every other one into a subfolder of its
    name. Concept packs are files of their own, and are not saved here: a UserWarning says so.

    Args:
        directory: created if needed; files of an earlier save are replaced one by one, each atomically. A
            README.md that somebody edited is kept.
        selected_adapters: the modules to save; all by default.
        push_to_hub: also upload the folder, to `repo_id` or a repository named like the folder.

    Raises:
        AdapterError: for a module that is not loaded, or while modules are switched off.
        HubError: if the upload fails.
    """
    self.check_enabled("save_pretrained")
    root, names = Path(directory), self.adapters if selected_adapters is None else tuple(selected_adapters)
    check_loaded(self, *names)
    if push_to_hub:
        repo_id = make_repository(repo_id or root.resolve().name)
    active = self.active_adapter
    for name in names:
        try:
            self.set_adapter(name)
            _save_active(self, root if name == DEFAULT else root / name, repo_id)
        finally:
            self.set_adapter(active)
    if push_to_hub and repo_id is not None:
        upload(root, repo_id, FILES, "context module")


def push_to_hub(
    self: ContextualDecoder, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> None:
    """Save to a temporary folder and upload it to the Hugging Face Hub repository `repo_id`, made if needed.

    Raises:
        HubError: if nobody is logged in, or the upload fails.
    """
    repo_id = make_repository(repo_id, private=private, token=token)
    with tempfile.TemporaryDirectory() as directory:
        self.save_pretrained(directory, repo_id=repo_id)
        upload(directory, repo_id, FILES, "context module", token=token)


def from_pretrained(
    cls: type[ContextualDecoder],
    path: str | Path,
    *,
    base: object = None,
    adapter_name: str = DEFAULT,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    dtype: torch.dtype | str | None = None,
    torch_dtype: torch.dtype | str | None = None,
    device_map: str | int | torch.device | Mapping[str, Any] | None = None,
) -> ContextualDecoder:
    """Load what `save_pretrained` wrote, onto the base it was trained with; in eval mode.

    Args:
        path: a folder, or the id of a Hugging Face Hub repository. Local files never touch the network.
        base: the base, as for `wrap_decoder`, or where it lies now (a path or Hub id). Without it, it is loaded
            from where it was when saved, or from the folder itself if it trained with the module.
        adapter_name: what to call the module; another one than ``default`` is saved in a subfolder of that name.
        subfolder: of the folder or repository, where a module with a name is.
        revision: of the module's Hub repository. (That of the base is recorded with the module.)
        token, local_files_only: for the repositories of module and base, as everywhere in huggingface_hub.
        dtype: of the base, such as ``torch.bfloat16`` or its name; the module stays in float32. Default: as saved.
            A base that is given, and not a place, stays in its own.
        torch_dtype: the same under its older name.
        device_map: the one device for base and module, or ``"auto"``: the accelerator if there is one.

    Raises:
        CheckpointError: for missing, truncated or foreign files, tensors that are missing, unexpected or of
            another shape, or a base with other weights than the one the module was trained on.
        ValueError: for a dtype or device_map that cannot be, or a dtype that is not the given base's.
    """
    check_name(adapter_name)
    wanted, device = _dtype(dtype, torch_dtype), _device(device_map)
    hub: dict[str, Any] = {"token": token} if token is not None else {}
    hub |= {"local_files_only": True} if local_files_only else {}
    checkpoint, directory = Checkpoint.read(path, subfolder=subfolder, revision=revision, **hub)
    adapter = checkpoint.base.load(directory, base, **hub)
    if isinstance(base, nn.Module) and wanted not in (None, adapter.dtype):
        raise ValueError(
            f"the base that is given is {adapter.dtype} and stays as it is, dtype={wanted}: convert it first "
            f"(base.to({wanted})), or give its path"
        )
    adapter.to(device=device, dtype=wanted)
    source, config = directory / CONFIG_NAME, checkpoint.config
    described = {"module": config.to_dict(), "value_maps": checkpoint.value_maps, "lora": checkpoint.lora}
    check_counts(described, checkpoint.tensors, source)
    with bounded_by(checkpoint.tensors, source):
        model = cls(adapter, config)
        model.active_adapter = adapter_name
        model.held.owned = checkpoint.base.owned
        model.details = checkpoint.details
        maps = ValueMaps.from_dict(checkpoint.value_maps, config.concepts, config.concept_width)
        model.slot.value_maps = maps.to(adapter.device)
        if checkpoint.lora is not None:
            model.held.inject_lora(LoraSettings.from_dict(checkpoint.lora, adapter))
    try:
        load_saved(model, checkpoint.tensors, directory, model.adapter_state_dict())
        if checkpoint.broken is not None:
            raise checkpoint.broken
    except CheckpointError:
        model.held.take_lora()  # the caller's base, as it came
        raise
    return model.eval()


def load_saved(
    model: ContextualDecoder, tensors: Mapping[str, Tensor], source: object, expected: Mapping[str, Tensor]
) -> None:
    """Load tensors under the names of saved modules, ``base.``, ``module.``, ...; errors as of `load_strictly`."""

    wrapped = {plain_name(name): name for name in model.held.state_dict()}

    def inside(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            f"held.{wrapped.get(name, name)}" if name.startswith("base.") else f"slot.{name}": entry
            for name, entry in entries.items()
        }

    expected = {name: entry for name, entry in expected.items() if name in tensors or name not in _LATER}
    load_strictly(model, tensors, source, expected, inside)


def _save_active(model: ContextualDecoder, directory: Path, repo_id: str | None) -> None:
    held, slot = model.held, model.slot
    slot.packs.warn_unsaved()
    held.own_if_changed()
    checkpoint = Checkpoint(
        config=slot.config,
        base=BaseRecord.of(held.base, held.owned),
        tensors=model.adapter_state_dict(),
        value_maps=slot.value_maps.sizes,
        lora=held.lora.to_dict() if held.lora is not None else None,
        details=slot.details,
    )
    with only_here(directory):  # of two threads, one after the other: their files do not mix
        if held.owned:  # first: without the adapter's own files the folder is no module yet
            with without_lora(held.base):
                held.base.save(directory / BASE_FOLDER)
        checkpoint.save(directory)
        write_card(directory, model_card(checkpoint, held.base, repo_id), slot.details.grid)


def _dtype(dtype: torch.dtype | str | None, older: torch.dtype | str | None) -> torch.dtype | None:
    """The type that was asked for, under either name; ValueError for what is none."""
    if dtype is not None and older is not None:
        raise ValueError("dtype and torch_dtype are the same: give one of them")
    asked = older if dtype is None else dtype
    found = getattr(torch, asked.removeprefix("torch."), None) if isinstance(asked, str) else asked
    if asked is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype must be a floating-point type of torch, such as torch.bfloat16, got {asked!r}")
    return found


def _device(device_map: str | int | torch.device | Mapping[str, Any] | None) -> torch.device | None:
    """The one device of a `device_map`; ValueError for several."""
    if isinstance(device_map, Mapping) and set(device_map) == {""}:
        device_map = device_map[""]
    if device_map == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    if device_map is None:
        return None
    try:
        return torch.device(device_map)  # type: ignore[arg-type]
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device_map must be one device, such as 'cuda:0', or 'auto', got {device_map!r}: base and module are not "
            "spread over several"
        ) from None
