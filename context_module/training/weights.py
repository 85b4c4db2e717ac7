"""The weights that a training changes."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["trainable_state_dict"]


def trainable_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The entries of a state dict that training can change: all but those below a frozen submodule.

    A submodule is frozen when it has parameters and none of them asks for a gradient; its buffers are then frozen too.
    Tied parameters have one entry, under the first of their names.
    """
    frozen = tuple(
        f"{name}."
        for name, child in module.named_modules()
        if name and (parameters := list(child.parameters())) and not any(p.requires_grad for p in parameters)
    )
    first = {name for name, _ in module.named_parameters()}
    again = {name for name, _ in module.named_parameters(remove_duplicate=False)} - first
    return {
        name: tensor
        for name, tensor in module.state_dict().items()
        if not name.startswith(frozen) and name not in again
    }
