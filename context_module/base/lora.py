"""LoRA on a base's decoder, by peft: which layers it adapts, how it gets in, out, and folded into the base.

Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from context_module.adapters import DecoderAdapter
from context_module.errors import CheckpointError, LoraError, NonFiniteError

__all__ = [
    "ADAPTED_TYPES",
    "LoraSettings",
    "decoder_layers",
    "foreign_lora",
    "inject_lora",
    "insert_lora",
    "is_lora",
    "lora_at",
    "merge_lora",
    "refuse_foreign_lora",
    "refuse_lora",
    "remove_lora",
    "train_lora",
    "without_lora",
]

ADAPTED_TYPES = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
_OURS = "context_module_lora"  # on the layers that `inject_lora` made: LoRA that came with the base has none


@dataclass(frozen=True)
class LoraSettings:
    """What is saved of LoRA beside its tensors.

    Attributes:
        rank: of every update.
        alpha: updates are scaled by alpha / rank.
        target_modules: names of the adapted layers in the base's adapter.

    Raises:
        ValueError: for a rank below 1, or an alpha that is not positive.
    """

    rank: int
    alpha: float
    target_modules: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise ValueError(f"rank must be an integer of at least 1, got {self.rank!r}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be a positive number, got {self.alpha!r}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any, base: nn.Module) -> LoraSettings:
        """The settings for `base` as read from a file; CheckpointError for anything else."""
        try:
            settings = cls(**{**content, "target_modules": tuple(content["target_modules"])})
            for name in settings.target_modules:
                base.get_submodule(name)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise CheckpointError(f"unusable LoRA settings {content!r}: {error}") from error
        return settings


def decoder_layers(base: DecoderAdapter) -> tuple[str, ...]:
    """Names of the decoder's layers that LoRA can adapt: linear (GPT-2's, too), convolution, transposed convolution.

    Layers of other types are left alone, and so are layers whose weight is not a parameter of their own: shared with
    another layer, computed by a parametrisation, or quantised. (NVAE's weight-normalised convolutions are adapted.)

    Raises:
        LoraError: if there is none, or the adapter does not say which parts of the base decode.
    """
    decoder = {layer: None for part in base.decoder_parts() for layer in part.modules()}
    owners = Counter(id(parameter) for _, parameter in base.named_parameters(remove_duplicate=False))
    names = tuple(
        name
        for name, layer in base.named_modules()
        if layer in decoder
        and (isinstance(layer, ADAPTED_TYPES) or _is_gpt2_linear(layer))
        # the output layer of nn.MultiheadAttention, which reads its weight without calling it
        and not isinstance(layer, NonDynamicallyQuantizableLinear)
        and (weight := layer._parameters.get("weight")) is not None
        and weight.is_floating_point()
        and owners[id(weight)] == 1
    )
    if not names:
        found = sorted({type(layer).__name__ for layer in decoder if layer._parameters})
        raise LoraError(
            f"nothing for LoRA to adapt in the decoder of the {base.name!r} base: looked for "
            f"{', '.join(f'nn.{kind.__name__}' for kind in ADAPTED_TYPES)} with weights of their own, the layers with "
            f"parameters are {', '.join(found) or 'none'}"
        )
    return names


def inject_lora(base: DecoderAdapter, settings: LoraSettings) -> None:
    """Give the named layers new LoRA weights, in place. They start without effect, and alone ask for gradients.

    Raises:
        ImportError: without peft.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install context-module[peft]") from error
    from context_module.base.lora_kernels import KernelLora

    # one pattern, as peft takes names in a list for endings of names
    names = "|".join(map(re.escape, settings.target_modules))
    alpha: Any = settings.alpha  # peft asks for a whole number and takes any
    config = peft.LoraConfig(r=settings.rank, lora_alpha=alpha, target_modules=names)
    config._register_custom_module(dict.fromkeys((nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d), KernelLora))
    with warnings.catch_warnings():  # peft says that it finds out itself whose weights lie (in, out), as GPT-2's do
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        peft.inject_adapter_in_model(config, base)
    del base.peft_config  # it would have peft warn of a second LoRA after this one is merged
    for name in settings.target_modules:
        setattr(base.get_submodule(name), _OURS, settings)
    for name, parameter in base.named_parameters():
        if is_lora(name):  # made in the base's type; what trains is in float32 at least
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def is_lora(name: str) -> bool:
    """Whether a parameter or tensor of this name is LoRA's."""
    return ".lora_" in name


def train_lora(base: nn.Module, trains: bool = True) -> None:
    """Let LoRA's weights train, or stand still."""
    for name, parameter in base.named_parameters():
        if is_lora(name):
            parameter.requires_grad_(trains)


def refuse_lora(base: nn.Module) -> None:
    """Raise LoraError if a base to be wrapped carries LoRA already."""
    if names := list(_layers(base)):
        raise LoraError(
            f"the base carries LoRA already, in {len(names)} layers from {names[0]!r}: load the base afresh, or fold "
            "LoRA into it first (merge_lora of the model it was added to)"
        )


def foreign_lora(base: nn.Module) -> list[str]:
    """Names of the layers with LoRA (or another method of peft) that came with the base and is a part of it."""
    return [name for name, layer in base.named_modules() if hasattr(layer, "base_layer") and not hasattr(layer, _OURS)]


def refuse_foreign_lora(base: nn.Module, consequence: str) -> None:
    """Raise LoraError if the base came with LoRA."""
    if names := foreign_lora(base):
        raise LoraError(
            f"the base came with LoRA of its own, in {len(names)} layers from {names[0]!r}, so {consequence}: fold "
            "that into the base first (peft's merge_and_unload())"
        )


def lora_at(base: nn.Module, layer: str) -> LoraSettings | None:
    """The settings of our LoRA on the layer of this name; None without."""
    return getattr(base.get_submodule(layer), _OURS, None)


def remove_lora(base: nn.Module) -> dict[str, nn.Module]:
    """Take our LoRA out of the base, whose own weights are as they always were; returns it, for `insert_lora`."""
    layers = _layers(base)
    insert_lora(base, {name: layer.base_layer for name, layer in layers.items()})
    return layers


def insert_lora(base: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put layers back where `remove_lora` found them."""
    for name, layer in layers.items():
        base.set_submodule(name, layer)


@contextmanager
def without_lora(base: nn.Module) -> Iterator[None]:
    """The original base for a block of code: its own layers under their own names, LoRA that it came with included."""
    adapted = remove_lora(base)
    try:
        yield
    finally:
        insert_lora(base, adapted)


@torch.no_grad()
def merge_lora(base: nn.Module) -> None:
    """Fold LoRA into the base's own weights.

    Raises:
        NonFiniteError: if LoRA's weights are not finite; the base is as it was.
    """
    for name, parameter in base.named_parameters():
        if is_lora(name) and not parameter.isfinite().all():
            raise NonFiniteError(f"{name} holds NaN or infinite values: not merged into the base")
    for layer in _layers(base).values():
        layer.merge()
    remove_lora(base)


def _is_gpt2_linear(layer: nn.Module) -> bool:
    """Whether it is the linear layer of GPT-2 in transformers, which is called Conv1D; found without importing it."""
    return (type(layer).__module__, type(layer).__name__) == ("transformers.pytorch_utils", "Conv1D")


def _layers(base: nn.Module) -> dict[str, Any]:
    """The layers of our LoRA."""
    return {name: layer for name, layer in base.named_modules() if hasattr(layer, _OURS)}
