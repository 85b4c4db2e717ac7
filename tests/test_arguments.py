"""Command lines from dataclasses."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import pytest

from context_module.arguments import argument, parse_arguments
from context_module.training_arguments import TrainingArguments


@dataclass(kw_only=True)
class Arguments:
    path: str = argument(help="required")
    steps: int = argument(5, help="whole")
    rate: float = argument(0.5, help="real, in 100%% of cases")
    quick: bool = argument(False, help="a switch")
    form: Literal["round", "square"] = argument("round", help="a choice")
    precision: Literal["low", "high"] | None = argument(None, help="a choice or nothing")
    limit: int | None = argument(2, help="a number or nothing")
    names: list[str] = argument(["x"], help="several")
    sizes: list[int] | None = argument(None, help="several or nothing")


def parse(*argv):
    return parse_arguments(Arguments, description="Try.", argv=["--path", "p", *argv])


def test_defaults():
    args = parse()
    assert args == Arguments(path="p")
    assert (args.precision, args.limit, args.names, args.sizes) == (None, 2, ["x"], None)


def test_defaults_are_not_shared():
    first = parse()
    first.names.append("y")
    assert parse().names == Arguments(path="p").names == ["x"]


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--steps", "7"], "steps", 7),
        (["--rate", "1e-3"], "rate", 0.001),
        (["--quick"], "quick", True),
        (["--no-quick"], "quick", False),
        (["--form", "square"], "form", "square"),
        (["--precision", "high"], "precision", "high"),
        (["--limit", "3"], "limit", 3),
        (["--names", "a", "b"], "names", ["a", "b"]),
        (["--sizes", "1", "2"], "sizes", [1, 2]),
    ],
)
def test_types(argv, name, value):
    parsed = getattr(parse(*argv), name)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--rate", "fast"], "argument --rate: invalid float value: 'fast'"),
        (["--form", "oval"], "argument --form: invalid choice: 'oval'"),
        (["--names"], "argument --names: expected at least one argument"),
        (["--ste", "7"], "unrecognized arguments: --ste 7"),
        (["--no-steps"], "unrecognized arguments: --no-steps"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_bad_command_lines(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_required(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(Arguments, description="Try.", argv=[])
    assert "the following arguments are required: --path" in capsys.readouterr().err


def test_help_shows_defaults(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("Try.", "whole (default: 5)", "in 100% of cases", "--quick, --no-quick", "{round,square}"):
        assert part in text


def test_every_training_flag_has_help():
    for field in dataclasses.fields(TrainingArguments):
        assert field.metadata.get("help"), field.name


def test_training_arguments_parse():
    argv = ["--output_dir", "o", "--overwrite", "--mixed_precision", "bf16", "--checkpoints_total_limit", "1"]
    args = parse_arguments(TrainingArguments, description="", argv=argv)
    assert args == TrainingArguments(output_dir="o", overwrite=True, mixed_precision="bf16", checkpoints_total_limit=1)
