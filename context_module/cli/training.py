"""The flags that every recipe that trains has, named as Hugging Face's example scripts name them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from context_module.cli.arguments import argument
from context_module.cli.data import DataArguments
from context_module.io.hub import make_repository

__all__ = ["TrainingArguments"]


@dataclass(kw_only=True)
class TrainingArguments(DataArguments):
    """The flags of every recipe that trains."""

    output_dir: str = argument(help="where checkpoints, metrics.jsonl, sample grids and the result go")
    overwrite: bool = argument(False, help="replace an earlier run in --output_dir")
    resume_from_checkpoint: str | None = argument(None, help="'latest', or the path of a checkpoint-N folder")
    max_train_steps: int = argument(1000, help="optimiser steps")
    train_batch_size: int = argument(64, help="images per optimiser step, over all processes and accumulation steps")
    gradient_accumulation_steps: int = argument(1, help="passes that share one optimiser step and its batch")
    learning_rate: float = argument(1e-3, help="peak learning rate; it falls to 1%% along a cosine")
    lr_warmup_steps: int = argument(50, help="steps of linear warm-up")
    max_grad_norm: float = argument(10.0, help="gradients are clipped to this norm")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = argument(None, help="default: what accelerate config says")
    val_fraction: float = argument(0.05, help="share of every training context kept for validation")
    validation_steps: int = argument(200, help="steps between validations, each with a sample grid")
    early_stopping_patience: int = argument(0, help="validations without improvement before stopping; 0: never stop")
    early_stopping_threshold: float = argument(1e-4, help="relative improvement of the loss that counts")
    checkpointing_steps: int = argument(500, help="steps between checkpoints")
    checkpoints_total_limit: int | None = argument(2, help="newest checkpoints kept")
    logging_steps: int = argument(20, help="steps between lines in metrics.jsonl")
    dataloader_num_workers: int = argument(0, help="processes that read images")
    report_to: str | None = argument(None, help="a tracker of accelerate: tensorboard, wandb, trackio, ...")
    push_to_hub: bool = argument(False, help="upload the result to the Hugging Face Hub")
    hub_model_id: str | None = argument(None, help="the Hub repository; default: named like --output_dir")

    def __post_init__(self) -> None:
        for name in (
            "max_train_steps",
            "train_batch_size",
            "gradient_accumulation_steps",
            "validation_steps",
            "checkpointing_steps",
            "logging_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.train_batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"--train_batch_size {self.train_batch_size} does not divide by --gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}"
            )
        if self.checkpoints_total_limit is not None and self.checkpoints_total_limit < 1:
            raise ValueError(f"--checkpoints_total_limit must be at least 1, got {self.checkpoints_total_limit}")
        if self.hub_model_id is not None and not self.push_to_hub:
            raise ValueError("--hub_model_id is where --push_to_hub uploads to: give both, or neither")

    def hub_repository(self) -> str | None:
        """The Hub repository to upload to, made now: what stops an upload stops the run before it trains.

        Raises:
            HubError: if it cannot be made.
        """
        if not self.push_to_hub:
            return None
        return make_repository(self.hub_model_id or Path(self.output_dir).resolve().name)
