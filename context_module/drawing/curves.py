"""Training curves: a panel for the loss and for each of its terms, with units, under one legend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from context_module.drawing.palette import Palette, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["training_curves"]

Points = list[tuple[int, float]]
_NATS = "nats per image"
_UNITS = {"neg_log_likelihood": _NATS, "kl": _NATS, "kl_group": _NATS}
_GAPS = "standard deviations"  # of `prior_gap`
_SERIES = re.compile(r"(?P<panel>gap|gap_do)/(?P<of_context>.+)|(?P<groups>kl_group)_\d+")


def training_curves(lines: Iterable[Mapping[str, Any]], *, dark: bool = False) -> Figure | None:
    """The loss and its terms over the steps of a training, a panel each; None before the second step.

    What is there for every context, or for every group of latents, shares a panel: its mean, and its range.

    Args:
        lines: of ``metrics.jsonl``: dicts with a ``step`` and values by name, those of a validation as ``val_<name>``.
        dark: bright on dark.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = _panels(lines)
    if len({step for curves in panels.values() for points in curves.values() for step, _ in points}) < 2:
        return None
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    ink = palette(dark)
    nats = "kl" in panels or "neg_log_likelihood" in panels
    with matplotlib.rc_context(ink.style):
        figure = Figure(figsize=(3.3 * columns, 2.4 * rows + 0.3), layout="constrained")
        all_axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (name, curves) in zip(all_axes, panels.items(), strict=False):
            unit = _UNITS.get(name, _NATS if nats and name == "loss" else _GAPS if name.startswith("gap") else "")
            _panel(axes, name.replace("_", " "), unit or "no unit", curves, ink)
        for axes in all_axes[len(panels) :]:
            axes.set_visible(False)
        labels: dict[str, Any] = {}
        for axes in all_axes:
            labels |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _panels(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[tuple[str, str], Points]]:
    """By panel, the points of each curve: (training, validation or floor, which of several)."""
    panels: dict[str, dict[tuple[str, str], Points]] = {}
    for line in lines:
        for logged, value in line.items():
            if logged in ("step", "lr"):
                continue
            name, part = logged.removeprefix("val_"), "validation" if logged.startswith("val_") else "training"
            panel = name
            if series := _SERIES.fullmatch(name):
                panel = series["panel"] or series["groups"]
                if series["of_context"]:  # validations alone have them
                    part = "floor" if series["of_context"] == "floor" else "validation"
            panels.setdefault(panel, {}).setdefault((part, name), []).append((line["step"], value))
    return panels


def _panel(axes: Axes, title: str, unit: str, curves: Mapping[tuple[str, str], Points], ink: Palette) -> None:
    looks: dict[str, dict[str, Any]] = {
        "training": {"color": ink.muted},
        "validation": {"color": ink.accent, "marker": "o", "markersize": 3},
        "floor": {"color": ink.ink, "linestyle": ":"},
    }
    for part, look in looks.items():
        values: dict[int, list[float]] = {}
        for (curve, _), points in curves.items():
            for step, value in points if curve == part else ():
                values.setdefault(step, []).append(value)
        if not values:
            continue
        steps = sorted(values)
        axes.plot(steps, [sum(values[s]) / len(values[s]) for s in steps], label=part, linewidth=1.3, **look)
        if max(map(len, values.values())) > 1:
            low, high = ([bound(values[s]) for s in steps] for bound in (min, max))
            axes.fill_between(
                steps, low, high, color=look["color"], alpha=0.18, linewidth=0, label="range over several"
            )
    every = [value for points in curves.values() for _, value in points]
    if min(every) > 0 and max(every) > 20 * min(every):
        axes.set_yscale("log")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("optimiser step", fontsize=8)
    axes.set_ylabel(unit, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=ink.ink)  # ticks are made when drawn, by the settings of then
    axes.locator_params(axis="x", nbins=4)
