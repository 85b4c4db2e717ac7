"""What makes a base the base it is: a hash of its weights."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from context_module.base.lora import without_lora

__all__ = ["fingerprint"]

_SAMPLED = 4096  # values hashed per tensor: enough to tell two trainings apart, quick on a base of gigabytes


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@torch.no_grad()
def fingerprint(base: nn.Module) -> str:
    """A hash of a base's weights: names, shapes and up to 4,096 evenly spaced values of each tensor.

    Values are rounded to bfloat16, so a base is the same in float32 and in bfloat16. Batch-norm statistics do not
    count: they may be readjusted for sampling (`context_module.base.batch_norm`). Nor does LoRA that trained with a
    module; LoRA that the base came with does.
    """
    digest = hashlib.sha256()
    with without_lora(base):
        tensors = base.state_dict()
    ours = tuple(f"{part}." for part in getattr(base, "own_parts", ()))
    for name, tensor in sorted(tensors.items()):
        if name.rpartition(".")[2] in _STATISTICS or name.startswith(ours):
            continue
        values = tensor.detach().flatten()
        values = values[:: max(1, len(values) // _SAMPLED)]
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(values.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:32]
