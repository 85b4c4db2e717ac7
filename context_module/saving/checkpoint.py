"""A saved context module: ``adapter_config.json``, ``adapter_model.safetensors`` and a model card in one folder."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from context_module.adapters import DecoderAdapter, adapt, get_adapter, load_base
from context_module.base import fingerprint, foreign_lora, same_weights
from context_module.errors import CheckpointError
from context_module.io import (
    PLACE_OPTIONS,
    SEAL,
    broken_seal,
    is_hub_id,
    load_tensors,
    local_folder,
    read_json,
    save_tensors,
    sealed,
    write_json,
)
from context_module.nn import ContextModuleConfig
from context_module.saving.details import CardDetails
from context_module.saving.layout import BASE_FOLDER, CONFIG_NAME, FILES, WEIGHTS_NAME, named_modules

__all__ = ["BaseRecord", "Checkpoint"]

_KINDS: Mapping[str, tuple[type, ...]] = {
    "base_adapter": (str,),
    "base_fingerprint": (str,),
    "base_name_or_path": (str, type(None)),
    "base_revision": (str, type(None)),
    "base_lora": (int, type(None)),
}


@dataclass(frozen=True)
class BaseRecord:
    """Which base a module was trained on, and where it was.

    Attributes:
        family: name of its adapter.
        fingerprint: see `context_module.base.fingerprint`.
        place: a path, a Hub id, or ``base`` for one that is saved with the module; None if it is not known.
        revision: of its Hub repository.
        options: that it was loaded with.
        lora_layers: the number of layers with LoRA that it came with.
    """

    family: str
    fingerprint: str
    place: str | None = None
    revision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    lora_layers: int = 0

    @classmethod
    def of(cls, base: DecoderAdapter, owned: bool) -> BaseRecord:
        """A base in its state at the time; one that is `owned` is saved with the module."""
        options = {name: value for name, value in base.options.items() if not (owned and name in PLACE_OPTIONS)}
        revision = options.pop("revision", None)
        place = BASE_FOLDER if owned else base.source
        return cls(base.name, fingerprint(base), place, revision, options, len(foreign_lora(base)))

    @property
    def owned(self) -> bool:
        """Whether it is saved with the module."""
        return self.place == BASE_FOLDER

    def load(self, directory: Path, base: object = None, **hub: Any) -> DecoderAdapter:
        """The base of a saved module: `base`, or without it the one at its place, with its options.

        Args:
            directory: where the module was read.
            base: as for `adapt`, or where it lies now: a path or Hub id.
            hub: `token` and `local_files_only`, for a base on the Hub.

        Raises:
            CheckpointError: if the place is not known, if there is none where it says, or if the weights are not those
                that the module was trained on.
        """
        given = base is not None
        if base is None or isinstance(base, str | Path):
            base = self._read(directory, base, **hub)
        adapter = adapt(base)
        found = fingerprint(adapter)
        if not same_weights(found, self.fingerprint):
            at = f"{self.place or 'no path recorded'}{f', revision {self.revision}' if self.revision else ''}"
            lora = ""
            if self.lora_layers:
                has = len(foreign_lora(adapter))
                lora = (
                    f" (that base came with LoRA of its own, in {self.lora_layers} layers; this one has it in {has})"
                )
            raise CheckpointError(
                f"{directory} was trained on another base: its {self.family!r} base ({at}) has fingerprint "
                f"{self.fingerprint}, the {adapter.name!r} base {'given' if given else 'that is there now'} has "
                f"{found}{lora}. Pass the base it was trained on"
            )
        return adapter

    def _read(self, directory: Path, elsewhere: str | Path | None, **hub: Any) -> DecoderAdapter:
        options = dict(self.options)
        if elsewhere is not None:
            place: str | Path = elsewhere
        elif self.place:
            place, options["revision"] = directory / self.place if self.owned else self.place, self.revision
        else:
            raise CheckpointError(f"{directory} does not say where its base is: pass base=...")
        if is_hub_id(place) or is_hub_id(options.get("encoder")):
            known = get_adapter(self.family).load_options
            options |= {name: value for name, value in hub.items() if name in known}
        try:
            return load_base(self.family, place, **options)
        except CheckpointError as error:
            raise CheckpointError(f"the base of {directory} cannot be loaded: {error}. Pass base=...") from error


@dataclass
class Checkpoint:
    """A context module as it lies in a folder.

    Attributes:
        config: of the module.
        base: what it was trained on.
        tensors: of module, posterior heads, value maps, LoRA, and parts of the base that are this library's.
        value_maps: of every concept that can be set to a value, the number of entries of its map.
        lora: settings of LoRA on the base's decoder, as plain values; None without.
        details: what its card says of data and scores.
        broken: what is wrong with files that were read, where nothing else is: they are not as they were written.
    """

    config: ContextModuleConfig
    base: BaseRecord
    tensors: Mapping[str, Tensor]
    value_maps: dict[str, int] = field(default_factory=dict)
    lora: dict[str, Any] | None = None
    details: CardDetails = field(default_factory=CardDetails)
    broken: CheckpointError | None = None

    def save(self, directory: str | Path) -> None:
        """Write configuration and tensors; each file is whole or absent."""
        directory, base = Path(directory), self.base
        required = {
            "context_module_version": importlib.metadata.version("context-module"),
            "base_adapter": base.family,
            "base_name_or_path": base.place,
            "base_fingerprint": base.fingerprint,
            "module": self.config.to_dict(),
        }
        directory.mkdir(parents=True, exist_ok=True)
        save_tensors(directory / WEIGHTS_NAME, self.tensors)
        optional = {
            "base_revision": base.revision,
            "base_options": dict(base.options),
            "base_lora": base.lora_layers,
            "value_maps": self.value_maps,
            "lora": self.lora,
            "card": self.details.to_dict(),
        }
        content = required | {name: value for name, value in optional.items() if value}
        seal = sealed(directory / WEIGHTS_NAME, _sealed_part(content))
        write_json(directory / CONFIG_NAME, {**content, SEAL: seal})

    @classmethod
    def read(cls, path: str | Path, *, subfolder: str | None = None, **options: Any) -> tuple[Checkpoint, Path]:
        """What `save` wrote, in a folder or a Hugging Face Hub repository. A local folder never touches the network.

        Args:
            path: the folder or repository.
            subfolder: the folder in it, of a module with a name.
            options: `revision`, `token` and `local_files_only`, as everywhere in huggingface_hub.

        Returns:
            the checkpoint, its tensors on the CPU, and the local folder it was read from.

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
        content, tensors = read_json(directory / CONFIG_NAME), load_tensors(directory / WEIGHTS_NAME)
        missing = [key for key in ("base_adapter", "base_fingerprint", "module") if key not in content]
        if missing:
            raise CheckpointError(f"{directory} holds no context module: no {', '.join(missing)} in its configuration")
        for name, kinds in _KINDS.items():
            if not isinstance(content.get(name), kinds) or isinstance(content.get(name), bool):
                raise CheckpointError(f"{directory / CONFIG_NAME} has an unusable {name}: {content.get(name)!r:.200}")
        base_options = content.get("base_options", {})
        if not isinstance(base_options, dict):
            raise CheckpointError(f"{directory} has unusable base_options in its configuration: {base_options!r}")
        base = BaseRecord(
            family=content["base_adapter"],
            fingerprint=content["base_fingerprint"],
            place=content.get("base_name_or_path"),
            revision=content.get("base_revision"),
            options=base_options,
            lora_layers=content.get("base_lora") or 0,
        )
        checkpoint = cls(
            config=ContextModuleConfig.from_dict(content["module"]),
            base=base,
            tensors=tensors,
            value_maps=content.get("value_maps", {}),
            lora=content.get("lora"),
            details=CardDetails.read(content.get("card"), directory),
            broken=broken_seal(directory / WEIGHTS_NAME, _sealed_part(content), content.get(SEAL)),
        )
        return checkpoint, directory


def _sealed_part(content: Mapping[str, Any]) -> dict[str, Any]:
    """Of a configuration what belongs to the tensors; where a base lies, and what a card says, may change."""
    names = ("base_adapter", "base_fingerprint", "module", "value_maps", "lora")
    return {name: content[name] for name in names if name in content}
