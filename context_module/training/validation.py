"""Mean losses over data that is kept for validation: the same for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from context_module.data import LabelledDataset, evaluation_loader
from context_module.objective import Objective

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["mean_losses", "random_numbers_of"]


@torch.no_grad()
def mean_losses(
    accelerator: Accelerator,
    objective: Objective,
    data: LabelledDataset,
    *,
    batch_size: int,
    seed: int,
    num_workers: int = 0,
) -> dict[str, float]:
    """Losses of an objective in eval mode, averaged over all images; all processes take part, and get the same.

    Each process takes every so manieth batch as a whole, with random numbers of that batch's own: distances within a
    batch, and so the weights that are kept, do not depend on how many processes there are.
    """
    from accelerate.utils import gather_object

    rank, world = accelerator.process_index, accelerator.num_processes
    loader = evaluation_loader(data, batch_size, rank=rank, world_size=world, num_workers=num_workers)
    sums: list[tuple[int, int, dict[str, Tensor]]] = []
    for number, batch in enumerate(loader):
        place = rank + number * world
        with random_numbers_of(accelerator.device, seed + place):
            on_device = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            losses = objective(on_device, 1.0)
        sums.append((place, len(batch["mask"]), {name: value.float().sum() for name, value in losses.items()}))
    numbers = [(place, count, {name: value.item() for name, value in found.items()}) for place, count, found in sums]
    parts = sorted(gather_object(numbers), key=lambda part: part[0])
    total = sum(count for _, count, _ in parts)
    names = dict.fromkeys(name for _, _, found in parts for name in found)
    return {name: sum(found.get(name, 0.0) for _, _, found in parts) / total for name in names}


@contextmanager
def random_numbers_of(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers of a seed, without touching those of the training."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
