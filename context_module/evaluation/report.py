"""An evaluation as one self-contained HTML file: tables with intervals, pictures inlined, no scripts."""

from __future__ import annotations

import base64
import importlib.resources
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from context_module.drawing import DPI, edge_map, mosaic, png
from context_module.evaluation.result import Evaluation
from context_module.metrics import CounterfactualConsistency, Estimate, average

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["METRIC_TEXTS", "MetricText", "render_report"]

_COLUMNS = [("model", "with context module"), ("base", "base alone"), ("floor", "real against real")]
_ACCURACY = [("model", "generated"), ("floor", "real images")]


@dataclass(frozen=True)
class MetricText:
    """What a report says of a metric: its title, which direction is better, and what it measures."""

    title: str
    direction: str
    text: str


METRIC_TEXTS: dict[str, MetricText] = {
    "graph": MetricText(
        "Learned graph",
        "",
        "How strongly the context module lets one concept act on another: how far an intervention on the one moves "
        "the decoder inputs through that edge alone, in their own standard deviations. Edges count, and are drawn, "
        "from a fifth of the strongest one's strength, and not below 0.01.",
    ),
    "sliced_wasserstein": MetricText(
        "Sliced Wasserstein distance",
        "lower is better",
        "Both sets of images are projected onto random directions in pixel space; the distance is the root mean "
        "square gap between their sorted projections. It is the paper's measure.",
    ),
    "mmd": MetricText(
        "Squared MMD",
        "lower is better",
        "Maximum mean discrepancy with a Gaussian kernel as wide as the median distance between images. Unbiased: for "
        "two samples of one distribution it is about zero, possibly below.",
    ),
    "energy_distance": MetricText(
        "Energy distance",
        "lower is better",
        "How much farther images of different sets are from each other than images of one set. Unbiased: about zero, "
        "possibly below, for two samples of one distribution.",
    ),
    "precision": MetricText(
        "Precision",
        "higher is better",
        "Share of the generated images that lie among the real ones: within reach of a real image's third-nearest "
        "neighbour, by the features of a classifier of concepts. Fidelity.",
    ),
    "recall": MetricText(
        "Recall",
        "higher is better",
        "Share of the real images that lie among the generated ones, likewise. Diversity.",
    ),
    "density": MetricText(
        "Density",
        "about 1 is best",
        "Number of real neighbourhoods that a generated image lies in, relative to what is expected: precision that a "
        "few outliers among the real images do not raise.",
    ),
    "coverage": MetricText(
        "Coverage",
        "higher is better",
        "Share of the real images with a generated one in their neighbourhood: diversity, robust to outliers.",
    ),
    "concept_accuracy": MetricText(
        "Concept accuracy",
        "higher is better",
        "A classifier trained on real images of the training contexts tells which concepts were intervened on: the "
        "share of images where it names exactly those asked for. Read it beside its accuracy on real images.",
    ),
    "reconstruction": MetricText(
        "Reconstruction",
        "lower is better",
        "The negative evidence lower bound of real images that were never trained on, in bits: per pixel (over height "
        "times width, as in the paper) and per dimension (over the channels too).",
    ),
    "counterfactual": MetricText(
        "Counterfactual consistency",
        "closer to the simulator is better",
        "Real images are abducted and generated again under an intervention, and a regressor reads their true factors "
        "off: what the intervention does not reach should stay, the rest should follow the simulator.",
    ),
    "disentanglement": MetricText(
        "Disentanglement",
        "higher is better",
        "How well single codes stand for single true factors, on observational images. A code is the leading "
        "direction of a noise block's posterior means; of a base alone, an entry of its encoding that varies most.",
    ),
    "downstream": MetricText(
        "Downstream prediction",
        "higher is better",
        "What a small classifier on the frozen posterior means achieves: with few labels relative to many, and where "
        "a correlation of the training images is gone.",
    ),
}


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
        "notes": [f"{METRIC_TEXTS[name].title}: {reason}." for name, reason in evaluation.skipped.items()],
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
        text = METRIC_TEXTS[metric]
        yield {**asdict(text), "rows": rows, "columns": columns}


def _wholes(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """The sections about the model as a whole."""
    for name in ("reconstruction", "counterfactual", "disentanglement", "downstream"):
        found = getattr(evaluation, name)
        if found:
            text = METRIC_TEXTS[name]
            tables = _counterfactual_tables(found) if name == "counterfactual" else [_list_of(found)]
            yield {**asdict(text), "anchor": name, "tables": tables}


def _graph(evaluation: Evaluation) -> dict[str, Any] | None:
    """The section about the learned graph."""
    graph, truth = evaluation.graph, evaluation.true_edges
    if graph is None:
        return None
    text = METRIC_TEXTS["graph"]
    drawn = {**asdict(text), **_drawing(edge_map(graph, truth)), "truth": truth}
    if truth is None:
        return drawn
    apart = {
        kind: ", ".join(f"{cause} → {effect}" for cause, effect in edges)
        for kind, edges in graph.differences(truth).items()
    }
    return {**drawn, "distance": graph.structural_hamming_distance(truth), "apart": apart}


def _list_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Nested figures as a table of one column."""

    def rows(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Estimate], bool]]:
        if isinstance(value, Estimate):
            yield " / ".join(path).replace("_", " "), {"value": value}, False
        else:
            for key, item in value.items():
                yield from rows(item, (*path, str(key)))

    return {"caption": "", "first": "figure", "rows": list(rows(found, ())), "columns": [("value", "with interval")]}


def _counterfactual_tables(found: CounterfactualConsistency) -> list[dict[str, Any]]:
    """What each intervention does, and how well factors are read; the errors of each factor are in the JSON alone."""
    acts = [
        (
            concept,
            {
                "effect": scores.effect,
                "expected": scores.expected_effect,
                "errors": average(list(scores.errors.values())),
                "floor": average(list(scores.floor.values())),
                "pixels": scores.pixel_error,
            },
            False,
        )
        for concept, scores in found.concepts.items()
    ]
    reads = [(name, {"real": real, "model": found.reconstruction[name]}, False) for name, real in found.real.items()]
    return [
        {
            "caption": "An intervention on one concept, in standard deviations of the factors",
            "first": "concept",
            "rows": acts,
            "columns": [
                ("effect", "moves it by"),
                ("expected", "in the simulator by"),
                ("errors", "other factors off by"),
                ("floor", "at best, off by"),
                ("pixels", "pixels off by"),
            ],
        },
        {
            "caption": "How far off factors are when read from real images and from their reconstructions",
            "first": "factor",
            "rows": reads,
            "columns": [("real", "real images"), ("model", "reconstructions")],
        },
    ]


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
    text = METRIC_TEXTS[metric]
    return f"{text.title} ({text.direction})"


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
