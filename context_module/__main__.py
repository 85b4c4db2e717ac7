"""The console script ``context-module``, also as ``python -m context_module``."""

from __future__ import annotations

from context_module.cli import run_command, run_recipe

__all__ = ["main"]


def main() -> None:
    """Do what the command line says; an error is one line and an exit code."""
    run_recipe(run_command)


if __name__ == "__main__":
    main()
