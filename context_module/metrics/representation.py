"""The codes that a subject gives to images, for metrics of a representation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from context_module.data import ContextDataset
from context_module.metrics.case import batches

__all__ = ["codes_of", "leading_codes"]

_MOST_CODES = 64  # of codes without blocks, of which there may be thousands


@torch.no_grad()
def codes_of(subject: Any, images: ContextDataset | Tensor, batch_size: int = 250) -> Tensor:
    """The codes of images, float32 (n, d), on the CPU.

    Args:
        subject: a `Subject` with ``codes``, in eval mode.
        images: a data set, or a tensor (n, C, H, W) in [0, 1].
        batch_size: images at a time.
    """
    codes = [subject.codes(x.to(subject.device)) for x in batches(images, batch_size)]
    return torch.cat([some.float().cpu() for some in codes])


def leading_codes(codes: Tensor, width: int | None) -> Tensor:
    """One number per part of a representation (n, k), as metrics of disentanglement ask for.

    A block is one part of several dimensions: its code is the projection onto its leading direction, the one along
    which it varies most. Without blocks every code is a part: the at most 64 that vary most are taken.

    Args:
        codes: (n, d), as of `codes_of`.
        width: `Subject.code_width`.
    """
    if width is None:
        varying = codes.var(0).topk(min(_MOST_CODES, codes.shape[1])).indices
        return codes[:, varying.sort().values]
    blocks = codes.unflatten(1, (-1, width)).transpose(0, 1)  # (blocks, n, width)
    centred = blocks - blocks.mean(1, keepdim=True)
    directions = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -1:]  # of the largest eigenvalue
    return (centred @ directions)[..., 0].t()
