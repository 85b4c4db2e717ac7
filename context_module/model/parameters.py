"""How many parameters there are and train, and a model in a line: methods of `ContextualDecoder`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from context_module.model.decoder import ContextualDecoder

__all__ = ["described", "get_nb_trainable_parameters", "num_parameters", "print_trainable_parameters"]


def get_nb_trainable_parameters(self: ContextualDecoder) -> tuple[int, int]:
    """(trainable, all) parameter counts, of base and active module."""
    return self.num_parameters(only_trainable=True), self.num_parameters()


def num_parameters(self: ContextualDecoder, only_trainable: bool = False) -> int:
    """The number of parameters of base and active module, or of those that train."""
    return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)


def print_trainable_parameters(self: ContextualDecoder) -> None:
    """Print how many parameters train, of how many, in peft's words."""
    trains, total = self.get_nb_trainable_parameters()
    print(f"trainable params: {trains:,d} || all params: {total:,d} || trainable%: {100 * trains / total:.4f}")


def described(self: ContextualDecoder) -> str:
    """What it is, in a line: ``print(model.base)`` and ``print(model.module)`` show the networks."""
    trains, total = self.get_nb_trainable_parameters()
    others = f", waiting: {', '.join(self.waiting.names)}" if self.waiting.names else ""
    return (
        f"{type(self).__name__}({self.base.name} of {self.base.takes}, concepts {', '.join(self.concepts) or 'none'}, "
        f"{self.config.form}, {trains:,d} of {total:,d} parameters train{others})"
    )
