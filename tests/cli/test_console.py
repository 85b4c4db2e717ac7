"""The command ``context-module``: in this process, with the recipes that ship and with small ones made here."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from context_module.__main__ import main
from context_module.cli import recipe_file
from context_module.saving import describe

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.py"))
# says what it was given, and ends with the code it is told to
ECHO = '''"""Say what was given.

More of it.
"""

import json, os, sys
from pathlib import Path

Path("said.json").write_text(json.dumps([sys.argv, __name__, os.environ.get("ACCELERATE_MIXED_PRECISION")]))
sys.exit(int(sys.argv[-1]))
'''


@pytest.fixture
def console(monkeypatch, capsys, tmp_path):
    """``context-module ...`` in an empty folder: (exit code, stdout, stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["context-module", *map(str, argv)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
            if isinstance(code, str):  # what the interpreter does with it
                print(code, file=sys.stderr)
                code = 1
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def echo(monkeypatch, tmp_path):
    """A folder of recipes with one, ``echo``, and a configuration of accelerate's."""
    (tmp_path / "made" / "configs").mkdir(parents=True)
    (tmp_path / "made" / "pretrained").mkdir()
    script = tmp_path / "made" / "echo.py"
    script.write_text(ECHO)
    settings = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "mixed_precision": "bf16"}
    settings |= {"num_processes": 1, "num_machines": 1, "machine_rank": 0, "use_cpu": True, "debug": False}
    (tmp_path / "made" / "configs" / "bf16.yaml").write_text(json.dumps(settings))
    monkeypatch.setattr("context_module.cli.recipes.recipes_folder", lambda: tmp_path / "made")
    return script


def said():
    return json.loads(Path("said.json").read_text())


def test_ls(console):
    code, out, _ = console("ls")
    head, *lines = out.splitlines()
    assert code == 0
    assert head == f"recipes, to run and to copy, in {RECIPES}"
    for name, line in zip(NAMES, lines, strict=False):
        doc = (RECIPES / f"{name}.py").read_text().removeprefix('"""').partition("\n")[0]
        assert line.split(maxsplit=1) == [name, doc]
    assert lines[len(NAMES) :] == [
        "for accelerate (run --launch --config_file NAME ...): deepspeed, fsdp2, multi_gpu, single_gpu",
        "pretrained: pretrained/face-judge, pretrained/face-labeller, pretrained/nvae-quad32",
    ]


def test_run(console):
    code, out, _ = console("run", "preview", "--n", "1", "--resolution", "8")
    assert code == 0
    assert out.startswith("preview.png: 16 contexts of 3x8x8 images: obs, quad1, ")
    with Image.open("preview.png") as picture:
        assert picture.height == 16 * 66


def test_the_help_of_a_recipe_is_its_own(console):
    code, out, _ = console("run", "preview", "--help")
    assert code == 0
    assert out.startswith("usage: preview.py [--flag value ...]")
    assert "images per context" in out
    code, out, _ = console("run", "--help")
    assert code == 0
    assert "context-module run --launch [flag of accelerate launch ...] NAME [flag ...]" in out


@pytest.mark.parametrize("code", [0, 1, 143])
def test_a_recipe_is_run_as_a_script(code, console, echo):
    """Every word after its name is its own, and so is the exit code."""
    assert console("run", "echo", "--launch", "-h", code)[0] == code
    assert said() == [[str(echo), "--launch", "-h", str(code)], "__main__", None]


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["preview", "--n", "0"], 1, "error: --n must be at least 1, got 0\n"),
        (["preview", "--num", "0"], 2, "preview.py: error: unrecognized arguments: --num 0\n"),
    ],
)
def test_errors_of_a_recipe_are_its_own(argv, code, message, console):
    found, _, err = console("run", *argv)
    assert found == code
    assert err.endswith(message)
    assert "Traceback" not in err


@pytest.mark.parametrize("config", ["bf16", "{made}/configs/bf16.yaml"])
@pytest.mark.parametrize("code", [0, 3])
def test_launch(code, config, console, echo):
    """Flags before the name are those of ``accelerate launch``, all after it the recipe's."""
    config = config.format(made=echo.parent)
    found = console("run", "--launch", "--config_file", config, "echo", "--mixed_precision", "no", code)
    assert (found[0], found[1]) == (code, "")
    assert "Traceback" not in found[2]
    assert said() == [[str(echo), "--mixed_precision", "no", str(code)], "__main__", "bf16"]


