"""The flags that every recipe that trains has, named as Hugging Face's example scripts name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from context_module.cli.arguments import argument
from context_module.cli.data import DataArguments
from context_module.io import make_repository, upload
from context_module.training import RunDirectory, TrainingSettings

__all__ = ["TrainingArguments"]


@dataclass(kw_only=True)
class TrainingArguments(DataArguments, TrainingSettings):
    """The flags of every recipe that trains."""

    overwrite: bool = argument(False, help="replace an earlier run in --output_dir")
    resume_from_checkpoint: str | None = argument(None, help="'latest', or the path of a checkpoint-N folder")
    val_fraction: float = argument(0.05, help="share of every training context kept for validation")
    push_to_hub: bool = argument(False, help="upload the result to the Hugging Face Hub")
    hub_model_id: str | None = argument(None, help="the Hub repository; default: named like --output_dir")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hub_model_id is not None and not self.push_to_hub:
            raise ValueError("--hub_model_id is where --push_to_hub uploads to: give both, or neither")

    def run_directory(self, results: Iterable[str]) -> RunDirectory:
        """The run's folder, as --overwrite and --resume_from_checkpoint say; arguments and errors as there.

        Args:
            results: patterns of the files that the run ends with.
        """
        return RunDirectory(
            self.output_dir, overwrite=self.overwrite, resume=self.resume_from_checkpoint, results=results
        )

    def hub_repository(self) -> str | None:
        """The Hub repository to upload to, made now: what stops an upload stops the run before it trains.

        Raises:
            HubError: if it cannot be made.
        """
        if not self.push_to_hub:
            return None
        return make_repository(self.hub_model_id or Path(self.output_dir).resolve().name)

    def publish(self, folder: Path, repository: str | None, files: Sequence[str], what: str) -> None:
        """Upload a run's result to the repository of `hub_repository`, if there is one, and say where it is.

        Args:
            folder: of the run.
            repository: what `hub_repository` returned.
            files: patterns of the files that are the result.
            what: it is, for the commit's message.
        """
        if repository is not None:
            upload(folder, repository, files, what)
            print(f"https://huggingface.co/{repository}")
