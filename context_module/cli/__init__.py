"""Command lines: flags once for all recipes, and the command that lists, runs and copies these."""

from context_module.cli.arguments import argument, flag_options, given, parse_arguments, run_recipe
from context_module.cli.base import BaseArguments
from context_module.cli.commands import run_command
from context_module.cli.data import DataArguments
from context_module.cli.recipes import next_command, recipe_file
from context_module.cli.terms import TermArguments, edit_terms_of, terms_of
from context_module.cli.training import TrainingArguments

__all__ = [
    "BaseArguments",
    "DataArguments",
    "TermArguments",
    "TrainingArguments",
    "argument",
    "edit_terms_of",
    "flag_options",
    "given",
    "next_command",
    "parse_arguments",
    "recipe_file",
    "run_command",
    "run_recipe",
    "terms_of",
]
