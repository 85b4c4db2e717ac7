"""An evaluation as Markdown."""

from __future__ import annotations

from context_module.evaluation.result import Evaluation
from context_module.metrics import Estimate, WholeMetric, get_metric

__all__ = ["composition_table", "summary_table"]


def composition_table(evaluation: Evaluation) -> str:
    """Distances of the held-out compositions to real samples, with their mean in the last row.

    The distance is the sliced Wasserstein one, of texts the total variation distance. "Closer by" is 1 - model / base:
    the share of the base's distance that is gone. For texts, two more columns: the shares of
    concepts as intended, and of texts that parse.

    Raises:
        KeyError: for an evaluation without compositions or without that metric.
    """
    rows = {context: found.scores for context, found in evaluation.contexts.items() if found.held_out}
    rows["mean"] = evaluation.summary["composition"]
    name = "total_variation" if "total_variation" in rows["mean"] else "sliced_wasserstein"
    shares = [name for name in ("intended", "parses") if name in rows["mean"]]
    titles = ["context", "base", "with context module", "real against real", "closer by", *shares]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for context, row in rows.items():
        base, model, floor = (row[name][column].value for column in ("base", "model", "floor"))
        cells = [context, *(f"{value:.3f}" for value in (base, model, floor)), f"{1 - model / base:.0%}"]
        cells += [f"{row[share]['model'].value:.0%}" for share in shares]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary_table(evaluation: Evaluation) -> str:
    """The means over training contexts (concept) and over compositions of every metric, with their intervals."""
    lines = ["| | metric | model | base | real images |", "|---|---|---|---|---|"]
    for part, scores in evaluation.summary.items():
        for metric, columns in scores.items():
            cells = [_cell(columns.get(column)) for column in ("model", "base")]
            cells.append(_cell(columns.get("floor") or columns.get("real")))
            lines.append(f"| {part} | {metric.replace('_', ' ')} | {' | '.join(cells)} |")
    for metric, found in evaluation.whole.items():
        described = get_metric(metric)
        if isinstance(described, WholeMetric) and described.in_summary:
            lines += [f"| {metric} | {name.replace('_', ' ')} | {figure} | | |" for name, figure in found.items()]
    return "\n".join(lines)


def _cell(figure: Estimate | None) -> str:
    return "" if figure is None else str(figure)
