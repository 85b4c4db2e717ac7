"""What trains: the module in front of a base always, and the base not at all, by LoRA on its decoder, or whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from torch import nn

from context_module.adapters import DecoderAdapter
from context_module.base.lora import (
    LoraSettings,
    decoder_layers,
    inject_lora,
    lora_at,
    merge_lora,
    refuse_foreign_lora,
    refuse_lora,
    train_lora,
)
from context_module.errors import LoraError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TrainMode", "WrappedBase", "set_train_mode"]

TrainMode = Literal["frozen", "lora", "finetune", "end_to_end"]


class WrappedBase(nn.Module):
    """A module around a base: frozen at first, in eval mode whatever `train` is told.

    Args:
        base: the adapter that shows the base. LoRA that it came with, by peft, is a part of it and stays as it is.

    Attributes:
        base: the same.
        base_trains: whether the base is unfrozen.
        owns_base: whether the base is saved with the module, as it is no longer the one it came from.
        lora: the settings of LoRA on the base's decoder, None without it.

    Raises:
        LoraError: for a base that carries the LoRA of another model.
    """

    def __init__(self, base: DecoderAdapter) -> None:
        super().__init__()
        refuse_lora(base)
        self.base = base.requires_grad_(False)
        self.base_trains = self.owns_base = False
        self.lora: LoraSettings | None = None
        self._first_decoder_layer = _first_decoder_layer(base)

    def train(self, mode: bool = True) -> Self:
        """Set training mode for all but a frozen base, which stays in eval mode (its batch norms too)."""
        super().train(mode)
        self.base.train(mode and self.base_trains)
        return self

    def freeze_base(self) -> Self:
        """Keep the base as it is from now on, LoRA included."""
        self._let_base_train(False)
        return self

    def unfreeze_base(self) -> Self:
        """Let the base train with the module; both are saved together from now on.

        Raises:
            ValueError: for a base that its adapter cannot save.
            LoraError: for a base with LoRA.
        """
        if self.lora is not None:
            raise LoraError("a base with LoRA cannot train: fold LoRA into it first (model.merge_lora())")
        refuse_foreign_lora(self.base, "it cannot train")
        self._check_saves("it cannot train: keep it frozen")
        self.owns_base = True
        self._let_base_train(True)
        return self

    @contextmanager
    def frozen_base(self) -> Iterator[None]:
        """The base as if frozen for a block of code: no gradients reach it, its batch norms stand still."""
        if not self.base_trains:  # LoRA on it goes on as it is
            yield
            return
        self._let_base_train(False)
        try:
            yield
        finally:
            self._let_base_train(True)

    def add_lora(self, rank: int = 8, alpha: float | None = None) -> Self:
        """Put LoRA on the linear and convolution layers of the base's decoder, in place, to train with the module.

        At first it changes nothing. Encodings never change, nor do the base's own weights and batch norms. It is saved
        with the module.

        Args:
            rank: of each layer's update.
            alpha: updates are scaled by alpha / rank; `rank` without it.

        Raises:
            LoraError: for a decoder without such layers, a family whose adapter has no `decoder_parts`, a base that
                trains, and one with LoRA, ours or its own.
            ImportError: without peft.
        """
        if self.base_trains:
            raise LoraError("LoRA is for a base that stands still: freeze_base() first")
        refuse_lora(self.base)
        refuse_foreign_lora(self.base, "it takes no other")
        settings = LoraSettings(rank, rank if alpha is None else alpha, decoder_layers(self.base))
        self._inject_lora(settings)
        return self

    def merge_lora(self) -> Self:
        """Fold LoRA into the base's own weights; the base is saved with the module from now on.

        Raises:
            LoraError: without LoRA.
            ValueError: for a base that its adapter cannot save.
            NonFiniteError: for LoRA that is not finite.
        """
        if self.lora is None:
            raise LoraError("no LoRA to merge: add_lora() adds it")
        self._check_saves("LoRA cannot be merged into it: keep it beside")
        merge_lora(self.base)
        self.lora, self.owns_base = None, True
        return self

    def _inject_lora(self, settings: LoraSettings) -> None:
        inject_lora(self.base, settings)
        self.lora = settings
        self.base.train(self.training and self.base_trains)  # new layers are in training mode

    def _check_own_lora(self) -> None:
        """Raise LoraError if another model around the same network has put its LoRA there."""
        name = self._first_decoder_layer
        if name is not None and lora_at(self.base, name) is not self.lora:
            raise LoraError(
                "the base carries the LoRA of another model around it: give each model a base of its own "
                "(copy.deepcopy), or load modules beside each other with model.load_adapter and change between them "
                "with set_adapter"
            )

    def _check_saves(self, consequence: str) -> None:
        if type(self.base).save is DecoderAdapter.save:
            raise ValueError(f"a {self.base.name!r} base cannot be saved, so {consequence}")

    def _let_base_train(self, trains: bool) -> None:
        self.base.requires_grad_(trains)
        self.base_trains = trains
        self.base.train(self.training and trains)


def _first_decoder_layer(base: DecoderAdapter) -> str | None:
    """A layer that LoRA adapts if there is LoRA; None for a base that takes none."""
    try:
        return decoder_layers(base)[0]
    except LoraError:
        return None


def set_train_mode(
    model: WrappedBase, mode: TrainMode, *, frozen_share: float = 0.2, rank: int | None = None
) -> float:
    """Set what trains; the module and its posterior heads always do.

    All modes but ``frozen`` need an objective that runs the base's decoder, `PixelObjective`.

    Args:
        model: LoRA that it has already goes on training in mode ``lora``, and stands still in mode ``frozen``.
        mode: what trains besides. ``frozen``: nothing; ``lora``: LoRA on the base's decoder, added if there is none;
            ``finetune``: the base, after `frozen_share` of the steps; ``end_to_end``: the base, from the first step.
        frozen_share: for ``finetune``, in [0, 1] (the paper's: 0.2).
        rank: for ``lora``; without it 8, or that of the model's LoRA.

    Returns:
        the share of the steps in which the base stands still, for ``PixelObjective(frozen_share=...)``.

    Raises:
        LoraError: for a base that cannot take LoRA, LoRA of another rank, and LoRA on a base that is to train.
        ValueError: for another mode, and for a base that is to train and that its adapter cannot save.
    """
    if mode in ("finetune", "end_to_end"):
        model.unfreeze_base()
        return frozen_share if mode == "finetune" else 0.0
    if mode not in ("frozen", "lora"):
        raise ValueError(f"unknown train mode {mode!r}; known: frozen, lora, finetune, end_to_end")
    model.freeze_base()
    if mode == "lora":
        if model.lora is None:
            model.add_lora(8 if rank is None else rank)
        elif rank not in (None, model.lora.rank):
            raise LoraError(
                f"the model has LoRA of rank {model.lora.rank}, not {rank}: leave the rank out to go on with it, or "
                "fold it into the base first (model.merge_lora())"
            )
        train_lora(model.base)
    return 0.0
