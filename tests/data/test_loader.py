import itertools

import pytest
import torch

from context_module.data import ArrayContextDataset, MixedContextBatchSampler, evaluation_loader, mixed_context_loader
from context_module.errors import DataError

SIZES = (5, 8, 3)
LABELS = torch.repeat_interleave(torch.arange(3), torch.tensor(SIZES))


def dataset() -> ArrayContextDataset:
    images = torch.arange(len(LABELS), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    return ArrayContextDataset(images, LABELS, ["obs", "a", "b"], ["a", "b"])


def batches(batch_size: int = 6, num_steps: int = 40, seed: int = 0, **options: int) -> list[list[int]]:
    return list(MixedContextBatchSampler(LABELS, batch_size, seed, num_steps=num_steps, **options))


def test_contexts_are_balanced_in_every_batch_and_over_any_stretch():
    for batch in batches():
        assert torch.bincount(LABELS[batch]).tolist() == [2, 2, 2]
    uneven = torch.tensor(list(itertools.chain(*batches(4, 7))))  # a batch size that is no multiple of the contexts
    counts = torch.bincount(LABELS[uneven])
    assert counts.max() - counts.min() <= 1


def test_every_image_once_per_cycle_and_another_order_in_the_next():
    stream = torch.tensor(list(itertools.chain(*batches())))
    for context, size in enumerate(SIZES):
        drawn = stream[LABELS[stream] == context]
        cycles = drawn[: len(drawn) // size * size].view(-1, size)
        members = (context == LABELS).nonzero().flatten()
        assert torch.equal(cycles.sort(1).values, members.expand(len(cycles), -1))
        assert len({tuple(cycle) for cycle in cycles.tolist()}) > 1


def test_the_seed_determines_the_batches():
    assert batches() == batches()
    assert batches() != batches(seed=1)


def test_two_processes_share_the_batches_of_one():
    ranks = [batches(rank=rank, world_size=2) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == batches()


@pytest.mark.parametrize("per_context", [1, 8])
def test_passes_of_a_step_make_up_its_batch(per_context: int):
    whole = batches(8, 10, per_context=per_context)
    ranks = [batches(8, 10, rank=rank, world_size=2, passes=2, per_context=per_context) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [20, 20]
    joined = [a + b for a, b in zip(*ranks, strict=True)]
    assert [a + b for a, b in zip(joined[::2], joined[1::2], strict=True)] == whole


def test_resumes_at_any_step():
    for step in (0, 1, 7, 39, 40):
        sampler = MixedContextBatchSampler(LABELS, 6, 0, num_steps=40, start_step=step)
        assert list(sampler) == batches()[step:]
        assert len(sampler) == 40 - step
        assert list(sampler) == batches()[step:]  # and again: no state


def test_of_many_contexts_a_batch_holds_some_which_take_turns():
    labels = torch.arange(20).repeat_interleave(12)

    def drawn(**options: int) -> list[list[int]]:
        return list(MixedContextBatchSampler(labels, 32, 0, num_steps=30, per_context=8, **options))

    found = drawn()
    for batch in found:
        assert labels[batch].bincount().tolist().count(8) + 2 * labels[batch].bincount().tolist().count(16) == 4
    visits = [context for batch in found for context in labels[batch[:4]].tolist()]
    cycles = [visits[start : start + 20] for start in range(0, len(visits), 20)]
    assert all(sorted(cycle) == list(range(20)) for cycle in cycles)
    assert len({tuple(cycle) for cycle in cycles}) == len(cycles)
    stream = torch.tensor(list(itertools.chain(*found)))
    for context in range(20):  # each image once before any comes again
        first = stream[labels[stream] == context][:12]
        assert sorted(first.tolist()) == (context == labels).nonzero().flatten().tolist()
    assert [a + b for a, b in zip(drawn(rank=0, world_size=2), drawn(rank=1, world_size=2), strict=True)] == found
    assert drawn(start_step=11) == found[11:]


def test_all_contexts_where_half_as_many_images_fit():
    enough = MixedContextBatchSampler(LABELS, 12, 0, num_steps=5, per_context=8)
    assert list(enough) == batches(12, 5)
    many = torch.arange(20)  # and where a batch is too small to hold two contexts
    small = MixedContextBatchSampler(many, 6, 0, num_steps=5, per_context=8)
    assert list(small) == list(MixedContextBatchSampler(many, 6, 0, num_steps=5))


def test_loader_yields_batches_and_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    loaded = list(mixed_context_loader(dataset(), 6, 0, num_steps=3, start_step=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(loaded) == 2
    for batch, indices in zip(loaded, batches(num_steps=3)[1:], strict=True):
        assert batch["x"].shape == (6, 1, 2, 2)
        assert batch["x"].dtype == torch.float32
        assert (batch["x"][:, 0, 0, 0] * 255).round().tolist() == indices
        assert torch.equal(batch["mask"], dataset().concepts.mask([dataset().context_of(i) for i in indices]))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # with a single core
def test_worker_processes_change_nothing():
    def loaded(num_workers: int) -> list[torch.Tensor]:
        return [b["x"] for b in mixed_context_loader(dataset(), 6, 0, num_steps=5, num_workers=num_workers)]

    assert torch.equal(torch.stack(loaded(0)), torch.stack(loaded(2)))


def test_evaluation_loader_gives_every_image_once():
    parts = [
        torch.cat([batch["x"][:, 0, 0, 0] * 255 for batch in evaluation_loader(dataset(), 3, rank=r, world_size=3)])
        for r in range(3)
    ]
    assert [part.round().tolist() for part in parts] == [[0, 1, 2, 9, 10, 11], [3, 4, 5, 12, 13, 14], [6, 7, 8, 15]]
    alone = torch.cat([batch["x"][:, 0, 0, 0] * 255 for batch in evaluation_loader(dataset(), 7)])
    assert alone.round().tolist() == list(range(16))


def test_refuses_what_cannot_be_shared_out():
    with pytest.raises(DataError, match="batch_size 7 does not divide by the 2 processes"):
        batches(7, world_size=2)
    with pytest.raises(DataError, match="batch_size 6 does not divide by the 2 processes and 2 passes"):
        batches(6, world_size=2, passes=2)
    with pytest.raises(DataError, match="batch_size 0"):
        batches(0)
    with pytest.raises(DataError, match="rank 2 is not one of the 2 processes"):
        batches(rank=2, world_size=2)
    with pytest.raises(DataError, match="start_step 41 lies outside the run of 40 steps"):
        batches(start_step=41)
    with pytest.raises(DataError, match="no images with context label 1"):
        MixedContextBatchSampler([0, 0, 2], 3, 0, num_steps=1)
    with pytest.raises(DataError, match="no images with context label 0"):
        MixedContextBatchSampler([], 3, 0, num_steps=1)
