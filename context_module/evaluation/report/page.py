"""The page: its parts in order, put into the template."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from context_module.drawing import training_curves
from context_module.evaluation.labels import LabelScores
from context_module.evaluation.notes import unfamiliar_notes
from context_module.evaluation.report.pictures import Drawing, drawing, film, graph_drawing, strip
from context_module.evaluation.report.rows import (
    by_context,
    columns_of,
    described,
    labels_section,
    summary,
    verdict_parts,
    whole_sections,
)
from context_module.evaluation.result import Evaluation
from context_module.metrics import figure_of

__all__ = ["render_report"]

_SHOWN = {"real": "real", "model": "generated", "maps": "Gaussian maps"}


def render_report(
    title: str,
    evaluation: Evaluation,
    *,
    lead: str = "",
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    counterfactuals: Mapping[str, Tensor] | None = None,
    traversals: Mapping[str, Tensor] | None = None,
    strengths: Mapping[str, Mapping[float, Tensor]] | None = None,
    labels: LabelScores | None = None,
    log: Iterable[Mapping[str, Any]] = (),
) -> str:
    """The report as HTML, with everything it shows inside; a policy in it lets browsers load nothing else.

    Args:
        title: of the page.
        evaluation: the figures, and the pictures of every context.
        lead: a sentence below the title.
        facts: what was evaluated, name by name; ``command`` is set as code.
        notes: on what is odd, beside the verdicts.
        counterfactuals: by row, the real images (n, C, H, W) in [0, 1], then what they become under interventions.
        traversals: by part of a code, images (n, C, H, W) in [0, 1] along it.
        strengths: by concept, the images (n, C, H, W) in [0, 1] at even steps of strength.
        labels: what a labeller finds, see `score_by_labellers`.
        log: lines of ``metrics.jsonl``, see `training_curves`.

    Raises:
        ImportError: if jinja2, Pillow or matplotlib is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ImportError(f"a report needs {error.name}: pip install context-module[evaluate]") from None

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("context_module.evaluation.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["digest"] = _digest
    page = {
        "title": title,
        "lead": lead,
        "facts": dict(facts or {}),
        "verdicts": verdict_parts(evaluation),
        "notes": [*notes, *unfamiliar_notes(evaluation)],
        "columns": [*columns_of(evaluation)[:-1], ("floor", "real images")],
        "summary": summary(evaluation),
        "skipped": [f"{figure_of(name).title}: {reason}." for name, reason in evaluation.skipped.items()],
        "pictures": _pictures(evaluation),
        "strengths": [(concept, film(frames)) for concept, frames in (strengths or {}).items()],
        "counterfactuals": [(name, strip(images, len(images))) for name, images in (counterfactuals or {}).items()],
        "traversals": [(name, strip(images, len(images))) for name, images in (traversals or {}).items()],
        "contexts": list(by_context(evaluation)),
        "wholes": [*([labels_section(labels)] if labels else []), *whole_sections(evaluation)],
        "graph": _graph(evaluation),
        "curves": _curves(list(log)),
    }
    page["sections"] = _sections(page)
    return environment.get_template("report.html.j2").render(page)


def _digest(text: str) -> str:
    """The source that a content security policy knows an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode("ascii")


def _pictures(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Examples of every context, training contexts first."""
    contexts = sorted(evaluation.contexts.items(), key=lambda item: item[1].held_out)
    return [
        {
            "name": name,
            "held_out": context.held_out,
            "columns": [
                (_SHOWN[column], strip(images)) for column, images in context.examples.items() if column in _SHOWN
            ],
        }
        for name, context in contexts
        if context.examples
    ]


def _graph(evaluation: Evaluation) -> dict[str, Any] | None:
    """The section about the learned graph."""
    found = evaluation.whole.get("graph")
    if found is None:
        return None
    graph, truth = found.graph, found.true_edges
    drawn = {**described("graph"), "drawing": graph_drawing(graph, truth), "truth": truth}
    if truth is None:
        return drawn
    apart = {
        kind: ", ".join(f"{cause} → {effect}" for cause, effect in edges)
        for kind, edges in graph.differences(truth).items()
    }
    return {**drawn, "distance": graph.structural_hamming_distance(truth), "apart": apart}


def _curves(log: list[Mapping[str, Any]]) -> Drawing | None:
    light, dark = (training_curves(log, dark=dark) for dark in (False, True))
    return None if light is None or dark is None else drawing(light, dark)


def _sections(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(anchor, name) of the parts of the page."""
    sections = [("verdicts", "Verdicts"), ("summary", "Summary")]
    for anchor, name in (
        ("pictures", "Real and generated"),
        ("strengths", "Strengths"),
        ("counterfactuals", "Counterfactuals"),
        ("traversals", "Traversals"),
        ("contexts", "By context"),
    ):
        sections += [(anchor, name)] if page[anchor] else []
    sections += [(section["anchor"], section["title"]) for section in page["wholes"]]
    sections += [("graph", "Learned graph")] if page["graph"] else []
    sections += [("training", "Training")] if page["curves"] else []
    return sections
