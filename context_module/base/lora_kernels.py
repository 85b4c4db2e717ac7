"""LoRA of convolution kernels, plain, grouped, transposed or weight-normalised: the layer that peft is told to use."""

from __future__ import annotations

import math
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

__all__ = ["KernelLora"]


class KernelLora(nn.Module, LoraLayer):
    """A convolution whose kernel is its own plus ``alpha / rank * B A``; as a matrix, with a row per first index.

    For a plain convolution that is peft's own ``lora.Conv2d``, which builds two convolutions instead and so takes
    neither transposed nor weight-normalised layers, drops dilation, and cannot merge grouped ones. It works on the
    kernel as stored: a layer that normalises its kernel keeps its norms. Merged, the layer gives the same bits.

    Args:
        base_layer: the convolution; its ``weight`` is a parameter of its own.
        adapter_name: peft's name of the adapter.
        r: rank.
        lora_alpha: see above.
    """

    base_layer: Any  # typed loosely: peft's own kinds of layers hold modules where this one has parameters
    lora_A: Any
    lora_B: Any

    def __init__(self, base_layer: nn.Module, adapter_name: str, r: int = 8, lora_alpha: float = 8, **_: Any) -> None:
        super().__init__()
        LoraLayer.__init__(self, base_layer)
        weight: Tensor = self.base_layer.weight
        rows, columns = weight.flatten(1).shape
        self.lora_A = nn.ParameterDict({adapter_name: weight.new_empty(r, columns)})
        self.lora_B = nn.ParameterDict({adapter_name: weight.new_zeros(rows, r)})
        nn.init.kaiming_uniform_(self.lora_A[adapter_name], a=math.sqrt(5))
        self.r[adapter_name], self.lora_alpha[adapter_name] = r, lora_alpha
        self.scaling[adapter_name] = lora_alpha / r
        self.set_adapter(adapter_name)

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        return torch.func.functional_call(self.base_layer, {"weight": self._kernel()}, (x, *args), options)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold the update into the convolution's own kernel."""
        self.base_layer.weight.copy_(self._kernel())
        self.merged_adapters.extend(self.active_adapters)

    def _kernel(self) -> Tensor:
        weight = self.base_layer.weight
        (name,) = self.active_adapters
        with torch.autocast(weight.device.type, enabled=False):  # a product of weights: as exact in training as later
            update = self.scaling[name] * self.lora_B[name] @ self.lora_A[name]
            return (weight + update.view_as(weight)).to(weight.dtype)

    def _get_in_out_features(self, module: nn.Module) -> tuple[None, None]:
        return None, None  # peft would warn of a type it does not know
