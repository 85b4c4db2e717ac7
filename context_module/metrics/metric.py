"""A metric as an object: what it asks for, what it finds, and what a report says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from context_module.contexts import Kind
from context_module.metrics.case import Case
from context_module.metrics.estimate import Estimate

__all__ = ["ContextMetric", "Figure", "Metric", "Table", "WholeMetric", "figure_table", "inapplicable"]


@dataclass(frozen=True)
class Figure:
    """What a report says of a figure.

    Attributes:
        title: its name there.
        direction: whether ``lower`` or ``higher`` is better; of others, the phrase that says what is best, or "".
        text: what it measures, in a sentence or two.
    """

    title: str
    direction: str = ""
    text: str = ""

    @property
    def better(self) -> str:
        """The direction in words."""
        return f"{self.direction} is better" if self.direction in ("lower", "higher") else self.direction


@dataclass(frozen=True)
class Table:
    """A table of a report: rows of figures by column, each with the row's name.

    Attributes:
        rows: (name, column -> figure).
        columns: (column, its title), in order.
        first: title of the names.
        caption: what the table shows.
    """

    rows: list[tuple[str, dict[str, Estimate]]]
    columns: list[tuple[str, str]]
    first: str = "figure"
    caption: str = ""


def figure_table(found: Mapping[str, Any]) -> list[Table]:
    """Nested figures as a table of one column."""

    def rows(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Estimate]]]:
        if isinstance(value, Estimate):
            yield " / ".join(path).replace("_", " "), {"value": value}
        else:
            for key, item in value.items():
                yield from rows(item, (*path, str(key)))

    return [Table(list(rows(found, ())), [("value", "with interval")])]


def _nothing(case: Case) -> None:
    """Of a metric that applies to every case."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What all metrics have.

    Attributes:
        name: by which it is asked for.
        figure: what a report says of it.
        kind: what it is of.
        asks: the methods of a `Subject` that it calls, besides `sample`.
        reason: why it does not apply to a case, or None if it does; quick to tell.
    """

    name: str
    figure: Figure
    kind: Kind = "images"
    asks: tuple[str, ...] = ()
    reason: Callable[[Case], str | None] = _nothing


@dataclass(frozen=True, kw_only=True)
class ContextMetric(Metric):
    """A metric of the samples of one context.

    Attributes:
        score: ``score(samples, real, context, case)`` is an `Estimate`, or several by name: of float images
            (n, C, H, W) in [0, 1], beside as many real ones of the context. Of texts both are the factors (n, K) of
            the data's concepts, as its parser reads them.
        figures: what a report says of each name, where `score` finds several.
        columns: whose samples are scored: those of the ``model`` and of the ``base``, which is told of no context; of
            further real ones, the ``floor``; and the ``real`` ones themselves; where there is a base with embeddings
            also of what costs nothing, ``arithmetic`` and ``maps``; the base's reconstructions of the real ones,
            ``recon``; and those of observational images, ``unchanged``. Of vectors there are what takes no training,
            ``additive``, ``linear`` and ``mean_response`` (`Responses`); all are rows as `expression` has them.
        prepare: what is trained for it before any context is scored; DataError where that cannot be.
    """

    score: Callable[[Tensor, Tensor, str, Case], Estimate | dict[str, Estimate]]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    columns: tuple[str, ...] = ("model", "base", "floor")
    prepare: Callable[[Case], object] = _nothing


@dataclass(frozen=True, kw_only=True)
class WholeMetric(Metric):
    """A metric of a subject as a whole.

    Attributes:
        score: ``score(case)`` is a dictionary of `Estimate`, possibly nested, or an object with ``to_dict()`` for
            JSON; DataError where that only shows on trying.
        tables: how a report shows what was found.
        in_summary: the figures are rows of `summary_table`, too.
    """

    score: Callable[[Case], Any]
    tables: Callable[[Any], list[Table]] = figure_table
    in_summary: bool = False


def inapplicable(metric: Metric, case: Case) -> str | None:
    """Why a metric does not apply to a case, or None if it does, as far as that shows without trying."""
    if metric.kind != case.subject.kind:
        return f"it is of {metric.kind}, the model makes {case.subject.kind}"
    for method in metric.asks:
        if reason := case.subject.unable(method):
            return reason
    return metric.reason(case)
