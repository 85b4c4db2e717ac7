"""What makes a base the base it is: a hash of its weights."""

from __future__ import annotations

import hashlib
import re
from operator import itemgetter

import torch
from torch import nn

from context_module.base.lora import without_lora

__all__ = ["fingerprint", "plain_name", "same_weights"]

_SAMPLED = 4096  # values hashed per tensor: enough to tell two trainings apart, quick on a base of gigabytes


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_WRAPPED = re.compile(r"(^|\.)(_orig_mod|module)(?=\.)")  # what torch.compile and data parallelism call what they wrap
_ROUNDED = (torch.bfloat16, torch.float16)


@torch.no_grad()
def fingerprint(base: nn.Module) -> str:
    """A hash of a base's weights: names, shapes and up to 4,096 evenly spaced values of each tensor.

    It is two hashes, of values rounded to bfloat16 and to float16, joined by a hyphen: a base in one of these types
    and the same one in float32 have one of them in common, see `same_weights`. Batch-norm statistics do not count:
    they may be readjusted for sampling (`context_module.base.batch_norm`). Nor does LoRA that trained with a module;
    LoRA that the base came with does. Nor do the names of wrappers around its parts, such as `torch.compile`'s.
    """
    digests = [hashlib.sha256() for _ in _ROUNDED]
    with without_lora(base):
        tensors = base.state_dict()
    ours = tuple(f"{part}." for part in getattr(base, "own_parts", ()))
    for name, tensor in sorted(((plain_name(name), tensor) for name, tensor in tensors.items()), key=itemgetter(0)):
        if name.rpartition(".")[2] in _STATISTICS or name.startswith(ours):
            continue
        values = tensor.detach().flatten()
        values = values[:: max(1, len(values) // _SAMPLED)]
        for digest, dtype in zip(digests, _ROUNDED, strict=True):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(values.to("cpu", dtype).view(torch.int16).numpy().tobytes())
    return "-".join(digest.hexdigest()[:32] for digest in digests)


def plain_name(name: str) -> str:
    """The name of a tensor, or module, without those of wrappers around parts of it.

    >>> plain_name("vae.decoder._orig_mod.conv.weight")
    'vae.decoder.conv.weight'
    """
    return _WRAPPED.sub("", name).lstrip(".")


def same_weights(one: str, other: str) -> bool:
    """Whether two fingerprints may be those of the same weights, in types of their own.

    Those of earlier versions are one hash, of values rounded to bfloat16.
    """
    return any(a == b for a, b in zip(one.split("-"), other.split("-"), strict=False))
