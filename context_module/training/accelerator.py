"""The Accelerator of a run: processes, devices, precision, and a tracker that can be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from context_module.training.settings import TrainingSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["make_accelerator"]


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
    return accelerator


def _check_tracker(name: str) -> None:
    """Raise an error for a tracker that cannot be had: accelerate would train on and log nothing."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"unknown tracker {name!r} for report_to; accelerate knows {', '.join(LOGGER_TYPE_TO_CLASS)}")
    if name not in map(str, get_available_trackers()):
        package = name.replace("_", "-")
        raise ImportError(f"report_to={name!r} needs a package that is not installed: pip install {package}")
