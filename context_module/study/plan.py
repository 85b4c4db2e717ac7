"""A published table that can be made again: its rows, figures and runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from context_module.study.budgets import BUDGETS, Budget
from context_module.study.runs import Command, Run
from context_module.study.table import evaluation, folder_name, training

__all__ = ["Plan", "PublishedTable"]


@dataclass(frozen=True)
class Plan:
    """What the runs of one seed are made from.

    Attributes:
        folder: of the table.
        seed: of these runs.
        spending: name of a budget.
        data_options: of the data, name=value, beside those of the table.
        recipe: by the name of a recipe, its file.
    """

    folder: Path
    seed: int
    spending: str
    data_options: list[str]
    recipe: Callable[[str], Path]

    @property
    def budget(self) -> Budget:
        """Flags by kind of training."""
        return BUDGETS[self.spending]

    @property
    def cache(self) -> Path:
        """Where data is rendered once for all runs."""
        return self.folder / "cache"

    def path(self, row: str) -> Path:
        """The folder of a row's run."""
        return self.folder / folder_name(row) / f"seed-{self.seed}"

    def train(self, recipe: str, path: Path, **options: Any) -> Command:
        """A call of a recipe that trains into a folder."""
        return training(self.recipe(f"{recipe}.py"), path, seed=self.seed, cache_dir=self.cache, **options)

    def evaluate(self, path: Path, **options: Any) -> Command:
        """A call of recipes/evaluate.py on what was trained there."""
        return evaluation(self.recipe("evaluate.py"), path, **options)

    def run(self, row: str, *commands: Command, needs: tuple[str, ...] = ()) -> Run:
        """A row's run; `needs` are rows."""
        names = tuple(f"{need}, seed {self.seed}" for need in needs)
        return Run(f"{row}, seed {self.seed}", self.path(row), commands, names)


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A table of somebody's paper or talk.

    Attributes:
        rows: in order.
        columns: key -> heading.
        runs: of a plan, the run of every row, and further ones that rows need.
        scores: of a finished run in this folder, by the key of their column.
        published, better, spread: see `Comparison`.
    """

    rows: tuple[str, ...]
    columns: Mapping[str, str]
    runs: Callable[[Plan], dict[str, Run]]
    scores: Callable[[Path], Mapping[str, float]]
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    better: Mapping[str, Literal["lower", "higher"] | None] = field(default_factory=dict)
    spread: bool = False
