"""What trains, methods of `ContextualDecoder`: its module always, the base not at all, by LoRA, or whole."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, TypeVar

from context_module.base import train_lora
from context_module.errors import AdapterError, LoraError

if TYPE_CHECKING:
    from context_module.adapters import DecoderAdapter
    from context_module.model.decoder import ContextualDecoder

__all__ = [
    "TrainMode",
    "add_lora",
    "freeze_base",
    "frozen_base",
    "get_base_model",
    "gradient_checkpointing_enable",
    "merge_and_unload",
    "merge_lora",
    "set_train_mode",
    "unfreeze_base",
    "unload",
]

Model = TypeVar("Model", bound="ContextualDecoder")

TrainMode = Literal["frozen", "lora", "finetune", "end_to_end"]


def freeze_base(self: Model) -> Model:
    """Keep the base as it is from now on, LoRA included."""
    self.held.freeze()
    return self


def unfreeze_base(self: Model) -> Model:
    """Let the base train with the module; both are saved together from now on.

    Raises:
        ValueError: for a base that its adapter cannot save.
        LoraError: for a base with LoRA.
        AdapterError: if there are other modules, which were trained on the base as it is.
    """
    _check_alone(self, "the base cannot train")
    self.held.unfreeze()
    return self


def frozen_base(self: ContextualDecoder) -> AbstractContextManager[None]:
    """The base as if frozen for a block of code: no gradients reach it, its batch norms stand still."""
    return self.held.frozen()


def add_lora(self: Model, rank: int = 8, alpha: float | None = None) -> Model:
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
    self.held.add_lora(rank, alpha)
    return self


def merge_lora(self: Model) -> Model:
    """Fold LoRA into the base's own weights; the base is saved with the module from now on.

    Raises:
        LoraError: without LoRA.
        ValueError: for a base that its adapter cannot save.
        NonFiniteError: for LoRA that is not finite.
        AdapterError: if there are other modules, which were trained on the base as it is.
    """
    _check_alone(self, "LoRA cannot be merged into the base")
    self.held.merge_lora()
    return self


def get_base_model(self: ContextualDecoder) -> DecoderAdapter:
    """The base, as its adapter shows it."""
    return self.held.base


def unload(self: ContextualDecoder) -> DecoderAdapter:
    """The base without the module's LoRA; the model around it is not to be used any more."""
    self.held.take_lora()
    return self.held.base


def merge_and_unload(self: ContextualDecoder) -> DecoderAdapter:
    """The base with LoRA folded into its weights, if there is any; the model around it is not to be used any more.

    A context module itself cannot be folded into a base: what it does depends on the intervention.

    Raises:
        ValueError, NonFiniteError, AdapterError: as `merge_lora`.
    """
    if self.lora is not None:
        self.merge_lora()
    return self.held.base


def gradient_checkpointing_enable(self: ContextualDecoder) -> None:
    """Compute the base's activations anew in the backward pass, in place of keeping them: slower, in less memory.

    It is for a base, or LoRA on it, that trains. The networks of transformers and diffusers know how.

    Raises:
        ValueError: for a base none of whose networks knows how.
    """
    able = False
    for part in self.base.modules():
        for method in ("gradient_checkpointing_enable", "enable_gradient_checkpointing"):
            if part is not self.base and callable(enable := getattr(part, method, None)):
                enable()
                able = True
    if not able:
        raise ValueError(f"no network of a {self.base.name!r} base knows gradient checkpointing: leave it out")


def set_train_mode(
    model: ContextualDecoder, mode: TrainMode, *, frozen_share: float = 0.2, rank: int | None = None
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


def _check_alone(model: ContextualDecoder, consequence: str) -> None:
    if model.waiting.names:
        raise AdapterError(
            f"{consequence}: the modules {', '.join(model.waiting.names)} were trained on it as it is. "
            "delete_adapter them first"
        )
