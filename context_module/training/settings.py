"""How to train: what the loop takes, whatever calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from context_module.options import argument

__all__ = ["TrainingSettings"]


@dataclass(kw_only=True)
class TrainingSettings:
    """The settings of a `Trainer`, named as Hugging Face's example scripts name their flags.

    A dataclass that adds fields of its own is one, too: a run's arguments.json records all of them.
    """

    least_steps: ClassVar[int] = 1  # that a training makes sense with

    output_dir: str = argument(help="where checkpoints, metrics.jsonl, sample grids and the result go")
    max_train_steps: int = argument(1000, help="optimiser steps")
    train_batch_size: int = argument(64, help="images per optimiser step, over all processes and accumulation steps")
    gradient_accumulation_steps: int = argument(1, help="passes that share one optimiser step and its batch")
    learning_rate: float = argument(1e-3, help="peak learning rate; it falls to 1%% along a cosine")
    lr_warmup_steps: int = argument(50, help="steps of linear warm-up")
    max_grad_norm: float = argument(10.0, help="gradients are clipped to this norm")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = argument(None, help="default: what accelerate config says")
    validation_steps: int = argument(200, help="steps between validations, each with a sample grid")
    early_stopping_patience: int = argument(0, help="validations without improvement before stopping; 0: never stop")
    early_stopping_threshold: float = argument(1e-4, help="relative improvement of the loss that counts")
    checkpointing_steps: int = argument(500, help="steps between checkpoints")
    checkpoints_total_limit: int | None = argument(2, help="newest checkpoints kept")
    logging_steps: int = argument(20, help="steps between lines in metrics.jsonl")
    dataloader_num_workers: int = argument(0, help="processes that read images")
    report_to: str | None = argument(None, help="a tracker of accelerate: tensorboard, wandb, trackio, ...")
    resume_inexactly: bool = argument(
        False, help="resume from a checkpoint whose random states are lost, with other noise: another result"
    )
    seed: int = argument(0, help="of initialisation, batches and noise")

    def __post_init__(self) -> None:
        if self.max_train_steps < self.least_steps:
            raise ValueError(f"max_train_steps must be at least {self.least_steps}, got {self.max_train_steps}")
        for name in (
            "train_batch_size",
            "gradient_accumulation_steps",
            "validation_steps",
            "checkpointing_steps",
            "logging_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.train_batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"train_batch_size {self.train_batch_size} does not divide by gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}"
            )
        if self.checkpoints_total_limit is not None and self.checkpoints_total_limit < 1:
            raise ValueError(f"checkpoints_total_limit must be at least 1, got {self.checkpoints_total_limit}")
