"""Things known by name: what is built in, registered in this process, or installed by another package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from context_module.errors import ContextModuleError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """A door for others: names, and what each stands for, imported when it is asked for.

    Args:
        what: what the things are called in errors, such as ``metric``.
        group: of the entry points by which installed packages add theirs.
        built_in: name -> ``module:attribute`` of our own, in the order they are listed in.
        check: says what is wrong with a thing of that name from elsewhere, or None.

    >>> registry = Registry("fruit", "orchard.fruit", {}, lambda name, thing: None if thing else "must be ripe")
    >>> registry.register("apple", "red")
    >>> registry.get("apple"), registry.names()
    ('red', ['apple'])
    """

    def __init__(
        self, what: str, group: str, built_in: Mapping[str, str], check: Callable[[str, Any], str | None]
    ) -> None:
        self.what, self.group, self.built_in, self._check = what, group, dict(built_in), check
        self._registered: dict[str, T] = {}

    def register(self, name: str, thing: T) -> None:
        """Make a thing known in this process.

        Raises:
            ContextModuleError: for a name that is taken by another.
            TypeError: for a thing that is none.
        """
        if name in self.names() and self._registered.get(name) is not thing:
            raise ContextModuleError(f"a {self.what} named {name!r} exists already: choose another name")
        if wrong := self._check(name, thing):
            raise TypeError(f"the {self.what} {name!r} {wrong}")
        self._registered[name] = thing

    def names(self) -> list[str]:
        """All names: those built in, in their order, then the others, sorted."""
        others = {*self._registered, *(point.name for point in entry_points(group=self.group))}
        return [*self.built_in, *sorted(others - set(self.built_in))]

    def known(self) -> list[str]:
        """The names of things that are registered, then built in: those that no other package need be imported for."""
        return [*self._registered, *self.built_in]

    def get(self, name: str) -> T:
        """What a name stands for.

        Raises:
            ValueError: for an unknown name; lists the known ones.
            ImportError: for an installed one that cannot be imported; names its package.
            TypeError: for an installed one that is not what it should be.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            thing: T = getattr(importlib.import_module(module), attribute)
            return thing
        for point in entry_points(group=self.group):
            if point.name == name:
                return self._installed(point)
        raise ValueError(f"unknown {self.what} {name!r}: expected some of {', '.join(self.names())}")

    def _installed(self, point: EntryPoint) -> T:
        """What an installed package adds; importing it may register it under that name, too."""
        package = f" of {point.dist.name}" if point.dist is not None else ""
        try:
            thing = point.load()
        except Exception as error:  # whatever another package does on import
            raise ImportError(
                f"the {self.what} {point.name!r}{package} cannot be imported ({point.value}: {error}): "
                "mend or uninstall it"
            ) from error
        if wrong := self._check(point.name, thing):
            raise TypeError(f"the entry point {point.name!r}{package} of a {self.what} {wrong}")
        self._registered[point.name] = thing
        return thing
