"""``python -m context_module info DIR``: what is in a folder."""

from __future__ import annotations

import argparse

from context_module.cli import run_recipe
from context_module.saving import describe

__all__ = ["main"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m context_module", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    info = commands.add_parser("info", help="say what is in a folder", description="Say what is in a folder.")
    info.add_argument("directory", help="a folder of a context module, a concept pack, a base or a training run")
    print(describe(parser.parse_args(argv).directory))


if __name__ == "__main__":
    run_recipe(main)
