"""An evaluation as Markdown."""

from __future__ import annotations

from context_module.evaluation.result import Evaluation
from context_module.metrics.estimate import Estimate

__all__ = ["composition_table", "summary_table"]


def composition_table(evaluation: Evaluation) -> str:
    """Sliced Wasserstein distances of the held-out compositions, with their mean in the last row.

    The last column is 1 - model / base: the share of the base's distance that is gone.

    Raises:
        KeyError: for an evaluation without compositions or without that metric.
    """
    name = "sliced_wasserstein"
    rows = {context: found.scores[name] for context, found in evaluation.contexts.items() if found.held_out}
    rows["mean"] = evaluation.summary["composition"][name]
    lines = ["| context | base | with context module | real against real | closer by |", "|---|---|---|---|---|"]
    for context, row in rows.items():
        base, model, floor = (row[column].value for column in ("base", "model", "floor"))
        lines.append(f"| {context} | {base:.3f} | {model:.3f} | {floor:.3f} | {1 - model / base:.0%} |")
    return "\n".join(lines)


def summary_table(evaluation: Evaluation) -> str:
    """The means over training contexts (concept) and over compositions of every metric, with their intervals."""
    lines = ["| | metric | model | base | real images |", "|---|---|---|---|---|"]
    for part, scores in evaluation.summary.items():
        for metric, columns in scores.items():
            cells = [_cell(columns.get(column)) for column in ("model", "base")]
            cells.append(_cell(columns.get("floor") or columns.get("real")))
            lines.append(f"| {part} | {metric.replace('_', ' ')} | {' | '.join(cells)} |")
    for name, bits in (evaluation.reconstruction or {}).items():
        lines.append(f"| reconstruction | {name.replace('_', ' ')} | {bits} | | |")
    return "\n".join(lines)


def _cell(figure: Estimate | None) -> str:
    return "" if figure is None else str(figure)
