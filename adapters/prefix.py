"""What virtual tokens leave in the cache of a causal language model, for it to go on from."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = ["Prefix", "attending", "run", "silent_cache"]


class Prefix:
    """The caches of B texts that follow on the same tokens, the last of them virtual: changed by a decoder input.

    Layers that attend hold keys and values (B, heads, tokens, head width), to whose last ones changes are added. What
    other layers of hybrid models hold (states of convolutions and recurrences) stays as it is.

    Args:
        silent: the cache of one row of these tokens, see `silent_cache`.
        changes: (B, layers that attend, 2, heads, virtual tokens, head width).
    """

    def __init__(self, silent: Any, changes: Tensor) -> None:
        self.silent, self.changes = silent, changes

    def __len__(self) -> int:
        """B."""
        return len(self.changes)

    @property
    def device(self) -> torch.device:
        return self.changes.device

    def cache(self, grows: bool = True) -> Any:
        """A new one, for transformers.

        Args:
            grows: keeps what runs after it, for more to come. Otherwise it stays as it is, whatever runs and however
                often, as gradients and checkpoints of them need it.
        """
        cache = copy.deepcopy(self.silent)
        cache.reorder_cache(torch.zeros(len(self), dtype=torch.int64, device=self.device))  # from one row to B
        for layer, change in zip(attending(cache), self.changes.unbind(1), strict=True):
            change = F.pad(change, (0, 0, layer.keys.shape[-2] - change.shape[-2], 0))
            layer.keys = layer.keys + change[:, 0].to(layer.keys)
            layer.values = layer.values + change[:, 1].to(layer.values)
        if not grows:
            for layer in cache.layers:
                _hold_still(layer)
        return cache


@torch.no_grad()
def silent_cache(net: Any, ids: Sequence[int]) -> Any:
    """The cache after one row of these tokens.

    Raises:
        TypeError: for a model without keys and values of these tokens, and of one size in all layers that attend.
    """
    from transformers import DynamicCache

    name = type(net).__name__
    try:
        cache = DynamicCache(config=net.config)
        run(net, torch.tensor([list(ids)], device=net.get_input_embeddings().weight.device), cache)
        found = {tuple(states.shape) for layer in attending(cache) for states in (layer.keys, layer.values)}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # of caches of a class of its own
        raise TypeError(f"{_no_cache(name)} ({type(error).__name__}: {error})") from error
    if not found:
        raise TypeError(_no_cache(name))
    if not all(map(_is_filled, cache.layers)):
        raise TypeError(
            f"a {name} keeps what some of its layers have read outside of its cache, where virtual tokens go: it is "
            "not supported"
        )
    if len(found) > 1 or {shape[2] for shape in found} != {len(ids)}:
        raise TypeError(
            f"the layers of a {name} have keys and values of several sizes or of fewer than {len(ids)} tokens "
            f"({', '.join(map(str, sorted(found)))}), which virtual tokens cannot fill"
        )
    return cache


def attending(cache: Any) -> list[Any]:
    """The layers of a cache that hold keys and values, in order."""
    return [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]


def run(net: Any, ids: Tensor, cache: Any) -> Tensor:
    """Logits (B, T, vocabulary), float32, of token ids (B, T) after those in the cache, which then holds all."""
    name = (
        "cache" if "cache" in inspect.signature(net.forward).parameters else "past_key_values"
    )  # until transformers 5
    with _checkpoints(net):
        return net(ids, use_cache=True, **{name: cache}).logits.float()


def _is_filled(layer: Any) -> bool:
    """Whether a layer of a cache holds anything; layers that look at one token at a time have nothing to hold."""
    held = [
        part for value in vars(layer).values() for part in (value.values() if isinstance(value, dict) else [value])
    ]
    return any(isinstance(part, Tensor) for part in held) or type(layer).__name__ == "DummyLayer"


def _no_cache(name: str) -> str:
    return (
        f"a {name} has no key-value cache (DynamicCache of transformers) to put virtual tokens in, as models without "
        "attention (Mamba, RWKV, ...) have none: supported are causal language models with attention in some of their "
        "layers (GPT-2, Llama, Qwen, LFM2, Jamba, ...)"
    )


def _hold_still(layer: Any) -> None:
    """Have a layer of a cache give what it holds with what is new, and keep nothing of that."""

    def update(keys: Tensor, values: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([layer.keys, keys], dim=-2), torch.cat([layer.values, values], dim=-2)

    def update_conv_state(states: Tensor, state_idx: int = 0, **options: Any) -> Tensor:
        return torch.cat([layer.conv_states[state_idx], states], dim=-1)

    def update_recurrent_state(states: Tensor, state_idx: int = 0, **options: Any) -> Tensor:
        return states

    for method in (update, update_conv_state, update_recurrent_state):
        if hasattr(layer, method.__name__):
            setattr(layer, method.__name__, method)


@contextmanager
def _checkpoints(net: Any) -> Iterator[None]:
    """Gradient checkpoints as they were asked for, with a cache: transformers' own drop it.

    Raises:
        TypeError: for a model that has its own way of checkpointing.
    """
    flagged = [module for module in net.modules() if getattr(module, "gradient_checkpointing", False)]
    if not flagged or not net.training:
        yield
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in flagged if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise TypeError(
            f"gradient checkpointing of a {type(net).__name__} drops the key-value cache, where virtual tokens are: "
            "switch it off, model.gradient_checkpointing_disable()"
        )
    try:
        for module in flagged:
            module.gradient_checkpointing = False
        for layer in layers if torch.is_grad_enabled() else ():
            layer.forward = functools.partial(checkpoint, functools.partial(_forward, layer), use_reentrant=False)
        yield
    finally:
        for module in flagged:
            module.gradient_checkpointing = True
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _forward(layer: Any, *args: Any, **options: Any) -> Any:
    """A layer's forward without transformers' checkpoint, when gradients run it again, too."""
    before, layer.gradient_checkpointing = layer.gradient_checkpointing, False
    try:
        return type(layer).forward(layer, *args, **options)
    finally:
        layer.gradient_checkpointing = before
