"""A base that is held: frozen at first, with LoRA on its decoder or without, and run as it is held."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from context_module.adapters import DecoderAdapter, Decoding, Encoding
from context_module.base.fingerprint import fingerprint, same_weights
from context_module.base.lora import (
    LoraSettings,
    decoder_layers,
    inject_lora,
    insert_lora,
    lora_at,
    merge_lora,
    refuse_foreign_lora,
    refuse_lora,
    remove_lora,
)
from context_module.errors import LoraError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["HeldBase", "TakenLora"]


@dataclass(frozen=True)
class TakenLora:
    """LoRA that was taken off a base, to be put back; without settings there was none.

    Attributes:
        settings: of the LoRA.
        layers: the adapted layers, by their names in the base's adapter.
    """

    settings: LoraSettings | None
    layers: dict[str, nn.Module]


class HeldBase(nn.Module):
    """A base in a model: frozen at first, in eval mode whatever `train` is told.

    Args:
        base: the adapter that shows the base. LoRA that it came with, by peft, is a part of it and stays as it is.

    Attributes:
        base: the same.
        trains: whether the base is unfrozen.
        owned: whether the base is saved with the model, as it is no longer the one it came from.
        lora: the settings of our LoRA on the base's decoder, None without it.

    Raises:
        LoraError: for a base that carries the LoRA of another model.
    """

    def __init__(self, base: DecoderAdapter) -> None:
        super().__init__()
        refuse_lora(base)
        self.base = base.requires_grad_(False)
        self.trains = self.owned = False
        self.take_weights()
        self.lora: LoraSettings | None = None
        self._first_decoder_layer = _first_decoder_layer(base)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a frozen base stays in eval mode (its batch norms too)."""
        super().train(mode)
        self.base.train(mode and self.trains)
        return self

    def encode(self, x: Tensor) -> Encoding:
        """What the base's encoder says of checked inputs, with gradients only if the base trains."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains):
            # token ids stay what they are
            return self.base.encode(x.to(self.base.dtype) if x.is_floating_point() else x)

    def decode(self, latent: Tensor, encoding: Encoding | None = None, **options: Any) -> Decoding:
        """As `DecoderAdapter.decode`, in the base's type; LoraError if another model has put its LoRA there."""
        self._check_own_lora()
        return self.base.decode(latent.to(self.base.dtype), encoding, **options)

    def freeze(self) -> None:
        """Keep the base as it is from now on, LoRA included."""
        self._let_train(False)

    def unfreeze(self) -> None:
        """Let the base train; it is owned from now on.

        Raises:
            ValueError: for a base that its adapter cannot save.
            LoraError: for a base with LoRA.
        """
        if self.lora is not None:
            raise LoraError("a base with LoRA cannot train: fold LoRA into it first (model.merge_lora())")
        refuse_foreign_lora(self.base, "it cannot train")
        self._check_saves("it cannot train: keep it frozen")
        self.owned = True
        self._let_train(True)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The base as if frozen for a block of code: no gradients reach it, its batch norms stand still."""
        if not self.trains:  # LoRA on it goes on as it is
            yield
            return
        self._let_train(False)
        try:
            yield
        finally:
            self._let_train(True)

    def take_weights(self) -> None:
        """Take the base's weights, as they are now, for those that it came with."""
        self._given = None if self.base.device.type == "meta" else fingerprint(self.base)

    def own_if_changed(self) -> None:
        """Own a base whose weights are no longer those that it came with, though nobody unfroze it; with a warning.

        Raises:
            ValueError: for such a base that its adapter cannot save.
        """
        if self.owned or self._given is None or same_weights(fingerprint(self.base), self._given):
            return
        self._check_saves(
            "the weights that it was given since it was wrapped would be lost: undo the change, or keep it frozen"
        )
        warnings.warn(
            "the base's weights have changed since it was wrapped, so it is saved with the module; a base that is to "
            "train is unfrozen: model.unfreeze_base()",
            stacklevel=4,
        )
        self.owned = True

    def add_lora(self, rank: int = 8, alpha: float | None = None) -> None:
        """Put new LoRA on the decoder's layers; see `ContextualDecoder.add_lora`."""
        if self.trains:
            raise LoraError("LoRA is for a base that stands still: freeze_base() first")
        refuse_lora(self.base)
        refuse_foreign_lora(self.base, "it takes no other")
        self.inject_lora(LoraSettings(rank, rank if alpha is None else alpha, decoder_layers(self.base)))

    def inject_lora(self, settings: LoraSettings) -> None:
        """Put new LoRA on the layers that the settings name."""
        inject_lora(self.base, settings)
        self.lora = settings
        self.base.train(self.training and self.trains)  # new layers are in training mode

    def merge_lora(self) -> None:
        """Fold LoRA into the base's own weights; the base is owned from now on, see `ContextualDecoder.merge_lora`."""
        if self.lora is None:
            raise LoraError("no LoRA to merge: add_lora() adds it")
        self._check_saves("LoRA cannot be merged into it: keep it beside")
        merge_lora(self.base)
        self.lora, self.owned = None, True

    def take_lora(self) -> TakenLora:
        """Take our LoRA off the base."""
        taken = TakenLora(self.lora, remove_lora(self.base))
        self.lora = None
        return taken

    def put_lora(self, taken: TakenLora) -> None:
        """Put LoRA back that was taken off, on the base's device."""
        for layer in taken.layers.values():
            layer.to(self.base.device)
        insert_lora(self.base, taken.layers)
        self.lora = taken.settings
        self.base.train(self.training and self.trains)

    def _check_own_lora(self) -> None:
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

    def _let_train(self, trains: bool) -> None:
        self.base.requires_grad_(trains)
        self.trains = trains
        self.base.train(self.training and trains)


def _first_decoder_layer(base: DecoderAdapter) -> str | None:
    """A layer that LoRA adapts if there is LoRA; None for a base that takes none."""
    try:
        return decoder_layers(base)[0]
    except LoraError:
        return None
