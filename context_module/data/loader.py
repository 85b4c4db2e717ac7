"""Batches that mix contexts in equal shares, as a pure function of the seed and the step.

Slot t = step * batch_size + i of a run belongs to context t mod C, and is that context's image number t div C in an
endless stream of its permutations, each seeded by (seed, context, cycle). Nothing is remembered: any number of workers
or processes sees the same batches, and a run resumes at any step by being told the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from context_module.data.labelled import LabelledDataset
from context_module.errors import DataError

__all__ = ["MixedContextBatchSampler", "evaluation_loader", "mixed_context_loader"]


class MixedContextBatchSampler(Sampler[list[int]]):
    """Yields, per step, the data set indices of this process's share of a batch balanced over contexts.

    Every image of a context comes once before any comes again; smaller contexts come round more often.

    Args:
        labels: int (N,), the context of each image, 0 to C-1.
        batch_size: images per step over all processes.
        seed: of the permutations.
        num_steps: the step to stop before, counted from the start of the run.
        start_step: the step to begin at; give the number of steps done to resume.
        rank, world_size: this process and how many there are; each gets a contiguous slice of the batch.

    Raises:
        DataError: if a context has no images, `batch_size` does not divide by `world_size`, or the steps or the rank
            are out of range.
    """

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        batch_size: int,
        seed: int,
        *,
        num_steps: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise DataError(f"rank {rank} is not one of the {world_size} processes: expected 0 to {world_size - 1}")
        if batch_size < 1 or batch_size % world_size:
            raise DataError(
                f"batch_size {batch_size} does not divide by the {world_size} processes: "
                f"use a positive multiple of {world_size}"
            )
        if not 0 <= start_step <= num_steps:
            raise DataError(
                f"start_step {start_step} lies outside the run of {num_steps} steps: to go on after a finished run, "
                "raise num_steps"
            )
        of_image = np.asarray(labels, dtype=np.int64)
        self.members = np.split(of_image.argsort(kind="stable"), np.bincount(of_image).cumsum()[:-1])
        empty = [context for context, members in enumerate(self.members) if not len(members)]
        if empty or not self.members:
            raise DataError(
                f"no images with context label {', '.join(map(str, empty or [0]))}: each needs at least one"
            )
        self.batch_size, self.seed = batch_size, seed
        self.start_step, self.num_steps = start_step, num_steps
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.num_steps - self.start_step

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world_size
        shuffled: dict[int, tuple[int, np.ndarray]] = {}  # per context its current cycle: a cache, not a state
        for step in range(self.start_step, self.num_steps):
            start = step * self.batch_size + self.rank * share
            yield [self._index(slot, shuffled) for slot in range(start, start + share)]

    def _index(self, slot: int, shuffled: dict[int, tuple[int, np.ndarray]]) -> int:
        position, context = divmod(slot, len(self.members))
        members = self.members[context]
        cycle, within = divmod(position, len(members))
        if context not in shuffled or shuffled[context][0] != cycle:
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(context, cycle)))
            shuffled[context] = cycle, rng.permutation(members)
        return int(shuffled[context][1][within])


class _Whole(Dataset[dict[str, Tensor]]):
    """The batches of a data set, by lists of numbers: none is taken apart, to be put together again."""

    def __init__(self, dataset: LabelledDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, indices: list[int]) -> dict[str, Tensor]:
        return self.dataset.batch(torch.as_tensor(indices))


def mixed_context_loader(
    dataset: LabelledDataset,
    batch_size: int,
    seed: int,
    *,
    num_steps: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
) -> DataLoader[dict[str, Tensor]]:
    """A training loader over `MixedContextBatchSampler`; arguments and errors as there.

    It already gives each process its share: do not let accelerate prepare, and so shard, it again. It leaves torch's
    global random state alone.

    Returns:
        DataLoader of the data set's items, stacked: ``{"x": float32 (B, C, H, W) in [0, 1], "mask": bool (B, K)}`` for
        images, B = batch_size / world_size.
    """
    sampler = MixedContextBatchSampler(
        dataset.labels,
        batch_size,
        seed,
        num_steps=num_steps,
        start_step=start_step,
        rank=rank,
        world_size=world_size,
    )
    return DataLoader(
        _Whole(dataset),
        batch_size=None,  # what comes is a batch
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),
    )


def evaluation_loader(
    dataset: LabelledDataset, batch_size: int, *, rank: int = 0, world_size: int = 1, num_workers: int = 0
) -> DataLoader[dict[str, Tensor]]:
    """Every image once, in order; of several processes each gets every `world_size`-th batch as a whole.

    Args:
        batch_size: images per batch; the last one may be smaller.
    """
    starts = range(rank * batch_size, len(dataset), world_size * batch_size)
    return DataLoader(
        _Whole(dataset),
        batch_size=None,
        sampler=[[*range(start, min(start + batch_size, len(dataset)))] for start in starts],
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )
