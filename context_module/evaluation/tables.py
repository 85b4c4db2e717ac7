"""An evaluation as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from context_module.evaluation.result import Evaluation
from context_module.metrics import Estimate, WholeMetric, get_metric

__all__ = ["COSTLESS", "composition_table", "headline", "summary_table", "verdict"]

#: What stands beside a module, by column, as tables call it.
COSTLESS = {"arithmetic": "latent arithmetic", "maps": "Gaussian maps", "recon": "the base's reconstructions"}
_CLOSE = 0.002


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
    name = "total_variation" if "total_variation" in rows["mean"] else "sliced_wasserstein"
    shares = [name for name in ("intended", "parses") if name in rows["mean"]]
    beside = [column for column in COSTLESS if column in rows["mean"][name]]
    titles = ["context", "base", *(COSTLESS[column] for column in beside), "with context module", "real against real"]
    titles += ["closer by", *shares, *(["verdict"] if beside else [])]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for context, row in rows.items():
        found = _values(row[name])
        cells = [context, *(f"{found[column]:.3f}" for column in ("base", *beside, "model", "floor"))]
        cells.append(f"{1 - found['model'] / found['base']:.0%}")
        cells += [f"{row[share]['model'].value:.0%}" for share in shares]
        cells += [verdict(_values(row[name]))] if beside else []
        lines.append(f"| {' | '.join(cells)} |")
    if beside:
        lines += ["", f"Of what the base allows beyond Gaussian maps: {headline(_values(rows['mean'][name])):.0%}."]
    return "\n".join(lines)


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

    >>> verdict({"model": 0.09, "maps": 0.09, "recon": 0.08, "floor": 0.02})
    'limited by the base'
    """
    model, maps, recon, floor = (distances[column] for column in ("model", "maps", "recon", "floor"))
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
