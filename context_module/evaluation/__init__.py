"""One way to score a system, used by every recipe: `evaluate` and the tables of what it finds."""

from context_module.evaluation.finished import FinishedScores, score_finished
from context_module.evaluation.labels import LabelScores, labels_table, score_by_labellers
from context_module.evaluation.module_subject import BaseSubject, ModuleSubject
from context_module.evaluation.notes import posterior_notes, unfamiliar_notes
from context_module.evaluation.report import render_report
from context_module.evaluation.result import ContextScores, Evaluation
from context_module.evaluation.samples import draw
from context_module.evaluation.scoring import evaluate
from context_module.evaluation.screen_subject import ScreenSubject
from context_module.evaluation.subject import subject_of
from context_module.evaluation.tables import composition_table, intervention_table, perturbation_table, summary_table
from context_module.evaluation.verdicts import Judged, headline, judged, verdict
from context_module.metrics import Subject

__all__ = [
    "BaseSubject",
    "ContextScores",
    "Evaluation",
    "FinishedScores",
    "Judged",
    "LabelScores",
    "ModuleSubject",
    "ScreenSubject",
    "Subject",
    "composition_table",
    "draw",
    "evaluate",
    "headline",
    "intervention_table",
    "judged",
    "labels_table",
    "perturbation_table",
    "posterior_notes",
    "render_report",
    "score_by_labellers",
    "score_finished",
    "subject_of",
    "summary_table",
    "unfamiliar_notes",
    "verdict",
]
