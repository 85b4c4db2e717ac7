"""Figures of a report: mosaics of images, learned graphs, training curves; pyplot and its global state stay out."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.errors import ShapeError
from context_module.nn import CausalGraph, Edge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from PIL.Image import Image

__all__ = ["DPI", "edge_map", "mosaic", "png", "training_curves"]

DPI = 160  # of figures as files
_INK, _ACCENT, _MUTED = "#1f2933", "#b3401f", "#8795a1"
_GAP, _GREY = 2, 0.85  # pixels between images, seen beside black and white ones
_STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def mosaic(images: Tensor, columns: int, *, min_size: int = 64) -> Image:
    """Images side by side, row by row, without labels.

    Args:
        images: (n, C, H, W) in [0, 1], C 1 or 3.
        columns: images per row.
        min_size: small images are enlarged, by a whole factor, to at least this many pixels.

    Raises:
        ShapeError: for anything but a few images of 1 or 3 channels.
    """
    from PIL import Image

    if images.ndim != 4 or not len(images) or images.shape[1] not in (1, 3):
        raise ShapeError(f"a mosaic needs images (n, C, H, W) with C = 1 or 3, got {tuple(images.shape)}")
    factor = max(1, -(-min_size // min(images.shape[2:])))
    pixels = images.detach().float().cpu().clamp(0, 1).expand(-1, 3, -1, -1)
    pixels = F.pad(pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3), (0, _GAP, 0, _GAP), value=_GREY)
    missing = -len(pixels) % columns
    pixels = torch.cat([pixels, torch.ones(missing, *pixels.shape[1:])])
    rows = pixels.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)  # row, height, column, width, channel
    whole = rows.reshape(-1, columns * pixels.shape[3], 3)[:-_GAP, :-_GAP]
    return Image.fromarray((whole * 255).round().byte().numpy())


def edge_map(graph: CausalGraph, true_edges: Iterable[Edge] | None = None, threshold: float = 0.2) -> Figure:
    """A graph of concepts as a drawing and, beside it, as a heat map with a column per cause and a row per effect.

    Args:
        graph: such as `ContextualDecoder.graph` returns.
        true_edges: (cause, effect) pairs, where the true graph is known: the heat map outlines them; in the drawing
            missing ones are dashed, and those that are not in truth are red.
        threshold: of the edges that are drawn, as a share of the strongest.

    Raises:
        ImportError: if networkx is not installed; torch depends on it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    size = len(graph.concepts)
    width, height = 1.8 + 0.62 * size, max(2.4, 1.4 + 0.52 * size)
    true_edges = None if true_edges is None else tuple(true_edges)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(height + 1 + width, height), layout="constrained")
        drawing, heat_map = figure.subplots(1, 2, width_ratios=(height + 1, width))
        _draw_graph(drawing, graph, true_edges, threshold)
        picture = _heat_map(heat_map, graph, true_edges or ())
        figure.colorbar(picture, ax=heat_map, shrink=0.8, label="strength of the edge").outline.set_visible(False)
    return figure


def _draw_graph(axes: Axes, graph: CausalGraph, true_edges: tuple[Edge, ...] | None, threshold: float) -> None:
    """Concepts on a circle, their names outside it, arrows as wide as their edges are strong."""
    drawn = graph.to_networkx(threshold)
    import networkx

    learned = dict(drawn.edges.items())
    missing = [edge for edge in true_edges or () if edge not in learned]
    drawn.add_edges_from(missing)
    places = networkx.circular_layout(drawn)
    top = max((data["strength"] for data in learned.values()), default=1.0)
    networkx.draw_networkx_nodes(drawn, places, ax=axes, node_size=60, node_color=_INK)
    # bent, so that an edge and its reverse are told apart
    arrows: Any = {"ax": axes, "node_size": 60, "arrowsize": 11, "connectionstyle": "arc3,rad=0.12"}
    for edge, data in learned.items():
        colour = _INK if true_edges is None or edge in true_edges else _ACCENT
        wide = 0.5 + 2.5 * data["strength"] / top
        networkx.draw_networkx_edges(drawn, places, [edge], width=wide, edge_color=colour, **arrows)
    if missing:
        networkx.draw_networkx_edges(drawn, places, missing, style="dashed", edge_color=_MUTED, **arrows)
    for name, (x, y) in places.items():
        side = "center" if abs(x) < 0.3 else "left" if x > 0 else "right"
        above = "center" if abs(y) < 0.3 else "bottom" if y > 0 else "top"
        axes.annotate(name, (x, y), (9 * x, 9 * y), textcoords="offset points", ha=side, va=above)
    axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
    axes.set_axis_off()


def _heat_map(axes: Axes, graph: CausalGraph, true_edges: Iterable[Edge]) -> AxesImage:
    import matplotlib
    from matplotlib.patches import Rectangle

    concepts, size = graph.concepts, len(graph.concepts)
    shown = graph.strengths.detach().float().cpu().clone()
    shown.fill_diagonal_(float("nan"))
    top = max(float(shown.nan_to_num(0).max()), 1e-6)
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="#eef1f4")
    picture = axes.imshow(shown.numpy(), cmap=colours, vmin=0, vmax=top)
    axes.set_xticks(range(size), concepts, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), concepts)
    axes.set_xlabel("cause")
    axes.set_ylabel("effect")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for effect in range(size):
        for cause in range(size):
            value = float(shown[effect, cause])
            if effect != cause:
                colour = "white" if value > 0.6 * top else _INK
                axes.text(cause, effect, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    for cause_name, effect_name in true_edges:
        corner = concepts.index(cause_name) - 0.46, concepts.index(effect_name) - 0.46
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=_ACCENT, linewidth=1.6))
    return picture


def training_curves(lines: Iterable[Mapping[str, Any]]) -> Figure | None:
    """The loss and its terms over the steps of a training, a panel each; None if there are none.

    Args:
        lines: of ``metrics.jsonl``: dicts with a ``step`` and values by name, those of a validation as ``val_<name>``.
    """
    import matplotlib
    from matplotlib.figure import Figure

    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "lr"):
                part = "validation" if name.startswith("val_") else "training"
                curves.setdefault(name.removeprefix("val_"), {}).setdefault(part, []).append((line["step"], value))
    if not curves:
        return None
    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.1 * columns, 2.3 * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (name, parts) in zip(panels, curves.items(), strict=False):
            _curve(axes, name.replace("_", " "), parts)
        for axes in panels[len(curves) :]:
            axes.set_visible(False)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _curve(axes: Axes, title: str, parts: Mapping[str, list[tuple[int, float]]]) -> None:
    looks: dict[str, dict[str, Any]] = {
        "training": {"color": _MUTED},
        "validation": {"color": _ACCENT, "marker": "o", "markersize": 3},
    }
    for part, points in parts.items():
        axes.plot(*zip(*points, strict=True), label=part, linewidth=1.3, **looks[part])
    values = [value for points in parts.values() for _, value in points]
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=4)


def png(picture: Image | Figure) -> bytes:
    """A picture or a figure as a PNG file."""
    buffer = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
    else:
        picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
