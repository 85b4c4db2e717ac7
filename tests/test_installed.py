"""The wheel as who pip-installs it has it: in an environment of its own, and away from the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("context_module", "adapters", "baselines", "recipes", "docs", "tests")
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md")
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.py"))
PRETRAINED = sorted(path.relative_to(ROOT / "recipes").as_posix() for path in ROOT.glob("recipes/pretrained/*/*"))


@pytest.fixture(scope="module")
def wheel(pip, tmp_path_factory):
    """Built as for a release: the sources of a distribution first, then the wheel from these alone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "repository"  # a build leaves files beside the sources
    source.mkdir()
    for name in SOURCES:
        unwanted = shutil.ignore_patterns("__pycache__", "generated", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", build, str(folder)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (sources,) = folder.glob("*.tar.gz")
    pip("wheel", "--wheel-dir", folder, sources)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def call(wheel, pip, tmp_path_factory):
    """Runs a program of a fresh environment with the wheel in it; its dependencies are those that are here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    scripts = folder / Path(sysconfig.get_path("scripts")).name
    pip("--python", scripts / "python", "install", wheel)
    (packages,) = folder.rglob("site-packages")
    here = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "here.pth").write_text("\n".join(here) + "\n", encoding="utf-8")  # whose own .pth files do not count

    def call(program, *argv, cwd):
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        command = [str(scripts / program), *map(str, argv)]
        result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return call


def test_what_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        sizes = {file.filename: file.file_size for file in archive.infolist()}
    found = {Path(name).relative_to("context_module/recipes").as_posix() for name in sizes if "/recipes/" in name}
    configs = {f"configs/{name}.yaml" for name in ("deepspeed", "fsdp2", "multi_gpu", "single_gpu")}
    assert found == {*RECIPES, *configs, *PRETRAINED}
    assert {name.split("/")[0] for name in sizes if ".dist-info" not in name} == {"context_module"}
    templates = {f"context_module/evaluation/report/templates/report.{end}" for end in ("html.j2", "css", "js")}
    assert {"context_module/py.typed", *templates} <= sizes.keys()
    assert sum(sizes.values()) < 8e6  # the base is 4 MB of it


def test_installed_it_lists_copies_and_runs_recipes(call, tmp_path):
    head, *listed = call("context-module", "ls", cwd=tmp_path).splitlines()
    recipes = Path(head.removeprefix("recipes, to run and to copy, in "))
    assert recipes.parts[-3:] == ("site-packages", "context_module", "recipes")
    assert [line.split()[0] for line in listed[: len(RECIPES)]] == [name[:-3] for name in RECIPES]

    call("context-module", "run", "preview", "--n", "1", "--resolution", "8", cwd=tmp_path)
    assert (tmp_path / "preview.png").is_file()

    call("context-module", "cp", "finetune", cwd=tmp_path)
    assert (tmp_path / "finetune.py").read_bytes() == (recipes / "finetune.py").read_bytes()
    flags = ["--samples_per_context", "6", "--train_batch_size", "7", "--max_train_steps", "2", "--output_dir", "out"]
    flags += ["--score_samples", "0", "--value_draws", "0", "--val_fraction", "0.2"]
    out = call("python", "finetune.py", *flags, cwd=tmp_path)
    assert "out: best validation loss" in out
    described = call("context-module", "info", "out", cwd=tmp_path)
    assert f"nvae, {recipes / 'pretrained' / 'nvae-quad32'} (there)" in described
