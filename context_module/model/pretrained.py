"""Saving and loading: folders in peft's layout, repositories of the Hugging Face Hub, and the base that goes along."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter
from context_module.base import LoraSettings, is_lora, remove_lora, without_lora
from context_module.errors import AdapterError, CheckpointError
from context_module.io import load_strictly, make_repository, upload
from context_module.model.switching import DEFAULT, SwitchableModules, check_name
from context_module.nn import ContextModuleConfig, ValueMaps
from context_module.saving import (
    BASE_FOLDER,
    FILES,
    CardDetails,
    base_entries,
    base_of,
    load_adapter,
    model_card,
    save_adapter,
    write_card,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SavedModules"]


class SavedModules(SwitchableModules):
    """A model whose modules are saved and loaded.

    Attributes:
        details: what the active module's card says of its data and scores.
    """

    def __init__(self, base: DecoderAdapter, config: ContextModuleConfig) -> None:
        super().__init__(base)
        self.config = config
        self.details = CardDetails()

    def adapter_state_dict(self) -> dict[str, Tensor]:
        """The tensors that are saved: module, posterior heads, value maps and LoRA, not the base and concept packs.

        Of the base only the parts that are ours, such as an encoder that was made for a decoder without one.
        """
        ours = tuple(f"base.{part}." for part in self.base.own_parts)
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith(("base.", "packs."))
            or name.startswith(ours)
            or (self.lora is not None and is_lora(name))
        }

    def save_pretrained(
        self,
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
        self._check_enabled("save_pretrained")
        names = self.adapters if selected_adapters is None else tuple(selected_adapters)
        for name in names:
            self._check_loaded(name)
        if push_to_hub:
            repo_id = make_repository(repo_id or Path(directory).resolve().name)
        for name in names:
            with self._active(name):
                self._save(Path(directory) if name == DEFAULT else Path(directory) / name, repo_id)
        if push_to_hub and repo_id is not None:
            upload(directory, repo_id, FILES, "context module")

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> None:
        """Save to a temporary folder and upload it to the Hugging Face Hub repository `repo_id`, made if needed.

        Raises:
            HubError: if nobody is logged in, or the upload fails.
        """
        repo_id = make_repository(repo_id, private=private, token=token)
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory, repo_id=repo_id)
            upload(directory, repo_id, FILES, "context module", token=token)

    @classmethod
    def from_pretrained(
        cls,
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
    ) -> Self:
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
            torch_dtype: the same under its older name.
            device_map: the one device for base and module, or ``"auto"``: the accelerator if there is one.

        Raises:
            CheckpointError: for missing, truncated or foreign files, tensors that are missing, unexpected or of
                another shape, or a base with other weights than the one the module was trained on.
            ValueError: for a dtype or device_map that cannot be.
        """
        check_name(adapter_name)
        wanted, device = _dtype(dtype, torch_dtype), _device(device_map)
        hub: dict[str, Any] = {"token": token} if token is not None else {}
        hub |= {"local_files_only": True} if local_files_only else {}
        config, tensors, directory = load_adapter(path, subfolder=subfolder, revision=revision, **hub)
        missing = [key for key in ("base_adapter", "base_fingerprint", "module") if key not in config]
        if missing:
            raise CheckpointError(f"{directory} holds no context module: no {', '.join(missing)} in its configuration")
        adapter = base_of(config, directory, base, **hub)
        adapter.to(device=device, dtype=wanted)
        model = cls(adapter, ContextModuleConfig.from_dict(config["module"]))
        model.active_adapter = adapter_name
        model.owns_base = config.get("base_name_or_path") == BASE_FOLDER
        model.details = CardDetails.read(config.get("card"), directory)
        model.value_maps = ValueMaps.from_dict(
            config.get("value_maps", {}), model.config.concepts, model.config.concept_width
        ).to(adapter.device)
        if "lora" in config:
            model._inject_lora(LoraSettings.from_dict(config["lora"], adapter))
        try:
            load_strictly(model, tensors, directory, model.adapter_state_dict())
        except CheckpointError:
            remove_lora(adapter)  # the caller's base, as it came
            raise
        return model.eval()

    def load_adapter(self, path: str | Path, adapter_name: str, **options: Any) -> None:
        """Load another module that was trained on the same base; `set_adapter` makes it the active one.

        Args:
            path: as for `from_pretrained`.
            adapter_name: what to call it.
            options: `subfolder`, `revision`, `token` and `local_files_only` of `from_pretrained`.

        Raises:
            AdapterError: for a name that is taken or cannot be that of a folder, or a base that trains.
            CheckpointError: as for `from_pretrained`; this model stays as it is.
        """
        self._check_enabled("load_adapter")
        self._check_new(adapter_name)
        if self.base_trains:
            raise AdapterError("the base trains, so no other module fits it: freeze_base() first")
        training = self.training
        with without_lora(self.base):
            other = type(self).from_pretrained(path, base=self.base, **options)
            self._add_waiting(adapter_name, other)
        self.train(training)

    def _save(self, directory: Path, repo_id: str | None) -> None:
        """Write the active module."""
        config = {
            "context_module_version": importlib.metadata.version("context-module"),
            **base_entries(self.base, self.owns_base),
            "module": self.config.to_dict(),
        }
        optional = {
            "value_maps": self.value_maps.sizes,
            "lora": self.lora.to_dict() if self.lora is not None else None,
            "card": self.details.to_dict(),
        }
        config |= {key: value for key, value in optional.items() if value}
        self.packs.warn_unsaved()
        if self.owns_base:  # first: without the adapter's own files the folder is no module yet
            with without_lora(self.base):
                self.base.save(directory / BASE_FOLDER)
        save_adapter(directory, config, self.adapter_state_dict())
        write_card(directory, model_card(self, repo_id), self.details.grid)


def _dtype(dtype: torch.dtype | str | None, older: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is not None and older is not None:
        raise ValueError("dtype and torch_dtype are the same: give one of them")
    asked = older if dtype is None else dtype
    found = getattr(torch, asked.removeprefix("torch."), None) if isinstance(asked, str) else asked
    if asked is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype must be a floating-point type of torch, such as torch.bfloat16, got {asked!r}")
    return found


def _device(device_map: str | int | torch.device | Mapping[str, Any] | None) -> torch.device | None:
    if isinstance(device_map, Mapping) and set(device_map) == {""}:
        device_map = device_map[""]
    if device_map == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    if device_map is None:
        return None
    try:
        return torch.device(device_map)  # type: ignore[arg-type]
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device_map must be one device, such as 'cuda:0', or 'auto', got {device_map!r}: base and module are not "
            "spread over several"
        ) from None
