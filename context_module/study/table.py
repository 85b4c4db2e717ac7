"""What recipes that make one table of many runs share: their flags, their calls of other recipes, and the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from context_module.cli import argument
from context_module.data import parse_options
from context_module.study.comparison import Comparison, Score
from context_module.study.runs import Command, Run, flags, run_all, slots, with_needs

__all__ = ["StudyArguments", "evaluation", "folder_name", "run_study", "training"]


@dataclass(kw_only=True)
class StudyArguments:
    """The flags of every recipe that makes a table of many runs."""

    seeds: int = argument(1, help="runs of every row, with seeds 0, 1, ...")
    data_options: list[str] = argument([], help="further options of the data, each name=value, as in root=mnist/")
    cluster: Literal["local", "slurm"] = argument("local", help="run on this machine, or submit to Slurm")
    jobs: int | None = argument(None, help="runs at a time; default: one per GPU, or per core without; on Slurm 16")
    cluster_options: list[str] = argument([], help="of submitit's executor, each name=value")

    def __post_init__(self) -> None:
        if self.seeds < 1 or (self.jobs is not None and self.jobs < 1):
            raise ValueError(f"--seeds and --jobs must be at least 1, got {self.seeds} and {self.jobs}")


def folder_name(row: str) -> str:
    """A row's name as that of a folder: no brackets and apostrophes, hyphens for spaces."""
    return re.sub(r"[()']", "", row).replace(" ", "-")


def training(recipe: Path, folder: Path, **options: Any) -> Command:
    """A call of a recipe that trains, such as recipes/finetune.py; `options` are its flags."""
    return Command((str(recipe), *flags(output_dir=folder, **options)), folder / "result.json", resumable=True)


def evaluation(recipe: Path, model: Path, **options: Any) -> Command:
    """A call of recipes/evaluate.py on the folder of a training; `options` are its flags."""
    folder = model / "evaluation"
    return Command((str(recipe), *flags(model=model, output_dir=folder, **options)), folder / "report.json")


def run_study(
    args: StudyArguments,
    title: str,
    folder: Path,
    rows: Iterable[str],
    seeds: Sequence[Mapping[str, Run]],
    scores_of: Callable[[Path], Mapping[str, float]],
    columns: Mapping[str, str],
    **table: Any,
) -> Comparison:
    """Do what is not finished of the runs; write and print the table of those that are; then say what failed.

    Args:
        args: the flags.
        title: of the table; what was spent is added.
        folder: for the table, and for a cluster's job files.
        rows: of the table.
        seeds: for each seed a run by the name of its row, and further runs that rows need.
        scores_of: the scores of a finished run in this folder, by the key of their column.
        columns, table: of the `Comparison`.

    Returns:
        the table.

    Raises:
        ValueError: if runs failed.
    """
    rows = list(dict.fromkeys(rows))
    failures = run_all(
        [run for runs in seeds for run in with_needs(runs.values(), [runs[row] for row in rows])],
        slots=slots(args.cluster, args.jobs),
        cluster=args.cluster,
        folder=folder / "jobs",
        options=parse_options(args.cluster_options),
    )
    scores: dict[str, dict[str, Score | None]] = {}
    for row in rows:
        finished = [scores_of(runs[row].folder) for runs in seeds if runs[row].finished]
        scores[row] = {key: Score.of([values[key] for values in finished if key in values]) for key in columns}
    comparison = Comparison(f"{title}, {len(seeds)} seed{'s' * (len(seeds) > 1)}", columns, scores, **table)
    comparison.save(folder)
    print(f"{comparison.markdown()}\n\n{folder}: table.md, table.csv, table.png")
    if failures:
        lines = "\n".join(f"- {name}: {reason}" for name, reason in failures.items())
        raise ValueError(f"{len(failures)} runs failed; mend the cause and give the same command again\n{lines}")
    return comparison
