"""What a checkpoint holds of a training: all that goes on from it, and whether it is as it was written."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from context_module.errors import CheckpointError, OutputError
from context_module.io import load_strictly, load_tensors, misfitting, save_tensors, write_json, write_manifest
from context_module.objective import Objective
from context_module.training.run_directory import RunDirectory
from context_module.training.weights import trainable_state_dict
from context_module.training.whole_batch import WholeBatch

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Checkpoints"]

_NOISE, _BEST = "noise.safetensors", "best.safetensors"


class Checkpoints:
    """Writes and reads the checkpoints of a run.

    Args:
        accelerator: that holds the optimiser.
        run: the folder.
        objective: of whose weights those that train are kept: the base's are where they came from.
        whole: draws of the whole batch, where there are shares of it.
    """

    def __init__(
        self, accelerator: Accelerator, run: RunDirectory, objective: Objective, whole: WholeBatch | None
    ) -> None:
        self.accelerator, self.run, self.objective, self.whole = accelerator, run, objective, whole
        accelerator.register_save_state_pre_hook(self._save_weights)
        accelerator.register_load_state_pre_hook(self._load_weights)

    def save(self, step: int, state: Mapping[str, Any], best: Mapping[str, Tensor], limit: int | None) -> None:
        """Write checkpoint `step`, called on all processes; it has its name once all of it is there.

        Raises:
            OutputError: if it cannot be written, as on a full disk.
        """
        temporary = self.run.temporary_checkpoint(step)
        try:
            self.accelerator.save_state(str(temporary))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                save_tensors(temporary / _BEST, best)
                save_tensors(temporary / _NOISE, self._noise())
                write_json(temporary / "train_state.json", {"step": step, **state})
                write_manifest(temporary, sorted(path.name for path in temporary.iterdir()))
                self.run.keep_checkpoint(step, limit)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
            reason = str(error).partition("\n")[0]
            raise OutputError(
                f"cannot write checkpoint {step} into {self.run.path} ({reason}): make room, and go on with "
                "resume_from_checkpoint=latest from the last one that is whole"
            ) from error
        self.accelerator.wait_for_everyone()

    def load(self, checkpoint: Path, state: Mapping[str, Any], *, seed: int, inexactly: bool) -> dict[str, Tensor]:
        """Go on from a checkpoint; returns the best weights.

        Args:
            checkpoint: the folder.
            state: of the loop, as it holds it.
            seed: of the run.
            inexactly: random states may be lost; noise is then drawn from new ones.

        Raises:
            CheckpointError: for files that are missing, damaged or foreign; names them.
        """
        from accelerate.utils import set_seed

        lost = self._lost_random_states(checkpoint, inexactly)
        set_seed(seed + state["step"], device_specific=True)  # of processes that there were none of
        try:
            self.accelerator.load_state(str(checkpoint))
        except CheckpointError:
            raise
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"{checkpoint} cannot be read, it is damaged or foreign: {reason}") from error
        self.accelerator.step = 0  # checkpoints lie between optimiser steps, whatever the accumulation is now
        if not lost:
            self._set_noise(load_tensors(checkpoint / _NOISE), checkpoint)
        elif self.whole is not None:
            self.whole.seed = seed + state["step"]
        return load_tensors(checkpoint / _BEST)

    def _lost_random_states(self, checkpoint: Path, inexactly: bool) -> bool:
        """Whether random states are missing or damaged; CheckpointError if they must not, or if anything else is."""
        problems = misfitting(checkpoint)
        lost = {name: what for name, what in problems.items() if name == _NOISE or name.startswith("random_states")}
        if damaged := {name: what for name, what in problems.items() if name not in lost}:
            raise CheckpointError(f"{checkpoint} is damaged: {_told(damaged)}. Resume from an earlier checkpoint")
        if lost and not inexactly:
            raise CheckpointError(
                f"{checkpoint} has lost its random states ({_told(lost)}): noise would not go on where it stopped, "
                "and the result would be another one. Resume from an earlier checkpoint, or with resume_inexactly to "
                "go on all the same"
            )
        return bool(lost)

    def _noise(self) -> dict[str, Tensor]:
        """The states of the streams that noise is drawn from, by kind of device."""
        if self.whole is not None:
            return self.whole.state()
        device = self.accelerator.device
        states = {"cpu": torch.get_rng_state()}
        return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})

    def _set_noise(self, states: dict[str, Tensor], checkpoint: Path) -> None:
        try:
            if self.whole is not None:
                self.whole.set_state(states)
                return
            for kind, state in states.items():
                if kind == "cpu":
                    torch.set_rng_state(state)
                elif self.accelerator.device.type == kind:
                    torch.cuda.set_rng_state(state, self.accelerator.device)
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(f"{checkpoint / _NOISE} holds no random states of this torch: {error}") from error

    def _save_weights(self, models: list[nn.Module], weights: list[dict[str, Tensor]], directory: str) -> None:
        weights.clear()  # accelerate would write the frozen base too
        if self.accelerator.is_main_process:
            Path(directory).mkdir(parents=True, exist_ok=True)
            save_tensors(Path(directory) / "weights.safetensors", trainable_state_dict(self.objective))

    def _load_weights(self, models: list[nn.Module], directory: str) -> None:
        models.clear()
        tensors = load_tensors(Path(directory) / "weights.safetensors")
        load_strictly(self.objective, tensors, directory, trainable_state_dict(self.objective))


def _told(problems: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {what}" for name, what in problems.items())
