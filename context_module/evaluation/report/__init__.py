"""An evaluation as one HTML file: verdicts, tables, pictures and sliders, with nothing loaded from elsewhere."""

from context_module.evaluation.report.page import render_report

__all__ = ["render_report"]
