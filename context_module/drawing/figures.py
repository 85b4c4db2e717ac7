"""Figures of a report: mosaics of images, and learned graphs; pyplot and its global state stay out."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.drawing.palette import Palette, palette
from context_module.errors import ShapeError
from context_module.nn import CausalGraph, Edge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from PIL.Image import Image

__all__ = ["DPI", "edge_map", "filmstrip", "mosaic", "png"]

DPI = 160  # of figures as files
_GAP, _GREY = 2, 0.85  # pixels between images, seen beside black and white ones


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


def filmstrip(frames: Tensor) -> Image:
    """Frames below each other, each a row of images: the picture's height is a multiple of their number.

    Args:
        frames: (f, n, C, H, W) in [0, 1], C 1 or 3.

    Raises:
        ShapeError: for anything but a few frames of a few images of 1 or 3 channels.
    """
    from PIL import ImageOps

    if frames.ndim != 5:
        raise ShapeError(f"a filmstrip needs frames (f, n, C, H, W), got {tuple(frames.shape)}")
    grey = (round(255 * _GREY),) * 3
    return ImageOps.expand(mosaic(frames.flatten(0, 1), frames.shape[1]), (0, 0, 0, _GAP), fill=grey)


def edge_map(
    graph: CausalGraph,
    true_edges: Iterable[Edge] | None = None,
    threshold: float = 0.2,
    *,
    dark: bool = False,
) -> Figure:
    """A graph of concepts as a drawing and, beside it, as a heat map with a column per cause and a row per effect.

    Args:
        graph: such as `ContextualDecoder.graph` returns.
        true_edges: (cause, effect) pairs, where the true graph is known: the heat map outlines them; in the drawing
            missing ones are dashed, and those that are not in truth are red.
        threshold: of the edges that are drawn, as a share of the strongest.
        dark: bright on dark.

    Raises:
        ImportError: if networkx is not installed; torch depends on it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    ink = palette(dark)
    size = len(graph.concepts)
    width, height = 1.8 + 0.62 * size, max(2.4, 1.4 + 0.52 * size)
    true_edges = None if true_edges is None else tuple(true_edges)
    with matplotlib.rc_context(ink.style):
        figure = Figure(figsize=(height + 1 + width, height), layout="constrained")
        drawing, heat_map = figure.subplots(1, 2, width_ratios=(height + 1, width))
        _draw_graph(drawing, graph, true_edges, threshold, ink)
        picture = _heat_map(heat_map, graph, true_edges or (), ink)
        figure.colorbar(picture, ax=heat_map, shrink=0.8, label="strength of the edge").outline.set_visible(False)
    return figure


def _draw_graph(
    axes: Axes, graph: CausalGraph, true_edges: tuple[Edge, ...] | None, threshold: float, ink: Palette
) -> None:
    """Concepts on a circle, their names outside it, arrows as wide as their edges are strong."""
    drawn = graph.to_networkx(threshold)
    import networkx

    learned = dict(drawn.edges.items())
    missing = [edge for edge in true_edges or () if edge not in learned]
    drawn.add_edges_from(missing)
    places = networkx.circular_layout(drawn)
    top = max((data["strength"] for data in learned.values()), default=1.0)
    networkx.draw_networkx_nodes(drawn, places, ax=axes, node_size=60, node_color=ink.ink)
    # bent, so that an edge and its reverse are told apart
    arrows: Any = {"ax": axes, "node_size": 60, "arrowsize": 11, "connectionstyle": "arc3,rad=0.12"}
    for edge, data in learned.items():
        colour = ink.ink if true_edges is None or edge in true_edges else ink.accent
        wide = 0.5 + 2.5 * data["strength"] / top
        networkx.draw_networkx_edges(drawn, places, [edge], width=wide, edge_color=colour, **arrows)
    if missing:
        networkx.draw_networkx_edges(drawn, places, missing, style="dashed", edge_color=ink.muted, **arrows)
    for name, (x, y) in places.items():
        side = "center" if abs(x) < 0.3 else "left" if x > 0 else "right"
        above = "center" if abs(y) < 0.3 else "bottom" if y > 0 else "top"
        axes.annotate(name, (x, y), (9 * x, 9 * y), textcoords="offset points", ha=side, va=above)
    axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
    axes.set_axis_off()


def _heat_map(axes: Axes, graph: CausalGraph, true_edges: Iterable[Edge], ink: Palette) -> AxesImage:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    concepts, size = graph.concepts, len(graph.concepts)
    shown = graph.strengths.detach().float().cpu().clone()
    shown.fill_diagonal_(float("nan"))
    top = max(float(shown.nan_to_num(0).max()), 0.01)
    colours = LinearSegmentedColormap.from_list("strengths", ink.scale).with_extremes(bad=ink.void)
    picture = axes.imshow(shown.numpy(), cmap=colours, vmin=0, vmax=top)
    axes.set_xticks(range(size), concepts, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), concepts)
    axes.set_xlabel("cause")
    axes.set_ylabel("effect")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=ink.ink)
    for effect in range(size):
        for cause in range(size):
            value = float(shown[effect, cause])
            if effect != cause:
                colour = ink.paper if value > 0.6 * top else ink.ink
                axes.text(cause, effect, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    for cause_name, effect_name in true_edges:
        corner = concepts.index(cause_name) - 0.46, concepts.index(effect_name) - 0.46
        axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=ink.accent, linewidth=1.6))
    return picture


def png(picture: Image | Figure) -> bytes:
    """A picture or a figure as a PNG file."""
    buffer = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
    else:
        picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
