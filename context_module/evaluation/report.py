"""An evaluation as one self-contained HTML file: tables with intervals, pictures inlined, no scripts."""

from __future__ import annotations

import base64
import importlib.resources
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from context_module.drawing import DPI, edge_map, mosaic, png
from context_module.evaluation.result import Evaluation
from context_module.evaluation.tables import COSTLESS
from context_module.metrics import Estimate, WholeMetric, figure_of, get_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["render_report"]

_COLUMNS = [("model", "with context module"), ("base", "base alone"), ("floor", "real against real")]
_ACCURACY = [("model", "generated"), ("floor", "real images")]


def render_report(
    title: str,
    evaluation: Evaluation,
    *,
    lead: str = "",
    facts: Mapping[str, str] | None = None,
    pictures: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    counterfactuals: Mapping[str, Tensor] | None = None,
    curves: Figure | None = None,
) -> str:
    """The report as HTML, with everything it shows inside.

    Args:
        title: of the page.
        evaluation: the figures.
        lead: a sentence below the title.
        facts: what was evaluated, name by name; ``command`` is set as code.
        pictures: by context, real and generated images (n, C, H, W) in [0, 1].
        counterfactuals: by row, the real images, then what they become under interventions.
        curves: the figure of the training.

    Raises:
        ImportError: if jinja2, Pillow or matplotlib is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ImportError(f"a report needs {error.name}: pip install context-module[evaluate]") from None

    template = importlib.resources.files("context_module.evaluation").joinpath("templates/report.html.j2")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    shown = [
        {"name": name, "held_out": _held_out(evaluation, name), "real": _strip(real), "generated": _strip(generated)}
        for name, (real, generated) in (pictures or {}).items()
    ]
    page = {
        "title": title,
        "lead": lead,
        "facts": dict(facts or {}),
        "columns": [*_columns(evaluation)[:-1], ("floor", "real images")],
        "summary": _summary(evaluation),
        "notes": [f"{figure_of(name).title}: {reason}." for name, reason in evaluation.skipped.items()],
        "pictures": shown,
        "counterfactuals": [(name, _strip(images, len(images))) for name, images in (counterfactuals or {}).items()],
        "contexts": list(_by_context(evaluation)),
        "wholes": list(_wholes(evaluation)),
        "graph": _graph(evaluation),
        "curves": None if curves is None else _drawing(curves),
    }
    page["sections"] = _sections(page)
    return environment.from_string(template.read_text(encoding="utf-8")).render(page)


def _summary(evaluation: Evaluation) -> list[tuple[str, list[tuple[str, dict[str, Estimate], bool]]]]:
    titles = {
        "concept": "Mean over the observational and the single-concept contexts",
        "composition": "Mean over the compositions, which were never trained on",
    }
    return [
        (titles[part], [(_name(metric), _as_columns(scores[metric]), False) for metric in scores])
        for part, scores in evaluation.summary.items()
    ]


def _by_context(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Per metric, a table of the contexts: training contexts and compositions, each with their mean."""
    scored = evaluation.contexts
    for metric in next(iter(scored.values())).scores if scored else ():
        rows = []
        for part, mean in evaluation.summary.items():
            names = [name for name in scored if scored[name].held_out == (part == "composition")]
            rows += [(name, _as_columns(scored[name].scores[metric]), False) for name in names]
            rows.append((f"mean ({part})", _as_columns(mean[metric]), True))
        columns = _columns(evaluation) if "base" in rows[0][1] else _ACCURACY
        columns = [*columns, *(pair for pair in COSTLESS.items() if pair[0] in rows[0][1])]
        yield {**_described(metric), "rows": rows, "columns": columns}


def _wholes(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """The sections about the model as a whole."""
    for name, found in evaluation.whole.items():
        if name == "graph":  # drawn, in a section of its own
            continue
        metric = get_metric(name)
        assert isinstance(metric, WholeMetric)
        tables = [{**asdict(table), "rows": [(*row, False) for row in table.rows]} for table in metric.tables(found)]
        yield {**_described(name), "anchor": name, "tables": tables}


def _graph(evaluation: Evaluation) -> dict[str, Any] | None:
    """The section about the learned graph."""
    found = evaluation.whole.get("graph")
    if found is None:
        return None
    graph, truth = found.graph, found.true_edges
    drawn = {**_described("graph"), **_drawing(edge_map(graph, truth)), "truth": truth}
    if truth is None:
        return drawn
    apart = {
        kind: ", ".join(f"{cause} → {effect}" for cause, effect in edges)
        for kind, edges in graph.differences(truth).items()
    }
    return {**drawn, "distance": graph.structural_hamming_distance(truth), "apart": apart}


def _sections(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(anchor, name) of the parts of the page."""
    sections = [("summary", "Summary")]
    for anchor, name in (
        ("pictures", "Real and generated"),
        ("counterfactuals", "Counterfactuals"),
        ("contexts", "By context"),
    ):
        sections += [(anchor, name)] if page[anchor] else []
    sections += [(section["anchor"], section["title"]) for section in page["wholes"]]
    sections += [("graph", "Learned graph")] if page["graph"] else []
    sections += [("training", "Training")] if page["curves"] else []
    return sections


def _columns(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Of a base alone, what the model and what the base generates is the same."""
    all_scores = (scores for context in evaluation.contexts.values() for scores in context.scores.values())
    alone = all(scores["model"] == scores["base"] for scores in all_scores if "base" in scores)
    return [("model", "samples of the base"), _COLUMNS[-1]] if alone else _COLUMNS


def _name(metric: str) -> str:
    figure = figure_of(metric)
    return f"{figure.title} ({figure.better})" if figure.better else figure.title


def _described(metric: str) -> dict[str, str]:
    """What the page says of a metric, or of one of its figures."""
    figure = figure_of(metric)
    return {"title": figure.title, "direction": figure.better, "text": figure.text}


def _as_columns(scores: dict[str, Estimate]) -> dict[str, Estimate]:
    """A classifier's accuracy on real images is to generated ones what the floor is to a distance."""
    return {"floor" if column == "real" else column: figure for column, figure in scores.items()}


def _held_out(evaluation: Evaluation, context: str) -> bool:
    return context in evaluation.contexts and evaluation.contexts[context].held_out


def _strip(images: Tensor, columns: int = 4) -> str:
    return _inlined(png(mosaic(images, columns)))


def _drawing(figure: Figure) -> dict[str, Any]:
    """A figure for the page, at the size it was drawn for: 96 of CSS's pixels an inch."""
    picture = png(figure)
    pixels = int.from_bytes(picture[16:20], "big")  # a PNG begins with its width
    return {"picture": _inlined(picture), "width": round(96 * pixels / DPI)}


def _inlined(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
