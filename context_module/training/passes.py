"""The gradients of one optimiser step: those of one batch, however many processes and passes share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from context_module.errors import ShapeError
from context_module.objective import BatchObjective, Objective
from context_module.rows import Rows
from context_module.training.whole_batch import WholeBatch, gathered, world_size

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Passes"]

Batch = dict[str, Tensor]
Check = Callable[[Batch, Tensor], None]


class Passes:
    """Takes an objective's gradients over a batch in shares.

    A loss that is a mean over images is the mean of those of its shares. A `BatchObjective` is one of all images
    together: what it says of every image is gathered, each process takes the loss of all of it, and gradients go back
    to each share through its own rows. Over accumulation passes that takes two rounds, since the memory is that of one
    pass: the first without gradients, the second with those of the loss (as in Gao et al. 2021, "Scaling Deep
    Contrastive Learning Batch Size under Memory Limited Setup").

    Args:
        accelerator: of the run.
        objective: as the run has it.
        prepared: the same as `accelerator` prepared it.
        passes: of gradient accumulation.
        seed: of the noise.
        check: called with each loss and its contexts before its gradients are taken.

    Attributes:
        whole: draws of the whole batch; None where one process has all of it in one pass.
    """

    def __init__(
        self, accelerator: Accelerator, objective: Objective, prepared: Any, passes: int, seed: int, check: Check
    ) -> None:
        self.accelerator, self.objective, self.prepared, self.check = accelerator, objective, prepared, check
        self.passes, self.rank, self.world = passes, accelerator.process_index, world_size()
        self.whole = WholeBatch(seed) if self.world * passes > 1 else None

    def gradients(self, batches: Sequence[Batch], progress: float) -> list[Batch]:
        """Take the gradients of a batch, given as this process's share of each pass; returns the losses of each."""
        if self.whole is None:
            (batch,) = batches
            losses = self.prepared(batch, progress)
            self._backward(losses, batch["mask"])
            return [losses]
        if not isinstance(self.objective, BatchObjective):
            return self._apart(batches, progress)
        return [self._together(batches, progress) if len(batches) == 1 else self._in_two_rounds(batches, progress)]

    def _apart(self, batches: Sequence[Batch], progress: float) -> list[Batch]:
        assert self.whole is not None
        start, found = self.whole.state(), []
        for number, batch in enumerate(batches):
            with self.accelerator.accumulate(self.prepared):
                self.whole.set_state(start)
                with self.whole.share(self._rows(number, batch)):
                    losses = self.prepared(batch, progress)
                self._backward(losses, batch["mask"])
            found.append(losses)
        return found

    def _together(self, batches: Sequence[Batch], progress: float) -> Batch:
        parts = self._represented(batches[0], 0, progress)
        losses = self._combined({name: gathered(part) for name, part in parts.items()}, progress)
        self._backward(losses, gathered(batches[0]["mask"]))
        self._average()
        return losses

    def _in_two_rounds(self, batches: Sequence[Batch], progress: float) -> Batch:
        assert self.whole is not None
        start, states, rounds = self.whole.state(), [], []
        for number, batch in enumerate(batches):
            states.append(_random_state(self.accelerator.device))
            self.whole.set_state(start)
            with torch.no_grad():
                rounds.append(self._represented(batch, number, progress))
        parts = {name: torch.cat([gathered(one[name]) for one in rounds]) for name in rounds[0]}
        leaves = {name: part.requires_grad_() for name, part in parts.items() if part.is_floating_point()}
        losses = self._combined(parts, progress)
        # accelerate divides by the number of passes, and scales for half precision
        self._backward(losses, torch.cat([gathered(batch["mask"]) for batch in batches]), times=self.passes)
        scaler = self.accelerator.scaler
        scale = 1.0 if scaler is None else scaler.get_scale()
        pulls = {name: leaf.grad / scale for name, leaf in leaves.items() if leaf.grad is not None}
        end = self.whole.state()
        for number, batch in enumerate(batches):
            _set_random_state(states[number], self.accelerator.device)
            self.whole.set_state(start)
            parts = self._represented(batch, number, progress)
            place = self._rows(number, batch).place
            pulled = [(parts[name] * pull[place]).sum() for name, pull in pulls.items() if parts[name].requires_grad]
            if pulled:
                self.accelerator.backward(torch.stack(pulled).sum() * (self.passes * self.world))
        self.whole.set_state(end)
        self._average()
        return losses

    def _represented(self, batch: Batch, number: int, progress: float) -> Batch:
        assert self.whole is not None
        rows = self._rows(number, batch)
        with self.accelerator.autocast(), self.whole.share(rows):
            parts = cast("BatchObjective", self.objective).represent(batch, progress)
        for name, part in parts.items():
            if not part.ndim or len(part) != rows.count:
                raise ShapeError(
                    f"{type(self.objective).__name__}.represent gives {name!r} of shape {tuple(part.shape)} for "
                    f"{rows.count} images: expected a row for each"
                )
        return parts

    def _combined(self, parts: Batch, progress: float) -> Batch:
        assert self.whole is not None
        with self.accelerator.autocast(), self.whole.share(None):
            return cast("BatchObjective", self.objective).combine(parts, progress)

    def _backward(self, losses: Batch, mask: Tensor, times: int = 1) -> None:
        loss = losses["loss"].mean()
        if not torch.isfinite(loss):
            self.check(losses, mask)
        self.accelerator.backward(loss if times == 1 else loss * times)

    def _rows(self, number: int, batch: Batch) -> Rows:
        """Where the share of a pass is in the whole batch: pass by pass, process by process."""
        count = len(batch["mask"])
        return Rows((number * self.world + self.rank) * count, count, count * self.world * self.passes)

    def _average(self) -> None:
        """Average gradients over the processes, which took them without accelerate's wrapper."""
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in self.objective.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        parts = (flat / self.world).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
