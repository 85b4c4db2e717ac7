"""An evaluation as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping

from context_module.contexts import OBSERVATIONAL
from context_module.evaluation.result import Evaluation, Scores
from context_module.evaluation.verdicts import headline, verdict
from context_module.metrics import ANSWERS, Estimate, WholeMetric, figure_of, get_metric, scaled_score

__all__ = ["COSTLESS", "composition_table", "intervention_table", "perturbation_table", "summary_table"]

#: What stands beside a module, by column, as tables call it.
COSTLESS = {"arithmetic": "latent arithmetic", "maps": "Gaussian maps", "recon": "the base's reconstructions"}


def composition_table(evaluation: Evaluation) -> str:
    """Distances of the held-out compositions to real samples, with their mean in the last row, and a verdict on each.

    The distance is the sliced Wasserstein one, of texts the total variation distance. "Closer by" is 1 - model / base:
    the share of the base's distance that is gone. Beside the module stand compositions that cost nothing, and what the
    base makes of the real images, the best any module in front of it can do; the last line is the `headline`. For
    texts, two more columns: the shares of concepts as intended, and of texts that parse.

    Raises:
        KeyError: for an evaluation without compositions or without that metric.
    """
    rows = {context: found.scores for context, found in evaluation.contexts.items() if found.held_out}
    rows["mean"] = evaluation.summary["composition"]
    lines, mean = _lines(rows), _values(rows["mean"][_distance(rows)])
    if "maps" in mean:
        share = headline(mean)
        said = "nothing, these are as near as its reconstructions" if math.isnan(share) else f"{share:.0%}"
        lines += ["", f"Of what the base allows beyond Gaussian maps: {said}."]
    return "\n".join(lines)


def intervention_table(evaluation: Evaluation) -> str:
    """The same of the interventions that were trained on, one concept each: which of them does what it should.

    Raises:
        KeyError: for an evaluation without such contexts or without the metric.
    """
    known = evaluation.contexts.items()
    rows = {context: found.scores for context, found in known if not found.held_out and context != OBSERVATIONAL}
    return "\n".join(_lines(rows))


def perturbation_table(evaluation: Evaluation, part: str = "composition") -> str:
    """Means over combinations of vectors, or over ``concept``, beside what takes no training, and scaled.

    A scaled score is 0 at the mean response and 1 at other real rows.

    Raises:
        KeyError: for an evaluation without such contexts or without the metric ``perturbation``.
    """
    scores = evaluation.summary[part]
    titles = ["", "model", *ANSWERS.values(), "real rows", "model, scaled", "additive, scaled"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name in ("e_distance", "vector_mmd", "delta_error", "delta_correlation"):
        found = _values(scores[name])
        cells = [figure_of(name).title, *(f"{found[column]:.3g}" for column in ("model", *ANSWERS, "floor"))]
        cells += [f"{scaled_score(found, column):.2f}" for column in ("model", "additive")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _distance(rows: Mapping[str, Scores]) -> str:
    return "total_variation" if any("total_variation" in row for row in rows.values()) else "sliced_wasserstein"


def _lines(rows: Mapping[str, Scores]) -> list[str]:
    """A table of distances, as lines of Markdown."""
    name, every = _distance(rows), list(rows.values())
    shares = [share for share in ("intended", "parses") if all(share in row for row in every)]
    beside = [column for column in COSTLESS if all(column in row[name] for row in every)]
    titles = ["context", "base", *(COSTLESS[column] for column in beside), "with context module", "real against real"]
    titles += ["closer by", *shares, *(["verdict"] if beside else [])]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for context, row in rows.items():
        found = _values(row[name])
        cells = [context, *(f"{found[column]:.3f}" for column in ("base", *beside, "model", "floor"))]
        cells.append(f"{1 - found['model'] / found['base']:.0%}")
        cells += [f"{row[share]['model'].value:.0%}" for share in shares]
        cells += [verdict(found)] if beside else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _values(figures: Mapping[str, Estimate]) -> dict[str, float]:
    return {column: figure.value for column, figure in figures.items()}


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
