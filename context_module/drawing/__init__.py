"""Grids of samples, and figures."""

from context_module.drawing.curves import training_curves
from context_module.drawing.figures import DPI, edge_map, filmstrip, mosaic, png
from context_module.drawing.grids import labelled_grid, labelled_samples, save_samples

__all__ = [
    "DPI",
    "edge_map",
    "filmstrip",
    "labelled_grid",
    "labelled_samples",
    "mosaic",
    "png",
    "save_samples",
    "training_curves",
]
