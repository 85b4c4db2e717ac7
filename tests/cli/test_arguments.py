"""Command lines from dataclasses."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

import pytest

from context_module.cli.arguments import argument, given, parse_arguments
from context_module.cli.recipes import next_command, recipe_scripts
from context_module.cli.training import TrainingArguments
from context_module.io.files import write_json


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


def test_help_is_in_groups_and_marks_what_is_required(capsys):
    @dataclass(kw_only=True)
    class Own(TrainingArguments):
        """The flags of this recipe."""

        folder: str = argument(help="where it lies")

    with pytest.raises(SystemExit):
        parse_arguments(Own, description="Try.", argv=["--help"])
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith(" --folder ... [--flag value ...]")
    own, training = out.index("\nflags of this recipe:"), out.index("\nflags of every recipe that trains:")
    assert "(required)" in out[own:]
    assert out.index("--val_fraction", training) > training


def test_every_training_flag_has_help():
    for field in dataclasses.fields(TrainingArguments):
        assert field.metadata.get("help"), field.name


def test_training_arguments_parse():
    argv = ["--output_dir", "o", "--overwrite", "--mixed_precision", "bf16", "--checkpoints_total_limit", "1"]
    args = parse_arguments(TrainingArguments, description="", argv=argv)
    assert args == TrainingArguments(output_dir="o", overwrite=True, mixed_precision="bf16", checkpoints_total_limit=1)


# --- --config


def parse_file(tmp_path, content, *argv, name="flags.yaml"):
    (tmp_path / name).write_text(content)
    return parse_arguments(Arguments, description="Try.", argv=[*argv, "--config", str(tmp_path / name)])


YAML = """
path: p  # required, and given here
steps: 7
rate: 1e-3
quick: true
form: square
limit: null
names: [a, b]
sizes:
- 1
- 2
"""


@pytest.mark.parametrize("name", ["flags.yaml", "flags.yml", "flags.json"])
def test_a_file_of_flags(name, tmp_path):
    values = {"path": "p", "steps": 7, "rate": 0.001, "quick": True, "form": "square", "names": ["a", "b"]}
    values |= {"precision": None, "sizes": [1, 2]}
    content = json.dumps(values) if name.endswith("json") else YAML.replace("limit: null", "precision: null")
    assert parse_file(tmp_path, content, name=name) == Arguments(**values)


def test_flags_win_over_the_file(tmp_path):
    args = parse_file(tmp_path, YAML.replace("limit: null", ""), "--steps", "9", "--no-quick", "--names", "c")
    assert (args.steps, args.quick, args.names, args.rate) == (9, False, ["c"], 0.001)


def test_what_yaml_takes_for_something_else_stays_text(tmp_path):
    """``no`` is false to YAML, and a value of --mixed_precision."""
    content = "output_dir: 2020\nmixed_precision: no\nreport_to: on\n"
    (tmp_path / "run.yaml").write_text(content)
    args = parse_arguments(TrainingArguments, description="", argv=["--config", str(tmp_path / "run.yaml")])
    assert (args.output_dir, args.mixed_precision, args.report_to) == ("2020", "no", "on")


def test_the_arguments_of_a_run_are_such_a_file(tmp_path):
    args = TrainingArguments(output_dir="o", learning_rate=2e-4, data_options=["a=1"], mixed_precision="bf16")
    write_json(tmp_path / "arguments.json", dataclasses.asdict(args))
    argv = ["--config", str(tmp_path / "arguments.json")]
    assert parse_arguments(TrainingArguments, description="", argv=argv) == args


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.yaml", "step: 3", "unknown key 'step', did you mean 'steps'?"),
        ("f.yaml", "zzz: 3", "unknown key 'zzz'; see --help"),
        ("f.yaml", "steps: many", "argument --steps: invalid int value: 'many'"),
        ("f.yaml", "form: oval", "argument --form: invalid choice: 'oval'"),
        ("f.yaml", "steps: [1, 2]", "steps takes one value, got ['1', '2']"),
        ("f.yaml", "steps: {a: 1}", "steps must be a value or a list of values, got {'a': '1'}"),
        ("f.yaml", "steps:", "steps has no value: give one, or leave the key out"),
        ("f.yaml", "limit: null", "limit has no value"),
        ("f.yaml", "quick: maybe", "quick must be true or false, got 'maybe'"),
        ("f.yaml", "- steps", "expected flags and their values, such as 'seed: 1', got a list"),
        ("f.yaml", "a: [1", "not valid YAML"),
        ("f.json", "{", "not valid JSON"),
        ("f.toml", "", "expected a file named .yaml, .yml or .json"),
    ],
)
def test_files_that_cannot_be_used(name, content, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_file(tmp_path, content, "--path", "p", name=name)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_there(capsys):
    with pytest.raises(SystemExit):
        parse("--config", "nowhere.yaml")
    assert "error: --config nowhere.yaml: no such file" in capsys.readouterr().err


# --- the user's home, and keys


@pytest.fixture
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.usefixtures("home")
def test_the_home_on_the_command_line_and_in_files(tmp_path):
    assert parse_arguments(
        Arguments, description="", argv=["--path=~/x", "--names", "~/a", "b~/c", "~d"]
    ) == Arguments(path="/home/me/x", names=["/home/me/a", "b~/c", "~d"])
    args = parse_file(tmp_path, "path: ~/x\nnames: [~/a, it~/is]")
    assert (args.path, args.names) == ("/home/me/x", ["/home/me/a", "it~/is"])
    assert given("path", "none", ["--config", str(tmp_path / "flags.yaml")]) == "/home/me/x"


def test_a_file_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "flags.yaml").write_text("path: p")
    assert parse_arguments(Arguments, description="", argv=["--config=~/flags.yaml"]) == Arguments(path="p")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "f.yaml",
            "path: p\nsteps: 1\nsteps: 2\n",
            "the key 'steps' on line 3 is already on line 2: keep one of them",
        ),
        ("f.yml", "{path: p, quick: true, path: q}", "the key 'path' on line 1 is already on line 1"),
        ("f.json", '{"path": "p", "rate": 1, "rate": 1}', "the key 'rate' is there twice: keep one of them"),
    ],
)
def test_keys_that_are_there_twice(name, content, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_file(tmp_path, content, name=name)
    assert message in capsys.readouterr().err


def test_the_next_command_can_be_typed(monkeypatch, tmp_path):
    script = recipe_scripts()["finetune"]
    monkeypatch.chdir(script.parents[1])
    said = next_command(str(script), "compose", "--model", "out puts/demo", "--do", "a")
    assert said == "next: python recipes/compose.py --model 'out puts/demo' --do a"
    monkeypatch.chdir(tmp_path)
    assert next_command(str(script), "compose", "--n", 3) == "next: context-module run compose --n 3"
