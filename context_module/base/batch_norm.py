"""Batch-norm statistics for sampling below temperature 1.

A base with batch norm met latents of full spread in training; at a lower temperature its running statistics are off,
and pictures wash out. NVAE's remedy (Vahdat and Kautz 2020) is to re-estimate them from samples at that temperature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from context_module.errors import NonFiniteError

__all__ = ["readjust_batch_norm"]


@torch.no_grad()
def readjust_batch_norm(model: nn.Module, sample: Callable[[], object], steps: int = 500) -> int:
    """Replace running statistics by the average over `steps` calls of `sample`, in place.

    Only layers that `sample` runs through change: an encoder keeps its own. Weights never change.

    Args:
        model: holds the batch norms, e.g. an `NVAE` or a `ContextualDecoder`.
        sample: draws one batch through the model, e.g. ``lambda: net.sample_logits(16, temperature=0.7)`` or
            ``lambda: model.generate(16, temperature=0.7)``.
        steps: number of batches averaged.

    Returns:
        the number of layers whose statistics changed.

    Raises:
        NonFiniteError: if a statistic became NaN or infinite; everything is then as it was.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    modes = [(norm.momentum, norm.training) for norm in norms]
    # `sample` may put the model into eval mode: the batch norms are switched as they are entered
    hooks = [norm.register_forward_pre_hook(lambda module, _: module.train() and None) for norm in norms]
    changed = 0
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over all steps
        for _ in range(steps):
            sample()
        for norm, old in zip(norms, before, strict=True):
            if not norm.num_batches_tracked:
                norm.load_state_dict(old, strict=False)  # never ran
            else:
                changed += 1
        if not all(buffer.isfinite().all() for norm in norms for buffer in norm.buffers()):
            raise NonFiniteError(
                "readjusting batch norm gave NaN or infinite statistics; the old ones are back. "
                "Sample in float32, or at a temperature nearer to 1"
            )
    except BaseException:
        for norm, old in zip(norms, before, strict=True):
            norm.load_state_dict(old, strict=False)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (momentum, training) in zip(norms, modes, strict=True):
            norm.momentum = momentum
            norm.train(training)
    return changed