def test_launch_without_accelerate(console, echo, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate.commands.launch", None)
    code, _, err = console("run", "--launch", "echo", "0")
    assert (code, err) == (1, "error: --launch needs accelerate: pip install context-module[train]\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "fintune"], "unknown recipe 'fintune', did you mean 'finetune'? There are ablate, benchmark, "),
        (["run", "xyz"], "unknown recipe 'xyz': there are ablate, benchmark, compose, "),
        (["run", "mine.py"], "train_labeller; a file of your own is run by python mine.py\n"),
        (["run", "--n", "3"], "--n: flags of a recipe follow its name; in front of it, those of accelerate follow"),
        (["run", "multi_gpu"], "unknown recipe 'multi_gpu'"),
        (["run", "--launch", "previw"], "unknown recipe 'previw', did you mean 'preview'?"),
        (
            ["run", "--launch", "--config_file", "multi-gpu", "preview"],
            "unknown configuration of accelerate 'multi-gpu', did you mean 'multi_gpu'? There are deepspeed, fsdp2, ",
        ),
        (["cp", "finetune.py"], "unknown recipe or configuration 'finetune.py', did you mean 'finetune'?"),
        (["cp", "multi_gpo"], "did you mean 'multi_gpu'? There are ablate, "),
        (["cp", "preview", "nowhere"], "nowhere: no such folder, nor a name for a .py file in one"),
        (["cp", "preview", "nowhere/preview.py"], "nowhere/preview.py: no such folder, nor a name for a .py file"),
        (["cp", "multi_gpu", "mine.py"], "mine.py: no such folder, nor a name for a .yaml file in one"),
        (["cp", "preview", "mine.py"], "mine.py exists: give another name, or --force to replace it"),
        (["info", "nowhere"], "nowhere: no such folder; expected one of a module, a concept pack or a base"),
    ],
)
def test_errors(argv, message, console):
    Path("mine.py").write_text("mine")
    code, out, err = console(*argv)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert [path.read_text() for path in Path().iterdir()] == ["mine"]


@pytest.mark.parametrize("argv", [[], ["rn", "finetune"], ["run"], ["cp"], ["demo"], ["info"], ["ls", "finetune"]])
def test_what_is_no_command(argv, console):
    code, _, err = console(*argv)
    assert code == 2
    assert err.startswith("usage: context-module")


def test_cp(console):
    code, out, _ = console("cp", "preview")
    assert (code, out) == (0, "preview.py: change it, then python preview.py ...\n")
    source = (RECIPES / "preview.py").read_text()
    assert Path("preview.py").read_text() == source
    Path("folder").mkdir()
    assert console("cp", "preview", "folder")[1].startswith("folder/preview.py: ")
    assert console("cp", "preview", "folder/look.py")[1].startswith("folder/look.py: ")
    assert Path("folder/preview.py").read_text() == Path("folder/look.py").read_text() == source
    Path("preview.py").write_text("changed")
    assert console("cp", "preview")[0] == 1
    assert Path("preview.py").read_text() == "changed"
    assert console("cp", "preview", "--force")[0] == 0
    assert Path("preview.py").read_text() == source
    out = console("cp", "multi_gpu")[1]
    assert out == "multi_gpu.yaml: change it, then accelerate launch --config_file multi_gpu.yaml ...\n"
    assert Path("multi_gpu.yaml").read_text() == (RECIPES / "configs" / "multi_gpu.yaml").read_text()


def test_info(console):
    base = RECIPES / "pretrained" / "nvae-quad32"
    assert console("info", base) == (0, describe(base) + "\n", "")


def test_demo_runs_the_recipe(console, echo):
    echo.rename(echo.with_name("demo.py"))
    assert console("demo", "folder", "other", "--port", "3")[0] == 3
    assert said()[0][1:] == ["--model", "folder", "other", "--port", "3"]
    code, out, _ = console("demo", "--help")
    assert code == 0
    assert "usage: context-module demo DIR ... [flag ...]" in out


def test_what_a_recipe_refers_to_is_beside_it_or_as_shipped(tmp_path):
    assert recipe_file(str(RECIPES / "finetune.py"), "pretrain.py") == RECIPES / "pretrain.py"
    copied = tmp_path / "finetune.py"
    assert recipe_file(str(copied), "pretrained/nvae-quad32") == RECIPES / "pretrained" / "nvae-quad32"
    assert recipe_file(str(copied), "pretrain.py") == RECIPES / "pretrain.py"
    (tmp_path / "pretrain.py").write_text("mine")
    assert recipe_file(str(copied), "pretrain.py") == tmp_path / "pretrain.py"


@pytest.mark.parametrize("recipe", ["ablate", "reproduce"])
def test_a_copy_runs_the_other_recipes(recipe, console, monkeypatch, tmp_path):
    """As shipped, but for those that are copied beside it."""
    console("cp", recipe)
    console("cp", "evaluate")
    called = []
    monkeypatch.setattr("context_module.study.table.run_all", lambda runs, **_: called.extend(runs) or {})
    console("run", recipe, "--output_dir", "shipped")
    shipped = {Path(command.argv[0]) for run in called for command in run.commands}
    trained = {"pretrain.py", "finetune.py", *(["train_baseline.py"] if recipe == "reproduce" else [])}
    assert shipped == {RECIPES / name for name in (*trained, "evaluate.py")}
    called.clear()
    monkeypatch.setattr("context_module.cli.recipes.recipes_folder", lambda: RECIPES)
    monkeypatch.setattr(sys, "argv", [f"{recipe}.py", "--output_dir", "copied"])
    exec_script(Path(f"{recipe}.py").resolve())
    copied = {Path(command.argv[0]) for run in called for command in run.commands}
    assert copied == {*(RECIPES / name for name in trained), Path("evaluate.py").resolve()}


def exec_script(path):
    import runpy

    runpy.run_path(str(path), run_name="__main__")
