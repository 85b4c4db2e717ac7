"""The posterior means that a model gives to images: what its codes are, for metrics of a representation."""

from __future__ import annotations

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter
from context_module.data import ContextDataset, evaluation_loader
from context_module.model import ContextualDecoder

__all__ = ["leading_codes", "posterior_means"]

_MOST_CODES = 64  # of a base alone, whose latents may have thousands of entries


@torch.no_grad()
def posterior_means(
    model: ContextualDecoder | DecoderAdapter, images: ContextDataset | Tensor, batch_size: int = 250
) -> Tensor:
    """The mean of q(z | x), float32 (n, d), on the CPU: of all the noise, or of a base's own latent.

    No model is told of contexts here: a context module takes every image as observational.

    Args:
        model: in eval mode.
        images: a data set, or a tensor (n, C, H, W) in [0, 1].
        batch_size: images at a time.
    """
    if isinstance(images, Tensor):
        batches = images.split(batch_size)
    else:
        batches = (batch["x"] for batch in evaluation_loader(images, batch_size))
    device = model.base.device if isinstance(model, ContextualDecoder) else model.device
    means = []
    for x in batches:
        x = x.to(device)
        if isinstance(model, ContextualDecoder):
            means.append(model.posterior(x).mean)
        else:
            means.append(model.encode(x.to(model.dtype)).mean.flatten(1))
    return torch.cat([mean.float().cpu() for mean in means])


def leading_codes(model: ContextualDecoder | DecoderAdapter, means: Tensor) -> Tensor:
    """One number per part of a representation (n, k), as metrics of disentanglement ask for.

    A noise block is one part of a context module, of several dimensions: its code is the projection onto the block's
    leading direction, the one along which its posterior means vary most. A base alone has no blocks: its codes are
    the at most 64 entries of its latent that vary most.

    Args:
        model: whose posterior means they are.
        means: (n, d), as of `posterior_means`.
    """
    if isinstance(model, DecoderAdapter):
        varying = means.var(0).topk(min(_MOST_CODES, means.shape[1])).indices
        return means[:, varying.sort().values]
    blocks = means.unflatten(1, (-1, model.config.noise_width)).transpose(0, 1)  # (blocks, n, width)
    centred = blocks - blocks.mean(1, keepdim=True)
    directions = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -1:]  # of the largest eigenvalue
    return (centred @ directions)[..., 0].t()
