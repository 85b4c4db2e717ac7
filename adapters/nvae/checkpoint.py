"""Reads ``checkpoint.pt``, the file of the public NVAE training code."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from context_module.adapters.nvae.config import NVAEConfig, NVAEConfigError
from context_module.errors import CheckpointError
from context_module.io import load_pickled

__all__ = ["read_public_checkpoint"]


def read_public_checkpoint(path: str | Path) -> tuple[NVAEConfig, dict[str, Tensor]]:
    """Configuration and tensors of a ``checkpoint.pt`` of the public NVAE training code.

    Raises:
        CheckpointError: for a file that is missing, truncated, foreign, or needs more than tensors, plain values and
            ``argparse.Namespace`` to be read. Nothing in the file is executed.
    """
    content = load_pickled(path, "a checkpoint.pt of the public NVAE training code", [argparse.Namespace])
    parts = content if isinstance(content, Mapping) else {}
    args, tensors, arch_instance = (parts.get(name) for name in ("args", "state_dict", "arch_instance"))
    if (
        not isinstance(args, argparse.Namespace)
        or not isinstance(tensors, Mapping)
        or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items())
        or not (arch_instance is None or isinstance(arch_instance, Mapping))
    ):
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{path} is not an NVAE checkpoint: expected 'args' (a Namespace), 'state_dict' (tensors) and "
            f"'arch_instance' (a dict), got {found}"
        )
    try:
        config = NVAEConfig.from_checkpoint_args(args, arch_instance)
    except NVAEConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{path} has unusable arguments: {error}") from error
    # copies that convolutions without weight norm leave in the file
    return config, {key: value for key, value in tensors.items() if not key.endswith(".weight_normalized")}
