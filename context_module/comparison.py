"""A table of methods beside published figures: mean and standard error over seeds, as Markdown, CSV and a picture."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from context_module.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Comparison", "Score"]


@dataclass(frozen=True)
class Score:
    """Mean and standard error over seeds; the error of a single seed is not known (NaN)."""

    mean: float
    error: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Score | None:
        """None for no values."""
        if not values:
            return None
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), error, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if math.isnan(self.error) else f"{self.mean:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class Comparison:
    """One table.

    Attributes:
        title: what was compared.
        columns: key -> heading; lower is better in all of them.
        scores: method -> column key -> `Score`, or None where there is none.
        published: method -> column key -> published mean.
    """

    title: str
    columns: Mapping[str, str]
    scores: Mapping[str, Mapping[str, Score | None]]
    published: Mapping[str, Mapping[str, float]]

    def save(self, directory: str | Path) -> None:
        """Write table.md, table.csv and table.png, each whole or not at all."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("table.md", f"# {self.title}\n\n{self.markdown()}\n"), ("table.csv", self.csv())):
            write_atomically(directory / name, lambda temporary, text=text: temporary.write_text(text, "utf-8"))  # type: ignore[misc]
        figure = self.figure()
        write_atomically(directory / "table.png", lambda temporary: figure.savefig(temporary, format="png", dpi=150))

    def markdown(self) -> str:
        """A Markdown table, the best of every column in bold."""
        headings = [part for heading in self.columns.values() for part in (heading, "paper")]
        lines = [f"| method | {' | '.join(headings)} |", "|---" * (1 + len(headings)) + "|"]
        best = {key: self._best(key) for key in self.columns}
        for method in self.scores:
            cells = [method]
            for key in self.columns:
                score, paper = self.scores[method].get(key), self.published.get(method, {}).get(key)
                text = "" if score is None else str(score)
                cells.append(f"**{text}**" if text and method == best[key] else text)
                cells.append("" if paper is None else f"{paper:.3f}")
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def csv(self) -> str:
        """One row per method and column: mean, standard error, number of seeds, published figure."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["method", "score", "mean", "standard_error", "seeds", "published"])
        for method, row in self.scores.items():
            for key in self.columns:
                score, paper = row.get(key), self.published.get(method, {}).get(key, "")
                numbers = ("", "", 0) if score is None else (score.mean, score.error, score.seeds)
                writer.writerow([method, key, *numbers, paper])
        return text.getvalue()

    def figure(self) -> Figure:
        """A panel per column: bars for our means with their standard errors, marks for the published figures."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("the picture needs matplotlib: pip install context-module[evaluate]") from error
        methods = list(self.scores)
        figure = Figure(figsize=(1.5 + 2.8 * len(self.columns), 1.1 + 0.42 * len(methods)), layout="constrained")
        figure.suptitle(self.title, fontsize=10)
        panels = figure.subplots(1, len(self.columns), sharey=True, squeeze=False)[0]
        for axes, (key, heading) in zip(panels, self.columns.items(), strict=True):
            for place, method in enumerate(methods):
                score, paper = self.scores[method].get(key), self.published.get(method, {}).get(key)
                if score is not None:
                    spread = None if math.isnan(score.error) else score.error
                    axes.barh(place, score.mean, xerr=spread, color="#4878a8", height=0.62)
                    axes.annotate(
                        f"{score.mean:.3f}", (0, place), (4, 0), textcoords="offset points", va="center",
                        color="white", fontsize=8,
                    )  # fmt: skip
                if paper is not None:
                    axes.plot(paper, place, "d", color="#d1495b", markersize=6)
            axes.set_title(f"{heading} ↓", fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
        panels[0].set_yticks(range(len(methods)), methods)
        panels[0].invert_yaxis()
        if self.published:
            mark = panels[0].plot([], [], "d", color="#d1495b", label="paper")
            figure.legend(handles=mark, loc="outside lower center", fontsize=8, frameon=False)
        return figure

    def _best(self, key: str) -> str | None:
        known = {method: score.mean for method, row in self.scores.items() if (score := row.get(key)) is not None}
        return min(known, key=known.__getitem__) if known else None
