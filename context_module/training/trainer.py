"""One training loop for every recipe, on Accelerate: one process or many, CPU or GPU, any precision.

Batches are a pure function of seed and step (`context_module.data.loader`) and so is the learning rate, so that a
resumed run goes on exactly where it stopped, in the middle of an epoch or of anything else.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from context_module.data import LabelledDataset, mixed_context_loader
from context_module.errors import CheckpointError, DataError, NonFiniteError
from context_module.io import Interruption, TrainingInterrupted, load_strictly, progress_bar
from context_module.objective import Objective
from context_module.training.checkpoints import Checkpoints
from context_module.training.groups import Groups
from context_module.training.passes import Passes
from context_module.training.run_directory import RunDirectory
from context_module.training.settings import TrainingSettings
from context_module.training.validation import mean_losses, random_numbers_of
from context_module.training.weights import trainable_state_dict

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL.Image import Image

__all__ = ["Trainer", "TrainingResult"]


@dataclass
class TrainingResult:
    """How a training ended; `loss` is the best validation loss per image, in nats, whose weights the model now has."""

    steps: int
    best_step: int
    loss: float
    stopped_early: bool
    seconds: float


def _check_batch(data: LabelledDataset, batch_size: int) -> None:
    """Raise DataError if a context has fewer images than its share of a batch: one batch would repeat them."""
    share = -(-batch_size // len(data.context_names))
    counts = data.counts
    small = min(counts, key=counts.__getitem__)
    if counts[small] < share:
        raise DataError(
            f"context {small!r} has {counts[small]} {data.kind} to train on, fewer than its "
            f"{share} of every batch: add {data.kind}, or lower train_batch_size to {counts[small] * len(counts)}"
        )


class Trainer:
    """Trains an objective on mixed-context batches.

    Args:
        accelerator: from `make_accelerator`.
        args: the run's arguments.
        run: the output directory.
        objective: what is trained, and how.
        train_data, val_data: images or encodings; batches are balanced over the contexts of `train_data`.
        preview: draws a picture of the model as it is, or a table of texts, as Markdown; called at every validation.

    Raises:
        DataError: for a context with fewer images than its share of a batch.
        ValueError: for parameter groups that do not hold every trainable parameter once; for early stopping by losses
            that are not comparable.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        args: TrainingSettings,
        run: RunDirectory,
        objective: Objective,
        train_data: LabelledDataset,
        val_data: LabelledDataset,
        *,
        preview: Callable[[], Image | str] | None = None,
    ) -> None:
        self.accelerator, self.args, self.run = accelerator, args, run
        self.train_data, self.val_data = train_data, val_data
        self.preview = preview
        self.bare = objective
        if args.early_stopping_patience and not objective.comparable:
            raise ValueError(
                "early_stopping_patience must be 0: validation losses of this objective do not say which weights are "
                "better"
            )
        if args.max_train_steps:
            _check_batch(train_data, args.train_batch_size)
        self.groups = Groups(objective, args.learning_rate, args.max_grad_norm)
        self.objective, self.optimizer = accelerator.prepare(objective, self.groups.optimizer)
        passes = args.gradient_accumulation_steps
        self.passes = Passes(accelerator, objective, self.objective, passes, args.seed, self._not_finite)
        self.checkpoints = Checkpoints(accelerator, run, objective, self.passes.whole)
        self.step, self.best_step, self.best_loss, self.failures = 0, 0, math.inf, 0
        self.best_weights: dict[str, Tensor] = {}

    def train(self) -> TrainingResult:
        """Run to the end, to early stopping, or until interrupted; leaves the objective with its best weights.

        Raises:
            NonFiniteError: if a loss is not finite; the last checkpoint is kept.
            TrainingInterrupted: on SIGINT or SIGTERM, after the step in hand; the last checkpoint is kept.
        """
        accelerator = self.accelerator
        started = time.monotonic()
        with Interruption() as interruption:  # from the first file on: what a run has begun, it keeps
            self._begin()
            if self.bare.ready and not self.step:
                self._validate()
            stopped_early = self._take_steps(interruption)
        if not self.best_weights:  # resumed at what is now the last step, before any validation
            self._validate()
        self.load_best()
        accelerator.end_training()
        seconds = round(time.monotonic() - started, 1)
        return TrainingResult(self.step, self.best_step, self.best_loss, stopped_early, seconds)

    def _take_steps(self, interruption: Interruption) -> bool:
        """The steps with all that is done between them; returns whether it stopped early."""
        args, stopped_early = self.args, False
        with self._progress_bar() as bar:
            for terms in self._steps():
                bar.update()
                if self.step % args.logging_steps == 0 or self.step == args.max_train_steps:
                    means = self._mean(terms)
                    self._log(lr=self._learning_rate(self.step - 1), **means)
                    bar.set_postfix(loss=f"{means['loss']:.4g}")
                    terms.clear()
                if self.step % args.validation_steps == 0 or self.step == args.max_train_steps:
                    stopped_early = self._validate()
                if self.step % args.checkpointing_steps == 0:
                    self._checkpoint()
                if interruption.signum is not None:
                    self._interrupted(interruption.signum)
                if stopped_early:
                    break
        return stopped_early

    def load_best(self) -> None:
        """Give the objective the weights of its best validation."""
        if self.best_weights:
            load_strictly(self.bare, self.best_weights, "the best weights", trainable_state_dict(self.bare))

    def _begin(self) -> None:
        from accelerate.utils import set_seed

        args, accelerator, run = self.args, self.accelerator, self.run
        if run.checkpoint is not None:
            self._resume(run.checkpoint)
        elif run.resumes:
            accelerator.print(f"no checkpoint in {run.path} yet: starting afresh")
        if accelerator.is_main_process:
            run.begin(dataclasses.asdict(args))
            run.forget_metrics_after(self.step)
        accelerator.wait_for_everyone()
        if args.report_to:
            flat = {
                name: value for name, value in dataclasses.asdict(args).items() if isinstance(value, int | float | str)
            }
            accelerator.init_trackers("context_module", config=flat)
        if run.checkpoint is None:
            set_seed(args.seed, device_specific=True)  # noise of its own for each process

    def _steps(self) -> Iterator[dict[str, list[Tensor]]]:
        """Take optimiser steps, yielding after each the loss terms since the caller last cleared them."""
        args, accelerator = self.args, self.accelerator
        accumulation = args.gradient_accumulation_steps
        loader = mixed_context_loader(
            self.train_data,
            args.train_batch_size,
            args.seed,
            num_steps=args.max_train_steps,
            start_step=self.step,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            passes=accumulation,
            per_context=self.bare.per_context,
            num_workers=args.dataloader_num_workers,
        )
        terms: dict[str, list[Tensor]] = defaultdict(list)
        self.objective.train()
        batches = map(self._to_device, loader)
        while shares := list(itertools.islice(batches, accumulation)):
            self.groups.set_learning_rate(self.optimizer, self._learning_rate(self.step))
            found = self.passes.gradients(shares, self.step / args.max_train_steps)
            norm = self.groups.clip(accelerator)
            # with fp16 that is how the loss scaler finds its scale: it skips such steps
            if not torch.isfinite(norm) and accelerator.scaler is None:
                self._not_finite(found[-1], shares[-1]["mask"])
            self.optimizer.step()
            self.optimizer.zero_grad()
            for losses in found:
                for name, value in losses.items():
                    terms[name].append(value.detach().mean())
            self.step += 1
            self.bare.after_step()
            yield terms

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to 1% of the peak."""
        args = self.args
        warm = min(1.0, (step + 1) / max(1, args.lr_warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * step / args.max_train_steps))
        return args.learning_rate * warm * (0.01 + 0.99 * cosine)

    @torch.no_grad()
    def _validate(self) -> bool:
        """Score, picture and early stopping; returns whether to stop."""
        args, accelerator = self.args, self.accelerator
        self.objective.eval()
        means = mean_losses(
            accelerator,
            self.bare,
            self.val_data,
            batch_size=args.train_batch_size,
            seed=args.seed,
            num_workers=args.dataloader_num_workers,
        )
        if self.preview is not None and accelerator.is_main_process:
            with random_numbers_of(accelerator.device, args.seed):
                self._show(self.preview())
        loss = means["loss"]
        if not math.isfinite(loss):
            terms = ", ".join(name for name, value in means.items() if not math.isfinite(value))
            raise NonFiniteError(
                f"the validation loss at step {self.step} is {loss} (terms: {terms}); {self._what_is_kept()}"
            )
        monitored = self.bare.monitor(self.val_data) if accelerator.is_main_process else {}
        self._log(**{f"val_{name}": value for name, value in means.items()}, **monitored)
        self.objective.train()
        if self._stage(self.step) != self._stage(self.best_step):
            self.best_loss = math.inf
        improved = loss < self.best_loss - args.early_stopping_threshold * abs(loss)
        self.failures = 0 if improved else self.failures + 1
        if loss < self.best_loss or not self.bare.comparable:
            self.best_loss, self.best_step = loss, self.step
            self.best_weights = {
                name: tensor.cpu().clone() for name, tensor in trainable_state_dict(self.bare).items()
            }
        return 0 < args.early_stopping_patience <= self.failures

    def _show(self, samples: Image | str) -> None:
        """Keep a preview in the run's folder, and pictures in the trackers that take them."""
        self.run.save_preview(self.step, samples)
        if isinstance(samples, str):
            return
        pixels = np.asarray(samples)
        for tracker in self.accelerator.trackers if self.args.report_to else ():
            if tracker.name == "tensorboard":
                tracker.log_images({"samples": pixels[None]}, step=self.step, dataformats="NHWC")
            elif hasattr(tracker, "log_images"):
                tracker.log_images({"samples": [pixels]}, step=self.step)

    def _stage(self, step: int) -> int:
        """How many of the objective's stages had begun in the last of so many steps."""
        return sum((step - 1) / self.args.max_train_steps >= share for share in self.bare.stages)

    def _checkpoint(self) -> None:
        state = {
            "best_step": self.best_step,
            "best_loss": self.best_loss if self.best_weights else None,
            "failures": self.failures,
            "seed": self.args.seed,
            "train_batch_size": self.args.train_batch_size,
        }
        self.checkpoints.save(self.step, state, self.best_weights, self.args.checkpoints_total_limit)

    def _resume(self, checkpoint: Path) -> None:
        state = RunDirectory.read_state(checkpoint)
        for name in ("seed", "train_batch_size"):
            if state.get(name) != getattr(self.args, name):
                raise CheckpointError(
                    f"{checkpoint} was made with {name} {state.get(name)}, not {getattr(self.args, name)}: "
                    "its batches would not go on where they stopped. Resume with the same value"
                )
        # a run that was stopped after its last step may be resumed, to finish
        if state["step"] >= self.args.max_train_steps + (not self.run.finished()):
            raise CheckpointError(
                f"{checkpoint} is at step {state['step']} already: raise max_train_steps above that to go on"
            )
        self.best_weights = self.checkpoints.load(
            checkpoint, state, seed=self.args.seed, inexactly=self.args.resume_inexactly
        )
        self.step, self.failures, self.best_step = state["step"], state["failures"], state["best_step"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]

    def _interrupted(self, signum: int) -> None:
        # processes stop at steps of their own, so a checkpoint of all of them together cannot be had
        if self.accelerator.num_processes == 1:
            self._checkpoint()
        raise TrainingInterrupted(f"interrupted at step {self.step}; {self._what_is_kept()}", signum)

    def _not_finite(self, losses: dict[str, Tensor], mask: Tensor) -> None:
        terms = ", ".join(name for name, value in losses.items() if not value.isfinite().all()) or "only the gradient"
        broken = ~losses["loss"].isfinite()
        mask = mask[broken] if len(mask) == len(broken) else mask  # a loss may be of part of the images
        names = self.train_data.concepts
        contexts = ", ".join(sorted({names.name(row) for row in mask.cpu()})) or "all"
        raise NonFiniteError(
            f"the loss is not finite at step {self.step} (terms: {terms}; contexts: {contexts}): try a lower "
            f"learning_rate or max_grad_norm, or a larger batch; {self._what_is_kept()}"
        )

    def _what_is_kept(self) -> str:
        kept = self.run.checkpoints()
        if not kept:
            return "no checkpoint had been written yet"
        return f"{kept[-1]} is kept: go on with resume_from_checkpoint=latest and the same arguments"

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}

    def _mean(self, terms: dict[str, list[Tensor]]) -> dict[str, float]:
        return {
            name: self.accelerator.reduce(torch.stack(values).mean(), "mean").item() for name, values in terms.items()
        }

    def _log(self, **values: float) -> None:
        if self.accelerator.is_main_process:
            self.run.log(self.step, **values)
        if self.args.report_to:
            self.accelerator.log(values, step=self.step)

    def _progress_bar(self) -> Any:
        return progress_bar(
            total=self.args.max_train_steps,
            initial=self.step,
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
