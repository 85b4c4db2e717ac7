"""Several context modules around one base, in peft's words: load, set, delete and disable adapters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from context_module.adapters import DecoderAdapter
from context_module.base import WrappedBase, insert_lora, remove_lora
from context_module.errors import AdapterError
from context_module.model.packs import ConceptPacks
from context_module.nn import ContextModule, ContextModuleConfig, PosteriorHeads, ValueMaps

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DEFAULT", "SwitchableModules", "check_name"]

DEFAULT = "default"  # peft's name of the adapter that is saved in the folder itself
_PARTS = ("config", "module", "posterior_heads", "value_maps", "packs", "lora", "details")


class SwitchableModules(WrappedBase):
    """A base with one active module in front of it, and others that wait beside it.

    Each module has its own concepts, posterior heads, values, concept packs and LoRA. Only the active one is a part of
    the model: it alone trains, moves and is in the state dict. The others are moved to the base's device when their
    turn comes.

    Attributes:
        active_adapter: the name of the active module.
    """

    config: ContextModuleConfig
    module: ContextModule
    posterior_heads: PosteriorHeads
    value_maps: ValueMaps
    packs: ConceptPacks

    def __init__(self, base: DecoderAdapter) -> None:
        super().__init__(base)
        self.active_adapter = DEFAULT
        self._waiting: dict[str, dict[str, Any]] = {}
        self._disabled = False

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of all modules, the active one first."""
        return (self.active_adapter, *self._waiting)

    def set_adapter(self, adapter_name: str) -> Self:
        """Make another module the active one: its concepts are the model's from now on, its LoRA is on the base.

        Raises:
            AdapterError: for a name that is not loaded.
        """
        self._check_enabled("set_adapter")
        if adapter_name == self.active_adapter:
            return self
        self._check_loaded(adapter_name)
        self._waiting[self.active_adapter] = self._take_out()
        self._put_in(adapter_name)
        return self

    def delete_adapter(self, adapter_name: str) -> Self:
        """Forget a module that is not the active one.

        Raises:
            AdapterError: for the active one, or a name that is not loaded.
        """
        if adapter_name == self.active_adapter:
            raise AdapterError(f"{adapter_name!r} is the active module: set_adapter to another one, then delete it")
        self._check_loaded(adapter_name)
        del self._waiting[adapter_name]
        return self

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The bare base for a block of code: no module, no LoRA of a module.

        ``generate(n)`` then samples from the base's own prior, and calling the model gives the base's own losses. What
        needs a module (interventions, abduction, posteriors, saving) is an AdapterError.
        """
        self._check_enabled("disable_adapter")
        settings, layers = self.lora, remove_lora(self.base)
        self._disabled, self.lora = True, None
        try:
            yield
        finally:
            insert_lora(self.base, layers)
            self._disabled, self.lora = False, settings

    def unfreeze_base(self) -> Self:
        """As of `WrappedBase`; AdapterError if there are other modules, which were trained on the base as it is."""
        self._check_alone("the base cannot train")
        return super().unfreeze_base()

    def merge_lora(self) -> Self:
        """As of `WrappedBase`; AdapterError if there are other modules, which were trained on the base as it is."""
        self._check_alone("LoRA cannot be merged into the base")
        return super().merge_lora()

    def _add_waiting(self, adapter_name: str, other: SwitchableModules) -> None:
        """Take the active module of another model around the same base."""
        self._waiting[adapter_name] = other._take_out()

    def _take_out(self) -> dict[str, Any]:
        """The active module's parts, and its LoRA, which leaves the base."""
        return {name: getattr(self, name) for name in _PARTS} | {"layers": remove_lora(self.base)}

    def _put_in(self, adapter_name: str) -> None:
        parts = self._waiting.pop(adapter_name)
        layers: dict[str, nn.Module] = parts.pop("layers")
        for part in [*parts.values(), *layers.values()]:
            if isinstance(part, nn.Module):
                part.to(self.base.device)
        insert_lora(self.base, layers)
        for name, part in parts.items():
            setattr(self, name, part)
        self.active_adapter = adapter_name
        self.train(self.training)

    @contextmanager
    def _active(self, adapter_name: str) -> Iterator[None]:
        """Another module for a block of code."""
        before = self.active_adapter
        self.set_adapter(adapter_name)
        try:
            yield
        finally:
            self.set_adapter(before)

    def _check_new(self, adapter_name: str) -> None:
        """Raise AdapterError for a name that is taken or cannot be that of a folder."""
        if adapter_name in self.adapters:
            raise AdapterError(
                f"there is a module {adapter_name!r} already; modules: {', '.join(self.adapters)}. Choose another "
                "name, or delete_adapter first"
            )
        check_name(adapter_name)

    def _check_loaded(self, adapter_name: str) -> None:
        if adapter_name not in self.adapters:
            raise AdapterError(
                f"no module is loaded under the name {adapter_name!r}; modules: {', '.join(self.adapters)}"
            )

    def _check_enabled(self, what: str) -> None:
        if self._disabled:
            raise AdapterError(
                f"{what} needs the module, which disable_adapter has switched off: leave its block first"
            )

    def _check_alone(self, consequence: str) -> None:
        if self._waiting:
            raise AdapterError(
                f"{consequence}: the modules {', '.join(self._waiting)} were trained on it as it is. delete_adapter "
                "them first"
            )


def check_name(adapter_name: str) -> None:
    """Raise AdapterError unless a module of this name can be saved, in a subfolder of that name."""
    if not re.fullmatch(r"(?!base$|checkpoint-)\w[\w.-]*", adapter_name):
        raise AdapterError(
            f"a module cannot be named {adapter_name!r}: it is saved in a folder of that name. Use letters, digits, "
            "'_', '-' and '.', but not 'base' or 'checkpoint-...'"
        )
