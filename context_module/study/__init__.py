"""Many runs, one table."""

from context_module.study.budgets import BUDGETS, PAPERS_MODULE, PIXEL, STRUCTURAL
from context_module.study.comparison import Comparison
from context_module.study.runs import Command, Run
from context_module.study.scores import BESIDE, BETTER_BESIDE, scores_of_compositions
from context_module.study.systems import (
    LECTURE,
    LECTURE_COLUMNS,
    LECTURE_PUBLISHED,
    SYSTEMS,
    SYSTEMS_PUBLISHED,
    scores_of_codes,
)
from context_module.study.table import StudyArguments, evaluation, folder_name, run_study, training

__all__ = [
    "BESIDE",
    "BETTER_BESIDE",
    "BUDGETS",
    "LECTURE",
    "LECTURE_COLUMNS",
    "LECTURE_PUBLISHED",
    "PAPERS_MODULE",
    "PIXEL",
    "STRUCTURAL",
    "SYSTEMS",
    "SYSTEMS_PUBLISHED",
    "Command",
    "Comparison",
    "Run",
    "StudyArguments",
    "evaluation",
    "folder_name",
    "run_study",
    "scores_of_codes",
    "scores_of_compositions",
    "training",
]
