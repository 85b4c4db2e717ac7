"""A table of methods, beside published figures if there are any: mean and standard error over seeds."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from context_module.io import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Comparison", "Score"]

_ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}


@dataclass(frozen=True)
class Score:
    """Mean and standard error over seeds, and the values; the error of a single seed is not known (NaN)."""

    mean: float
    error: float
    seeds: int
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Sequence[float]) -> Score | None:
        """None for no values; one that is not finite, as of a share of nothing, is none."""
        values = [value for value in values if math.isfinite(value)]
        if not values:
            return None
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), error, len(values), tuple(values))

    def spread(self, better: Literal["lower", "higher"] | None) -> str:
        """Mean, then the standard deviation over seeds and the best of them, if one end is the better one."""
        if self.seeds == 1:
            return str(self)
        best = "" if better is None else f", best {(max if better == 'higher' else min)(self.values):.3f}"
        return f"{self.mean:.3f} ({self.error * math.sqrt(self.seeds):.3f}{best})"

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if math.isnan(self.error) else f"{self.mean:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class Comparison:
    """One table.

    Attributes:
        title: what was compared.
        columns: key -> heading.
        scores: method -> column key -> `Score`, or None where there is none.
        published: method -> column key -> published mean; without any, nothing is said of them.
        better: column key -> which end is the better one, None where there is no better; by default the lower.
        spread: the deviation and the best value over seeds are shown, in place of the standard error.
    """

    title: str
    columns: Mapping[str, str]
    scores: Mapping[str, Mapping[str, Score | None]]
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    better: Mapping[str, Literal["lower", "higher"] | None] = field(default_factory=dict)
    spread: bool = False

    @classmethod
    def together(cls, title: str, tables: Mapping[str, Comparison]) -> Comparison:
        """Tables of the same methods, by name, as one: a row per method of each, then their means over the tables."""
        first = next(iter(tables.values()))
        scores = {f"{name}: {method}": row for name, table in tables.items() for method, row in table.scores.items()}
        for method in first.scores:
            found = {key: [table.scores[method].get(key) for table in tables.values()] for key in first.columns}
            scores[f"mean: {method}"] = {
                key: Score.of([score.mean for score in row if score is not None]) for key, row in found.items()
            }
        return cls(title, first.columns, scores, better=dict.fromkeys(first.columns))

    def save(self, directory: str | Path) -> None:
        """Write table.md, table.csv and table.png, each whole or not at all."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("table.md", f"# {self.title}\n\n{self.markdown()}\n"), ("table.csv", self.csv())):
            write_atomically(directory / name, lambda temporary, text=text: temporary.write_text(text, "utf-8"))  # type: ignore[misc]
        figure = self.figure()
        write_atomically(directory / "table.png", lambda temporary: figure.savefig(temporary, format="png", dpi=150))

    def markdown(self) -> str:
        """A Markdown table, the best of every column in bold; arrows say whether that is the lowest or the highest."""
        papers = {key for row in self.published.values() for key in row}
        headings = [
            part for key in self.columns for part in (self._heading(key), *(["paper"] if key in papers else []))
        ]
        lines = [f"| method | {' | '.join(headings)} |", "|---" * (1 + len(headings)) + "|"]
        best = {key: self._best(key) for key in self.columns}
        for method in self.scores:
            cells = [method]
            for key in self.columns:
                score, paper = self.scores[method].get(key), self.published.get(method, {}).get(key)
                text = (
                    "" if score is None else score.spread(self.better.get(key, "lower")) if self.spread else str(score)
                )
                cells.append(f"**{text}**" if method in best[key] else text)
                if key in papers:
                    cells.append("" if paper is None else f"{paper:.3f}")
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def csv(self) -> str:
        """One row per method and column: mean, standard error, number of seeds, and the published figure if any is."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        published = ["published"] if self.published else []
        writer.writerow(["method", "score", "mean", "standard_error", "seeds", *published])
        for method, row in self.scores.items():
            for key in self.columns:
                score, paper = row.get(key), self.published.get(method, {}).get(key, "")
                numbers = ("", "", 0) if score is None else (score.mean, score.error, score.seeds)
                writer.writerow([method, key, *numbers, *([paper] if self.published else [])])
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
        for axes, key in zip(panels, self.columns, strict=True):
            for place, method in enumerate(methods):
                score, paper = self.scores[method].get(key), self.published.get(method, {}).get(key)
                if score is not None:
                    spread = None if math.isnan(score.error) else score.error
                    axes.barh(place, score.mean, xerr=spread, color="#4878a8", height=0.62)
                    away, side = (4, "left") if score.mean >= 0 else (-4, "right")  # inside of the bar
                    axes.annotate(
                        f"{score.mean:.3f}", (0, place), (away, 0), textcoords="offset points", va="center", ha=side,
                        color="white", fontsize=8,
                    )  # fmt: skip
                if paper is not None:
                    axes.plot(paper, place, "d", color="#d1495b", markersize=6)
            axes.set_title(self._heading(key), fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
        panels[0].set_yticks(range(len(methods)), methods)
        panels[0].invert_yaxis()
        if self.published:
            mark = panels[0].plot([], [], "d", color="#d1495b", label="paper")
            figure.legend(handles=mark, loc="outside lower center", fontsize=8, frameon=False)
        return figure

    def _heading(self, key: str) -> str:
        return self.columns[key] + _ARROWS[self.better.get(key, "lower")]

    def _best(self, key: str) -> set[str]:
        """The methods with the best mean: several if they are level."""
        known = {method: score.mean for method, row in self.scores.items() if (score := row.get(key)) is not None}
        end = self.better.get(key, "lower")
        if not known or end is None:
            return set()
        best = min(known.values()) if end == "lower" else max(known.values())
        return {method for method, mean in known.items() if mean == best}
