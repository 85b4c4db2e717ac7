"""The rows of the page's tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from context_module.evaluation.labels import LabelScores
from context_module.evaluation.result import Evaluation
from context_module.evaluation.tables import COSTLESS
from context_module.evaluation.verdicts import VERDICTS, judged
from context_module.metrics import ANSWERS, Estimate, WholeMetric, figure_of, get_metric

__all__ = ["by_context", "columns_of", "described", "labels_section", "summary", "verdict_parts", "whole_sections"]

_COLUMNS = [("model", "with context module"), ("base", "base alone"), ("floor", "real against real")]
_ACCURACY = [("model", "generated"), ("floor", "real images")]

# the name of a row, its figures by column, and whether it is a mean of those above
Row = tuple[str, dict[str, Estimate], bool]


def verdict_parts(evaluation: Evaluation) -> list[dict[str, Any]]:
    """What is said of compositions, and of single concepts: a count of each verdict, and the contexts, worst last."""
    words = list(VERDICTS)
    found = sorted(judged(evaluation), key=lambda one: words.index(one.verdict))
    parts = []
    for held_out, title, asked, first in (
        (True, "Compositions, which were never trained on", "composes", "composition"),
        (False, "Single concepts", "works", "concept"),
    ):
        rows = [one for one in found if one.held_out == held_out]
        if rows:
            counts = Counter(one.verdict for one in rows)
            said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
            ranked = [(one, words.index(one.verdict)) for one in rows]
            parts.append({"title": title, "asked": asked, "first": first, "said": said, "rows": ranked})
    return parts


def summary(evaluation: Evaluation) -> list[tuple[str, list[list[Row]]]]:
    """The means of every metric, by part of the evaluation."""
    titles = {
        "concept": "Mean over the observational and the single-concept contexts",
        "composition": "Mean over the compositions, which were never trained on",
    }
    return [
        (titles[part], [[(_name(metric), _as_columns(scores[metric]), False) for metric in scores]])
        for part, scores in evaluation.summary.items()
    ]


def by_context(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Per metric, a table of the contexts: training contexts and compositions, each with their mean."""
    scored = evaluation.contexts
    known = dict.fromkeys(metric for context in scored.values() for metric in context.scores)
    for metric in known:  # some are not of every context
        bodies: list[list[Row]] = []
        for part, mean in evaluation.summary.items():
            held_out = part == "composition"
            names = [name for name in scored if scored[name].held_out == held_out and metric in scored[name].scores]
            rows = [(name, _as_columns(scored[name].scores[metric]), False) for name in names]
            if not rows:
                continue
            bodies.append([*rows, (f"mean ({part})", _as_columns(mean[metric]), True)])
        first = bodies[0][0][1]
        columns = columns_of(evaluation) if "base" in first else _ACCURACY
        columns = [*columns, *(pair for pair in (COSTLESS | ANSWERS).items() if pair[0] in first)]
        yield {**described(metric), "bodies": bodies, "columns": columns}


def whole_sections(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """The sections about the model as a whole."""
    for name, found in evaluation.whole.items():
        if name == "graph":  # drawn, in a section of its own
            continue
        metric = get_metric(name)
        assert isinstance(metric, WholeMetric)
        tables = [
            {**asdict(table), "bodies": [[(*row, False) for row in table.rows]]} for table in metric.tables(found)
        ]
        yield {**described(name), "anchor": name, "tables": tables}


def labels_section(found: LabelScores) -> dict[str, Any]:
    """The section about what a labeller finds: a table for every context."""
    tables = []
    for context, ways in found.items():
        figures = list(next(iter(ways.values())))
        bodies: list[list[Row]] = [[(way, scores, False) for way, scores in ways.items()]]
        columns = [(figure, figure) for figure in figures]
        tables.append({"caption": context, "first": "made by", "bodies": bodies, "columns": columns})
    text = (
        "The same pictures, changed by the module and by what costs nothing, as a labeller sees them that took no "
        "part: the share that shows each concept, and that which shows what was asked for and nothing else; the share "
        "that is still nearest to the picture it was, how far it moved, in distances of two pictures, and how sharp "
        "it is, beside real ones."
    )
    return {"title": "By a labeller", "direction": "", "text": text, "anchor": "labels", "tables": tables}


def columns_of(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Of a base alone, what the model and what the base generates is the same."""
    all_scores = (scores for context in evaluation.contexts.values() for scores in context.scores.values())
    alone = all(scores["model"] == scores["base"] for scores in all_scores if "base" in scores)
    return [("model", "samples of the base"), _COLUMNS[-1]] if alone else _COLUMNS


def described(metric: str) -> dict[str, str]:
    """What the page says of a metric, or of one of its figures."""
    figure = figure_of(metric)
    return {"title": figure.title, "direction": figure.better, "text": figure.text}


def _name(metric: str) -> str:
    figure = figure_of(metric)
    return f"{figure.title} ({figure.better})" if figure.better else figure.title


def _as_columns(scores: dict[str, Estimate]) -> dict[str, Estimate]:
    """A classifier's accuracy on real images is to generated ones what the floor is to a distance."""
    return {"floor" if column == "real" else column: figure for column, figure in scores.items()}
