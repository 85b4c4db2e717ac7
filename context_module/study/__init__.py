"""Many runs, one table."""

from context_module.study.budgets import BUDGETS, PAPERS_MODULE, PIXEL, STRUCTURAL
from context_module.study.comparison import Comparison
from context_module.study.dear import DEAR_TABLES
from context_module.study.lecture import LECTURE_TABLE
from context_module.study.paper import PAPER_TABLES
from context_module.study.perturbations import PERTURBATION_TABLES
from context_module.study.plan import Plan, PublishedTable
from context_module.study.runs import Command, Run
from context_module.study.scale import Scaled, measure_scale
from context_module.study.scores import BESIDE, BETTER_BESIDE, scores_of_compositions
from context_module.study.table import StudyArguments, evaluation, folder_name, run_study, training
from context_module.study.textbook import TextbookModule, compare_with_textbook
from context_module.study.timing import ratio, seconds
from context_module.study.ways import compare_decoding, compare_equations, compare_reading

__all__ = [
    "BESIDE",
    "BETTER_BESIDE",
    "BUDGETS",
    "DEAR_TABLES",
    "LECTURE_TABLE",
    "PAPERS_MODULE",
    "PAPER_TABLES",
    "PERTURBATION_TABLES",
    "PIXEL",
    "STRUCTURAL",
    "Command",
    "Comparison",
    "Plan",
    "PublishedTable",
    "Run",
    "Scaled",
    "StudyArguments",
    "TextbookModule",
    "compare_decoding",
    "compare_equations",
    "compare_reading",
    "compare_with_textbook",
    "evaluation",
    "folder_name",
    "measure_scale",
    "ratio",
    "run_study",
    "scores_of_compositions",
    "seconds",
    "training",
]
