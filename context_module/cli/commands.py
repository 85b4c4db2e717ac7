"""The command ``context-module``: list, run and copy the recipes that ship, show a folder, and say what is in it."""

from __future__ import annotations

import argparse
import ast
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from context_module.cli.recipes import accelerate_configs, find_by_name, recipe_scripts, recipes_folder
from context_module.errors import OutputExistsError
from context_module.saving import describe

__all__ = ["run_command"]

LAUNCH = "--launch"


def run_command(argv: Sequence[str] | None = None) -> None:
    """Do what the command line says; see ``context-module --help``."""
    argv = sys.argv[1:] if argv is None else list(argv)
    command, *words = argv or [""]
    if command == "run" and words and words[0] not in ("-h", "--help"):
        run(words)  # not argparse's: what follows a recipe's name belongs to the recipe, --help too
        return
    if command == "demo" and words and not words[0].startswith("-"):
        run(["demo", "--model", *words])
        return
    args = _parser().parse_args(argv)
    if args.command == "ls":
        print(listing())
    elif args.command == "cp":
        print(copy(args.name, Path(args.destination), force=args.force))
    else:
        print(describe(args.directory))


def listing() -> str:
    """The recipes with what each is for, and what else ships with them."""
    scripts = recipe_scripts()
    width = max(map(len, scripts))
    folder = recipes_folder()
    pretrained = sorted(path.relative_to(folder).as_posix() for path in (folder / "pretrained").iterdir())
    lines = [f"recipes, to run and to copy, in {folder}"]
    lines += [f"  {name:<{width}}  {_first_line(file)}" for name, file in scripts.items()]
    lines += [f"for accelerate (run {LAUNCH} --config_file NAME ...): {', '.join(accelerate_configs())}"]
    lines += [f"pretrained: {', '.join(pretrained)}"]
    return "\n".join(lines)


def run(words: Sequence[str]) -> None:
    """Run a recipe in this process as ``python recipes/NAME.py ...`` does, or under Accelerate.

    Args:
        words: ``NAME ...``, or ``--launch [flags of accelerate launch] NAME ...``.

    Raises:
        ValueError: for an unknown recipe, or a flag in front of its name.
        ImportError: if Accelerate is asked for and not installed.
    """
    if words[0] == LAUNCH:
        _launch(words[1:])
        return
    name, *flags = words
    if name.startswith("-"):
        raise ValueError(
            f"{name}: flags of a recipe follow its name; in front of it, those of accelerate follow {LAUNCH}"
        )
    script = str(find_by_name(name, recipe_scripts(), "recipe"))
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")


def copy(name: str, destination: Path, *, force: bool = False) -> str:
    """Copy a recipe, or a configuration for Accelerate, to be changed; returns a line that says where it is.

    Raises:
        ValueError: for an unknown name, or a destination that is no folder and no name of such a file.
        OutputExistsError: if the file exists, unless `force`.
    """
    source = find_by_name(name, recipe_scripts() | accelerate_configs(), "recipe or configuration")
    target = destination / source.name if destination.is_dir() else destination
    if target.suffix != source.suffix or not target.parent.is_dir():
        raise ValueError(f"{destination}: no such folder, nor a name for a {source.suffix} file in one")
    if target.exists() and not force:
        raise OutputExistsError(f"{target} exists: give another name, or --force to replace it")
    shutil.copyfile(source, target)
    runner = "python" if source.suffix == ".py" else "accelerate launch --config_file"
    return f"{target}: change it, then {runner} {target} ..."


def _launch(words: Sequence[str]) -> None:
    try:
        from accelerate.commands.launch import launch_command, launch_command_parser
    except ImportError as error:
        raise ImportError(f"{LAUNCH} needs accelerate: pip install context-module[train]") from error
    args = launch_command_parser().parse_args(words)
    args.training_script = str(find_by_name(args.training_script, recipe_scripts(), "recipe"))
    if args.config_file is not None and not Path(args.config_file).is_file():
        args.config_file = str(find_by_name(args.config_file, accelerate_configs(), "configuration of accelerate"))
    try:
        launch_command(args)
    except subprocess.CalledProcessError as error:  # the recipe has said what is wrong
        sys.exit(error.returncode)


def _first_line(script: Path) -> str:
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="context-module", description="Recipes that ship, and what is in a folder.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, **options: Any) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False, **options
        )

    add("ls", "list the recipes and what ships with them")
    usage = f"%(prog)s NAME [flag ...]\n       %(prog)s {LAUNCH} [flag of accelerate launch ...] NAME [flag ...]"
    run = add("run", "run a recipe: python recipes/NAME.py, or accelerate launch recipes/NAME.py", usage=usage)
    run.add_argument("name", metavar="NAME", help="see context-module ls; NAME --help shows the flags of the recipe")
    run.add_argument(LAUNCH, action="store_true", help="under accelerate; its --config_file may name a shipped one")
    copy = add("cp", "copy a recipe, or a configuration of accelerate, to be changed")
    copy.add_argument("name", metavar="NAME", help="see context-module ls")
    copy.add_argument("destination", metavar="DEST", nargs="?", default=".", help="folder or file; default: here")
    copy.add_argument("--force", action="store_true", help="replace a file that exists")
    demo = add("demo", "play with a module in a browser: run demo --model DIR", usage="%(prog)s DIR ... [flag ...]")
    demo.add_argument("directory", metavar="DIR", help="see context-module info; run demo --help shows the flags")
    info = add("info", "say what is in a folder")
    info.add_argument("directory", help="a folder of a context module, a concept pack, a base or a training run")
    return parser
