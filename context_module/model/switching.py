"""Several modules around one base, methods of `ContextualDecoder` in peft's words: load, set, delete and disable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from context_module.base import HeldBase, without_lora
from context_module.errors import AdapterError
from context_module.model.slot import ModuleSlot

if TYPE_CHECKING:
    from context_module.model.decoder import ContextualDecoder
    from context_module.nn import ContextModuleConfig

__all__ = [
    "DEFAULT",
    "WaitingModules",
    "check_loaded",
    "check_name",
    "delete_adapter",
    "disable_adapter",
    "load_adapter",
    "set_adapter",
]

Model = TypeVar("Model", bound="ContextualDecoder")

DEFAULT = "default"  # peft's name of the adapter that is saved in the folder itself


class WaitingModules:
    """The modules that are loaded and are not the active one: they neither train nor move.

    Args:
        held: the base that they share.
    """

    def __init__(self, held: HeldBase) -> None:
        self._held = held
        self._slots: dict[str, ModuleSlot] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they came."""
        return tuple(self._slots)

    @property
    def configs(self) -> dict[str, ContextModuleConfig]:
        """Their configurations, by name."""
        return {name: slot.config for name, slot in self._slots.items()}

    def swap(self, name: str, active_name: str, active: ModuleSlot) -> ModuleSlot:
        """Take the module of that name out, to be the active one, and let the active one wait; so does its LoRA."""
        active.taken_lora = self._held.take_lora()
        chosen = self._slots.pop(name).to(self._held.base.device)
        self._slots[active_name] = active
        taken, chosen.taken_lora = chosen.taken_lora, None
        if taken is not None:
            self._held.put_lora(taken)
        return chosen

    def add(self, name: str, slot: ModuleSlot, owner: HeldBase) -> None:
        """Let the active module of another model wait here, with its LoRA, which leaves that model's base."""
        slot.taken_lora = owner.take_lora()
        self._slots[name] = slot

    def delete(self, name: str) -> None:
        """Forget one."""
        del self._slots[name]


def load_adapter(self: ContextualDecoder, path: str | Path, adapter_name: str, **options: Any) -> None:
    """Load another module that was trained on the same base; `set_adapter` makes it the active one.

    Args:
        path: as for `from_pretrained`.
        adapter_name: what to call it.
        options: ``subfolder``, ``revision``, ``token`` and ``local_files_only`` of `from_pretrained`.

    Raises:
        AdapterError: for a name that is taken or cannot be that of a folder, or a base that trains.
        CheckpointError: as for `from_pretrained`; this model stays as it is.
    """
    self.check_enabled("load_adapter")
    _check_new(self, adapter_name)
    if self.held.trains:
        raise AdapterError("the base trains, so no other module fits it: freeze_base() first")
    with without_lora(self.base):
        other = type(self).from_pretrained(path, base=self.base, **options)
        self.waiting.add(adapter_name, other.slot, other.held)
    self.train(self.training)


def set_adapter(self: Model, adapter_name: str) -> Model:
    """Make another module the active one: its concepts are the model's from now on, its LoRA is on the base.

    Raises:
        AdapterError: for a name that is not loaded, or several.
    """
    self.check_enabled("set_adapter")
    if not isinstance(adapter_name, str):
        raise AdapterError(
            f"one module is active at a time, got {adapter_name!r}: each makes whole decoder inputs, which do not add "
            "up. What is to be composed is trained as one module's concepts, or added to it: add_concept"
        )
    if adapter_name == self.active_adapter:
        return self
    check_loaded(self, adapter_name)
    self.slot = self.waiting.swap(adapter_name, self.active_adapter, self.slot)
    self.active_adapter = adapter_name
    self.train(self.training)
    return self


def delete_adapter(self: Model, adapter_name: str) -> Model:
    """Forget a module that is not the active one.

    Raises:
        AdapterError: for the active one, or a name that is not loaded.
    """
    if adapter_name == self.active_adapter:
        raise AdapterError(f"{adapter_name!r} is the active module: set_adapter to another one, then delete it")
    check_loaded(self, adapter_name)
    self.waiting.delete(adapter_name)
    return self


@contextmanager
def disable_adapter(self: ContextualDecoder) -> Iterator[None]:
    """The bare base for a block of code: no module, no LoRA of a module.

    ``generate(n)`` then samples from the base's own prior, and calling the model gives the base's own losses. What
    needs a module (interventions, abduction, posteriors, saving) is an AdapterError.
    """
    self.check_enabled("disable_adapter")
    taken, self.disabled = self.held.take_lora(), True
    try:
        yield
    finally:
        self.held.put_lora(taken)
        self.disabled = False


def check_name(adapter_name: str) -> None:
    """Raise AdapterError unless a module of this name can be saved, in a subfolder of that name."""
    if not re.fullmatch(r"(?!base$|checkpoint-)\w[\w.-]*", adapter_name):
        raise AdapterError(
            f"a module cannot be named {adapter_name!r}: it is saved in a folder of that name. Use letters, digits, "
            "'_', '-' and '.', but not 'base' or 'checkpoint-...'"
        )


def check_loaded(model: ContextualDecoder, *adapter_names: str) -> None:
    """Raise AdapterError for a name under which no module is loaded."""
    for name in adapter_names:
        if name not in model.adapters:
            raise AdapterError(f"no module is loaded under the name {name!r}; modules: {', '.join(model.adapters)}")


def _check_new(model: ContextualDecoder, adapter_name: str) -> None:
    if adapter_name in model.adapters:
        raise AdapterError(
            f"there is a module {adapter_name!r} already; modules: {', '.join(model.adapters)}. Choose another "
            "name, or delete_adapter first"
        )
    check_name(adapter_name)
