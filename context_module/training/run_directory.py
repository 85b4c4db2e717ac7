"""An output directory: whether it may be used, its checkpoints, its metrics, its pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from context_module.drawing import save_samples
from context_module.errors import CheckpointError, HubError, OutputError, OutputExistsError
from context_module.io import MANIFEST, FolderLock, read_json, write_atomically, write_json, write_manifest

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["RunDirectory", "read_metrics"]

_OURS = (
    "checkpoint-*",
    ".checkpoint-*",
    "samples",
    "metrics.jsonl",
    "arguments.json",
    "result.json",
    "composition.md",
    "interventions.md",
    "labels.md",
    "evaluation",
)
_STATE = {"step", "best_step", "best_loss", "failures", "seed", "train_batch_size"}


class RunDirectory:
    """The folder of one run: ``checkpoint-N/``, ``samples/``, ``metrics.jsonl``, ``arguments.json``, ``result.json``.

    A run ends with a manifest, of the hashes of all that it ends with and of its flags, so that old weights are not
    taken for those of new flags; and then with its result.json, by which it is finished. One process has the folder
    at a time, from the construction on, or from `begin` on where there was none.

    Args:
        path: the folder, made on first use.
        overwrite: an earlier run in it may go.
        resume: ``"latest"``, the path of a checkpoint, or None.
        results: patterns of the files that the run ends with; those of a run that is overwritten or goes on are
            deleted when it begins.

    Attributes:
        resumes: whether an earlier run was to be gone on with.
        checkpoint: the checkpoint to resume from, or None to start afresh.

    Raises:
        OutputExistsError: if it holds a run, finished or not, that is neither resumed nor to be overwritten, or if
            another process is at work in it.
        OutputError: if the folder cannot be written.
        CheckpointError: if the checkpoint to resume from does not exist; lists those that do.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        resume: str | None = None,
        results: Iterable[str] = (),
    ) -> None:
        self.path, self.results, self._ready = Path(path), tuple(results), False
        if self.path.is_file():
            raise OutputExistsError(f"the output directory {self.path} is a file: give another output_dir")
        existing = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK):
            raise OutputError(f"{existing} cannot be written: give an output_dir where files can be made")
        self._lock = self._locked() if self.path.is_dir() else None
        self.resumes = bool(resume)
        self.checkpoint = self._find(resume) if resume else None
        self._overwrite = overwrite and self.checkpoint is None
        found = self.checkpoints()
        if not overwrite and self.checkpoint is None and self.finished():
            raise OutputExistsError(
                f"{self.path} holds a finished run: give another output_dir, or overwrite to replace it"
            )
        if not overwrite and not resume and found:
            raise OutputExistsError(
                f"{self.path} holds an unfinished run, last checkpoint {found[-1].name}: go on with "
                "resume_from_checkpoint=latest, or replace it with overwrite"
            )

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Make the folder and record the arguments; errors as of `make_room`."""
        self.make_room()
        write_json(self.path / "arguments.json", arguments)

    def make_room(self) -> None:
        """Make the folder. Only now does an earlier run go, if it may: inputs are checked.

        Raises:
            OutputExistsError: if another process began a run there in the meantime.
        """
        if self._ready:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = self._locked()
            if self.finished() or self.checkpoints():
                raise OutputExistsError(f"{self.path} got a run of another process meanwhile: give another output_dir")
        if self._overwrite or (self.path / MANIFEST).exists():
            # the marks first: what is left belongs to nothing
            for pattern in ("result.json", MANIFEST, *(_OURS if self._overwrite else ()), *self.results):
                for path in self.path.glob(pattern):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        for cut_off in self.path.glob(".*.tmp"):  # a crash came in their writing, or in their removal
            shutil.rmtree(cut_off) if cut_off.is_dir() else cut_off.unlink()
        self._ready = True

    def finished(self) -> bool:
        """Whether it holds the result of a run."""
        return (self.path / "result.json").exists()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Mark the run as finished, after all that it ends with is written."""
        self.path.mkdir(parents=True, exist_ok=True)
        kept = {path for pattern in (*self.results, "arguments.json") for path in self.path.glob(pattern)}
        files = sorted(str(path.relative_to(self.path)) for path in kept if path.is_file())
        write_manifest(self.path, files, result=dict(result))
        write_json(self.path / "result.json", result)

    @contextmanager
    def finishing(self, result: Mapping[str, Any]) -> Iterator[None]:
        """Upload within it: the run is finished after that, so that one that is killed can be resumed to upload.

        If the Hub refuses, the run is finished: its error says how to upload by hand.
        """
        try:
            yield
        except HubError:
            self.finish(result)
            raise
        self.finish(result)

    def _locked(self) -> FolderLock | None:
        """The lock of the folder, of the first process of a run; None for the others, and where nothing is written."""
        if int(os.environ.get("RANK") or 0) or not os.access(self.path, os.W_OK):
            return None
        return FolderLock.of(self.path, "training")

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = [path for path in self.path.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
        return sorted(found, key=_step)

    def temporary_checkpoint(self, step: int) -> Path:
        """Where to write checkpoint `step`, before `keep_checkpoint` gives it its name."""
        return self.path / f".checkpoint-{step}.tmp"

    def keep_checkpoint(self, step: int, limit: int | None) -> Path:
        """Rename a whole temporary checkpoint, then remove the oldest ones above `limit`."""
        kept, hidden = self.path / f"checkpoint-{step}", self.path / f".checkpoint-{step}.again.tmp"
        if kept.exists():  # the same step again, after a resume: the new one is whole, too
            kept.rename(hidden)
        self.temporary_checkpoint(step).rename(kept)
        shutil.rmtree(hidden, ignore_errors=True)
        for old in self.checkpoints()[: -limit if limit else 0]:
            self._remove(old)
        return kept

    def _remove(self, checkpoint: Path) -> None:
        """Delete a checkpoint, which at no time looks like a whole one."""
        hidden = self.path / f".{checkpoint.name}.old.tmp"
        checkpoint.rename(hidden)
        shutil.rmtree(hidden)

    def log(self, step: int, **values: float) -> None:
        """Append one line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run takes again."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _logged_step(line) <= step]
            write_atomically(path, lambda temporary: temporary.write_text("".join(f"{line}\n" for line in kept)))

    def save_preview(self, step: int, preview: Image | str) -> None:
        """Write samples/step-N.png, or step-N.md for a text."""
        (self.path / "samples").mkdir(exist_ok=True)
        save_samples(self.path / "samples" / f"step-{step:06d}.png", preview)

    def _find(self, resume: str) -> Path | None:
        found = self.checkpoints()
        if resume == "latest":
            return found[-1] if found else None
        checkpoint = Path(resume)
        if not (checkpoint / "train_state.json").is_file():
            listed = ", ".join(str(path) for path in found) or "none"
            raise CheckpointError(f"{resume} is no checkpoint; checkpoints in {self.path}: {listed}")
        return checkpoint

    @staticmethod
    def read_state(checkpoint: Path) -> dict[str, Any]:
        """The loop's own state of a checkpoint."""
        state = read_json(checkpoint / "train_state.json")
        if missing := sorted(_STATE - set(state)):
            raise CheckpointError(f"{checkpoint} is no whole checkpoint: train_state.json lacks {', '.join(missing)}")
        for name in _STATE:
            value = state[name]
            kinds = (int, float, type(None)) if name == "best_loss" else (int,)
            foreign = isinstance(value, bool) or not isinstance(value, kinds)
            if foreign or (name == "step" and value < 0):
                raise CheckpointError(f"{checkpoint} has an unusable train_state.json: {name} is {value!r}")
        return state


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, but for one cut off by a crash; none if there is no such file."""
    lines = Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
    return [json.loads(line) for line in lines if _logged_step(line) < float("inf")]


def _logged_step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line cut off by a crash
        return float("inf")
