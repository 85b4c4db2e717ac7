"""The registry of adapters: by name, by the type of a base, by entry point."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from context_module.adapters.contract import DecoderAdapter
from context_module.adapters.pretrained import network_of
from context_module.registry import Registry

__all__ = ["adapt", "available_adapters", "get_adapter", "register_adapter"]


def _wrong(name: str, thing: Any) -> str | None:
    if isinstance(thing, type) and issubclass(thing, DecoderAdapter) and thing.name == name:
        return None
    called = getattr(thing, "name", "no name")
    return f"must be a subclass of DecoderAdapter whose name is {name!r}, got {thing!r} ({called!r})"


_MODULES_OWN = "wrap_decoder takes the fields of ContextModuleConfig besides"

# built-in families are imported on demand; outside packages add theirs through the entry-point group
_ADAPTERS: Registry[type[DecoderAdapter]] = Registry(
    "base",
    "context_module.adapters",
    {
        "nvae": "context_module.adapters.nvae.adapter:NVAEAdapter",
        "lightweight": "context_module.adapters.lightweight:LightweightAdapter",
        "modules": "context_module.adapters.modules:ModulesAdapter",
        "decoder_only": "context_module.adapters.decoder_only:DecoderOnlyAdapter",
        "dcgan": "context_module.adapters.dcgan:DCGANAdapter",
        "diffusers": "context_module.adapters.diffusers.adapter:DiffusersAdapter",
        "denoiser": "context_module.adapters.denoiser.adapter:DenoiserAdapter",
        "transformers": "context_module.adapters.transformers:TransformersAdapter",
        "scvi": "context_module.adapters.scvi:SCVIAdapter",
        "vector_vae": "context_module.adapters.vector_vae:VectorAdapter",
    },
    _wrong,
)


def register_adapter(cls: type[DecoderAdapter]) -> type[DecoderAdapter]:
    """Class decorator that makes an adapter known in this process under its `name`.

    Raises:
        ContextModuleError: for a name that is taken.
        TypeError: for what is no adapter.
    """
    _ADAPTERS.register(cls.name, cls)
    return cls


def available_adapters() -> list[str]:
    """Names of the adapters that are built in, registered, or installed as entry points."""
    return sorted(_ADAPTERS.names())


def get_adapter(name: str) -> type[DecoderAdapter]:
    """The adapter class of that name.

    Raises:
        ValueError: for an unknown name; lists the known ones.
        ImportError: for an installed one that cannot be imported; names its package.
        TypeError: for an installed one that is no adapter, or of another name.
    """
    return _ADAPTERS.get(name)


def adapt(base: object, **options: Any) -> DecoderAdapter:
    """The adapter around `base`: itself if it is one, otherwise by the first registered adapter that matches.

    A `peft.PeftModel` stands for the network in it, whose layers hold its LoRA: that is a part of the base.

    Args:
        base: a loaded model, or whatever else an adapter knows.
        options: what the family's `wrap` takes besides, such as ``encoder`` for a language model.

    Raises:
        TypeError: if no adapter matches (names the type and the known families), or for options of an adapter.
    """
    if isinstance(base, DecoderAdapter):
        if options:
            raise TypeError(
                f"{', '.join(options)}: give this to {type(base).__name__}, which is built already; {_MODULES_OWN}"
            )
        return base
    base = network_of(base)
    # installed ones last: what our own families know takes no import of other packages
    for name in dict.fromkeys([*_ADAPTERS.known(), *available_adapters()]):
        adapter = get_adapter(name)
        if adapter.matches(base):
            wrap: Callable[..., DecoderAdapter] = adapter.wrap
            _check_options(adapter, options)
            return wrap(base, **options)
    raise TypeError(
        f"no adapter for a base of type {type(base).__name__}; known families: {', '.join(available_adapters())}. "
        "Pass an (encoder, decoder, latent_shape) base through ModulesAdapter, or subclass DecoderAdapter."
    )


def _check_options(adapter: type[DecoderAdapter], options: Iterable[str]) -> None:
    """Raise TypeError for an option that a family's `wrap` does not take, nor the class that it passes options to."""
    takes = inspect.signature(adapter.wrap).parameters
    names = [name for name, parameter in takes.items() if parameter.kind is not parameter.VAR_KEYWORD][1:]
    if len(names) + 1 < len(takes):
        names += list(inspect.signature(adapter).parameters)[1:]
    if unknown := [name for name in options if name not in names]:
        raise TypeError(
            f"unknown option {', '.join(unknown)}: a {adapter.name!r} base that is loaded already takes "
            f"{', '.join(names) or 'none'}; {_MODULES_OWN}"
        )
