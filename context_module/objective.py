"""What the training loop trains: a loss over batches, who takes part in it, and at which rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

__all__ = ["BatchObjective", "Objective", "ParameterGroup"]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that the optimiser steps at a rate of their own.

    Attributes:
        parameters: of an objective; those that ask for gradients take part.
        lr_scale: factor on the run's learning rate, 0 or more.
        betas: of Adam, AdamW or Adamax; None: the optimiser's own.
        max_norm: gradients of the group are clipped to this norm; None: the run's.
    """

    parameters: Iterable[nn.Parameter]
    lr_scale: float = 1.0
    betas: tuple[float, float] | None = None
    max_norm: float | None = None


class Objective(nn.Module):
    """A loss of batches, with all that trains for it as submodules: what `Trainer` takes.

    Frozen submodules are neither trained nor saved. A subclass writes `forward`; the rest has defaults.

    Attributes:
        optimizer: the class that steps the parameters.
        stages: shares of the training, in (0, 1), at which the loss becomes another one: validation losses before and
            after such a point are not compared, and the best weights are those of the last stage.
        ready: whether the model is of use before the first step, so that it is scored and shown then, too.
        warmup_share: share of the training, in [0, 1], over which `warm` rises.
        per_context: images of a context that a batch is to hold, see `MixedContextBatchSampler`.
        comparable: whether validation losses say which weights are better. Where they do not, as of networks that play
            against each other, the last weights are kept.
    """

    optimizer: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Adam
    stages: tuple[float, ...] = ()
    ready: bool = False
    warmup_share: float = 0.0
    per_context: int = 1
    comparable: bool = True

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """Losses of one batch: ``loss``, which is minimised, and whatever else is to be logged, each (B,).

        Args:
            batch: what the items of the data set hold, stacked, on the objective's device.
            progress: share of the training done, in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward(batch, progress)")

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters that ask for gradients, each in one group: by default in one together."""
        return [ParameterGroup(list(self.parameters()))]

    def after_step(self) -> None:
        """Called after every optimiser step, e.g. to project weights; by default it does nothing."""

    def monitor(self, val_data: Any) -> Mapping[str, float]:
        """More figures of the model as it is, for the log: called on the main process at every validation.

        Args:
            val_data: the validation data of the run.
        """
        return {}

    def warm(self, progress: float) -> float:
        """A factor that rises linearly from zero to one over `warmup_share` of the training; one in evaluation."""
        return min(1.0, progress / self.warmup_share) if self.training and self.warmup_share else 1.0


class BatchObjective(Objective):
    """A loss that joins the images of a batch, as a distance between samples does: of the whole batch, or none.

    Processes and accumulation passes each have a share of a batch. What a subclass computes of every image by itself
    it writes into `represent`, which runs on shares, and the rest into `combine`, which sees all rows together, so
    that the training is the same whatever the shares. Any other `Objective` has losses that are means over images.
    """

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """What the loss takes of a batch: tensors (B, ...), row i of which depends on image i alone."""
        raise NotImplementedError(f"{type(self).__name__} has no represent(batch, progress)")

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """Losses as of `forward`, from what `represent` made of a whole batch."""
        raise NotImplementedError(f"{type(self).__name__} has no combine(parts, progress)")

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        return self.combine(self.represent(batch, progress), progress)
