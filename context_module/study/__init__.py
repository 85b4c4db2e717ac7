"""Many runs, one table."""

from context_module.study.budgets import BUDGETS, PAPERS_MODULE, PIXEL, STRUCTURAL
from context_module.study.comparison import Comparison
from context_module.study.runs import Command, Run
from context_module.study.scores import BESIDE, BETTER_BESIDE, scores_of_compositions
from context_module.study.table import StudyArguments, evaluation, folder_name, run_study, training

__all__ = [
    "BESIDE",
    "BETTER_BESIDE",
    "BUDGETS",
    "PAPERS_MODULE",
    "PIXEL",
    "STRUCTURAL",
    "Command",
    "Comparison",
    "Run",
    "StudyArguments",
    "evaluation",
    "folder_name",
    "run_study",
    "scores_of_compositions",
    "training",
]
