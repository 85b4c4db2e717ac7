"""Flags, once for all recipes."""

from context_module.cli.arguments import argument, flag_options, parse_arguments, run_recipe
from context_module.cli.base import BaseArguments
from context_module.cli.data import DataArguments
from context_module.cli.training import TrainingArguments

__all__ = [
    "BaseArguments",
    "DataArguments",
    "TrainingArguments",
    "argument",
    "flag_options",
    "parse_arguments",
    "run_recipe",
]
