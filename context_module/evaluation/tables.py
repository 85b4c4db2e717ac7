"""An evaluation as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from context_module.contexts import OBSERVATIONAL
from context_module.evaluation.result import Evaluation, Scores
from context_module.metrics import Estimate, WholeMetric, get_metric

__all__ = ["COSTLESS", "composition_table", "headline", "intervention_table", "summary_table", "verdict"]

#: What stands beside a module, by column, as tables call it.
COSTLESS = {"arithmetic": "latent arithmetic", "maps": "Gaussian maps", "recon": "the base's reconstructions"}
_CLOSE = 0.002
_DIFFERENT = 1.25  # times the least distance there can be: what no intervention at all does worse than
_MOST = 0.8  # of the way from real images to observational ones


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
        lines += ["", f"Of what the base allows beyond Gaussian maps: {headline(mean):.0%}."]
    return "\n".join(lines)


def intervention_table(evaluation: Evaluation) -> str:
    """The same of the interventions that were trained on, one concept each: which of them does what it should.

    Raises:
        KeyError: for an evaluation without such contexts or without the metric.
    """
    known = evaluation.contexts.items()
    rows = {context: found.scores for context, found in known if not found.held_out and context != OBSERVATIONAL}
    return "\n".join(_lines(rows))


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


def headline(distances: Mapping[str, float]) -> float:
    """(d(maps) - d(model)) / (d(maps) - d(recon)): 0 is what costs nothing, 1 is all that the base allows.

    NaN where the maps are as good as the base allows.

    Args:
        distances: to real images, of the ``model``, Gaussian ``maps`` and the base's reconstructions, ``recon``.

    >>> headline({"model": 0.03, "maps": 0.04, "recon": 0.02})
    0.5
    """
    model, maps, recon = (distances[column] for column in ("model", "maps", "recon"))
    return round((maps - model) / (maps - recon), 12) if maps > recon else float("nan")


def verdict(distances: Mapping[str, float]) -> str:
    """The distances of `headline` and the ``floor``, of real images, in words.

    Where it is known how far observational images are from the context, ``unchanged``, it also says whether an
    intervention is seen at all: in the data, as far as the base shows them, and in what the module makes of it.

    >>> verdict({"model": 0.09, "maps": 0.09, "recon": 0.08, "floor": 0.02})
    'limited by the base'
    >>> verdict({"model": 0.09, "maps": 0.09, "recon": 0.02, "floor": 0.02, "unchanged": 0.1})
    'no visible effect'
    """
    model, maps, recon, floor = (distances[column] for column in ("model", "maps", "recon", "floor"))
    if unchanged := distances.get("unchanged"):
        if unchanged < _DIFFERENT * max(recon, floor):
            return "hardly differs from observational images"
        if model - recon > _MOST * (unchanged - recon):
            return "no visible effect"
    if recon > 2 * floor and model < 1.25 * recon:
        return "limited by the base"
    if model <= 1.25 * max(floor, recon):
        return "as real images are"
    if model > maps + _CLOSE:
        return "worse than what costs nothing"
    return "better than what costs nothing" if model < maps - _CLOSE else "as what costs nothing"


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
