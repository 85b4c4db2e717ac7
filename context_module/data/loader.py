"""Batches that mix contexts in equal shares, as a pure function of the seed and the step.

Slot t = step * batch_size + i of a run belongs to context t mod C, and is that context's image number t div C in an
endless stream of its permutations, each seeded by (seed, context, cycle). Of very many contexts a batch may take some,
which take turns in another order each time. Nothing is remembered: any number of workers or processes sees the same
batches, and a run resumes at any step by being told the step.
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
    """Yields, per pass of a step, the indices of this process's share of a batch balanced over contexts.

    Every image of a context comes once before any comes again; smaller contexts come round more often.

    Args:
        labels: int (N,), the context of each image, 0 to C-1.
        batch_size: images per step over all processes.
        seed: of the permutations.
        num_steps: the step to stop before, counted from the start of the run.
        start_step: the step to begin at; give the number of steps done to resume.
        rank, world_size: this process and how many there are; each gets a contiguous slice of the batch.
        passes: parts of a step's batch that come one after another, for gradient accumulation.
        per_context: images of a context that a batch is to hold, for what is learned from them together. Where not
            half as many of every context fit, a batch holds so many of ``batch_size // per_context`` contexts, if
            that is two at least.

    Raises:
        DataError: if a context has no images, `batch_size` does not divide by `world_size` and `passes`, or the steps
            or the rank are out of range.
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
        passes: int = 1,
        per_context: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise DataError(f"rank {rank} is not one of the {world_size} processes: expected 0 to {world_size - 1}")
        if batch_size < 1 or batch_size % (world_size * passes):
            shared = f"{world_size} processes" if passes == 1 else f"{world_size} processes and {passes} passes"
            raise DataError(
                f"batch_size {batch_size} does not divide by the {shared}: "
                f"use a positive multiple of {world_size * passes}"
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
        self.rank, self.world_size, self.passes = rank, world_size, passes
        every = len(self.members)
        self._contexts = np.arange(every)
        at_once = batch_size // per_context
        self.contexts_at_once = at_once if per_context > 1 and 2 <= at_once < every / 2 else every

    def __len__(self) -> int:
        return (self.num_steps - self.start_step) * self.passes

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // (self.world_size * self.passes)
        shuffled: dict[int, tuple[int, np.ndarray]] = {}  # per context its current cycle: a cache, not a state
        for step in range(self.start_step, self.num_steps):
            for number in range(self.passes):
                start = (number * self.world_size + self.rank) * share
                places = range(start, start + share)
                yield [self._image(*self._slot(step, place, shuffled), shuffled) for place in places]

    def _slot(self, step: int, place: int, shuffled: dict[int, tuple[int, np.ndarray]]) -> tuple[int, int]:
        """The context of a place in a batch, and the number of its image in that context's stream."""
        every, at_once = len(self.members), self.contexts_at_once
        if at_once == every:
            position, context = divmod(step * self.batch_size + place, every)
            return context, position
        among, turn = divmod(place, at_once)
        cycle, within = divmod(step * at_once + turn, every)
        context = int(self._permuted(every, cycle, self._contexts, shuffled)[within])
        return context, cycle * -(-self.batch_size // at_once) + among

    def _image(self, context: int, position: int, shuffled: dict[int, tuple[int, np.ndarray]]) -> int:
        members = self.members[context]
        cycle, within = divmod(position, len(members))
        return int(self._permuted(context, cycle, members, shuffled)[within])

    def _permuted(
        self, key: int, cycle: int, members: np.ndarray, shuffled: dict[int, tuple[int, np.ndarray]]
    ) -> np.ndarray:
        if key not in shuffled or shuffled[key][0] != cycle:
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(key, cycle)))
            shuffled[key] = cycle, rng.permutation(members)
        return shuffled[key][1]


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
    passes: int = 1,
    per_context: int = 1,
    num_workers: int = 0,
) -> DataLoader[dict[str, Tensor]]:
    """A training loader over `MixedContextBatchSampler`; arguments and errors as there.

    It already gives each process its share: do not let accelerate prepare, and so shard, it again. It leaves torch's
    global random state alone.

    Returns:
        DataLoader of the data set's items, stacked: ``{"x": float32 (B, C, H, W) in [0, 1], "mask": bool (B, K)}`` for
        images, B = batch_size / (world_size * passes).
    """
    sampler = MixedContextBatchSampler(
        dataset.labels,
        batch_size,
        seed,
        num_steps=num_steps,
        start_step=start_step,
        rank=rank,
        world_size=world_size,
        passes=passes,
        per_context=per_context,
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
