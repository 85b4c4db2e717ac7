"""The Accelerator of a run: processes, devices, precision, and a tracker that can be had."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import torch

from context_module.training.settings import TrainingSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["make_accelerator", "multiplies_bf16"]


def make_accelerator(args: TrainingSettings, *, find_unused_parameters: bool = False) -> Accelerator:
    """The Accelerator of a run; seeds this process's initialisation, the same on every process.

    Args:
        args: the run's arguments.
        find_unused_parameters: some trainable parameters have no part in the loss, always or for a while.

    Raises:
        ImportError: without accelerate, or without the package of the tracker asked for.
        ValueError: for a tracker that accelerate does not know.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed
    except ImportError as error:
        raise ImportError("training needs accelerate: pip install context-module[train]") from error
    if args.report_to is not None:
        _check_tracker(args.report_to)
    accelerator = Accelerator(
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters)],
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to,
        project_config=ProjectConfiguration(project_dir=args.output_dir, logging_dir=f"{args.output_dir}/logs"),
    )
    set_seed(args.seed)
    for note in _slow_settings(accelerator):
        accelerator.print(f"note: {note}")
    return accelerator


def _slow_settings(accelerator: Accelerator) -> list[str]:
    """What makes a training on this CPU slower than it needs to be."""
    if accelerator.device.type != "cpu":
        return []
    notes = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    launched = "ACCELERATE_DYNAMO_MODE" in os.environ
    if launched and accelerator.num_processes == 1 and torch.get_num_threads() == 1 < cores:
        notes.append(
            f"one thread on {cores} cores, as accelerate launch has it: give it --num_cpu_threads_per_process {cores}"
        )
    if accelerator.mixed_precision == "bf16" and not multiplies_bf16():
        notes.append("this CPU has no instructions for bf16, which is far slower here than --mixed_precision no")
    return notes


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for bfloat16; where it cannot be told, it is taken to have them."""
    told = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    known = [tell() for tell in told if tell is not None] if platform.machine() in ("x86_64", "AMD64") else []
    return any(known) or not known


def _check_tracker(name: str) -> None:
    """Raise an error for a tracker that cannot be had: accelerate would train on and log nothing."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"unknown tracker {name!r} for report_to; accelerate knows {', '.join(LOGGER_TYPE_TO_CLASS)}")
    if name not in map(str, get_available_trackers()):
        package = name.replace("_", "-")
        raise ImportError(f"report_to={name!r} needs a package that is not installed: pip install {package}")
