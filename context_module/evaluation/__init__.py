"""One way to score a model, used by every recipe: `evaluate` and the tables of what it finds."""

from context_module.evaluation.generated import base_images, model_images
from context_module.evaluation.report import render_report
from context_module.evaluation.result import ContextScores, Evaluation
from context_module.evaluation.scoring import METRICS, evaluate
from context_module.evaluation.tables import composition_table, summary_table
from context_module.evaluation.texts import evaluate_texts

__all__ = [
    "METRICS",
    "ContextScores",
    "Evaluation",
    "base_images",
    "composition_table",
    "evaluate",
    "evaluate_texts",
    "model_images",
    "render_report",
    "summary_table",
]
