"""What the optimiser steps: an objective's parameter groups, each at its own rate and with its own clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from context_module.objective import Objective, ParameterGroup

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Groups"]


class Groups:
    """The parameter groups of an objective, as they train.

    Args:
        objective: whose parameters they are.
        learning_rate: the run's peak.
        max_norm: the run's clip.

    Raises:
        ValueError: unless every parameter that asks for a gradient is in exactly one group, and for a group without
            any; names them.
    """

    def __init__(self, objective: Objective, learning_rate: float, max_norm: float) -> None:
        self.groups = list(objective.parameter_groups())
        # in the objective's order, whatever the groups' (a set has none): optimiser states are saved by number
        places = {id(parameter): place for place, parameter in enumerate(objective.parameters())}
        self.parameters = [
            sorted((one for one in group.parameters if one.requires_grad), key=lambda one: places.get(id(one), -1))
            for group in self.groups
        ]
        self.max_norms = [max_norm if group.max_norm is None else group.max_norm for group in self.groups]
        _check(objective, self.parameters)
        options = [
            _options(group, parameters, learning_rate)
            for group, parameters in zip(self.groups, self.parameters, strict=True)
        ]
        kind = objective.optimizer
        fused: dict[str, Any] = (
            {"fused": True} if kind in (torch.optim.Adam, torch.optim.AdamW) else {}
        )  # one pass over the weights
        self.optimizer: Any = kind(options, lr=learning_rate, **fused)  # type: ignore[call-arg]

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
        """Give the optimiser, as it was prepared, the run's rate of the moment, scaled for each group."""
        for options, group in zip(optimizer.param_groups, self.groups, strict=True):
            options["lr"] = learning_rate * group.lr_scale

    def clip(self, accelerator: Accelerator) -> Tensor:
        """Clip the gradients of each group to its norm; returns the norm of all before that."""
        if len(self.groups) == 1:
            return accelerator.clip_grad_norm_(self.parameters[0], self.max_norms[0])
        accelerator.unscale_gradients()
        clips = zip(self.parameters, self.max_norms, strict=True)
        norms = [nn.utils.clip_grad_norm_(parameters, norm) for parameters, norm in clips]
        return torch.stack(norms).square().sum().sqrt()


def _options(group: ParameterGroup, parameters: list[nn.Parameter], learning_rate: float) -> dict[str, Any]:
    betas = {} if group.betas is None else {"betas": group.betas}
    return {"params": parameters, "lr": learning_rate * group.lr_scale, **betas}


def _check(objective: Objective, groups: list[list[nn.Parameter]]) -> None:
    kind = type(objective).__name__
    counts: dict[int, int] = {}
    for parameters in groups:
        if not parameters:
            raise ValueError(
                f"{kind}.parameter_groups has a group of which no parameter asks for a gradient: leave it out"
            )
        for parameter in parameters:
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad and counts.get(id(parameter), 0) != 1:
            found = "leaves out" if id(parameter) not in counts else "holds more than once"
            raise ValueError(
                f"{kind}.parameter_groups {found} {name}: each that asks for a gradient belongs to one group"
            )
