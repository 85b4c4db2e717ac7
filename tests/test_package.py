"""The package as a whole: what is installed, what an import costs, and that every module keeps the house rules."""

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from context_module import wrap_decoder
from context_module.adapters import load_base
from context_module.adapters.lightweight import LightweightVAE

ROOT = Path(__file__).parents[1]
ROOMS = {
    "context_module": ROOT / "context_module",
    "context_module.adapters": ROOT / "adapters",
    "context_module.baselines": ROOT / "baselines",
}


def modules():
    """Full names of all modules. By the files: pkgutil does not find mapped folders in an editable install."""
    for package, folder in ROOMS.items():
        for file in sorted(folder.rglob("*.py")):
            parts = [part for part in file.relative_to(folder).with_suffix("").parts if part != "__init__"]
            yield ".".join([package, *parts])


def run(code, cwd):
    environment = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_installs_every_package():
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {}
    for package, folder in ROOMS.items():
        for init in folder.rglob("__init__.py"):
            inside = init.parent.relative_to(folder).parts
            folders[".".join([package, *inside])] = init.parent.relative_to(ROOT).as_posix()
    folders["context_module.recipes"] = "recipes"  # scripts, which ship as data
    assert sorted(settings["packages"]) == sorted(folders)
    mapped = {name: folder for name, folder in folders.items() if name.replace(".", "/") != folder}
    assert mapped.items() <= settings["package-dir"].items() <= folders.items()


def test_the_oldest_versions_are_those_that_are_promised():
    """Each ``name>=version`` of pyproject.toml is ``name==version`` in .ci/oldest.txt."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    lowest = {line.replace(">=", "==") for group in groups for line in group if not line.startswith("context-module[")}
    pinned = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    assert pinned == [pinned[0], *sorted(lowest)]


def test_modules_without_a_package_around_them():
    stray = [
        str(f.parent) for room in ROOMS.values() for f in room.rglob("*.py") if not (f.parent / "__init__.py").exists()
    ]
    assert not stray


@pytest.mark.parametrize("folder", ["adapters", "baselines"])
def test_a_folder_of_the_repository_is_not_a_package_of_its_own(folder):
    result = run(f"import {folder}", ROOT)
    assert result.returncode == 1
    assert f"ImportError: '{folder}' is a part of context_module: install the project" in result.stderr
    assert f"from context_module.{folder} import ..." in result.stderr


def test_importing_the_library_and_loading_is_light(tmp_path):
    """The compiler takes half as long to import as torch itself."""
    LightweightVAE("conv3").save_pretrained(tmp_path / "base")
    model = wrap_decoder(load_base("lightweight", tmp_path / "base"), concepts=["a", "b"], form="edits")
    model.save_pretrained(tmp_path / "module")
    heavy = ["accelerate", "diffusers", "transformers", "peft", "PIL", "matplotlib", "ot", "scipy", "torch._dynamo"]
    code = f"""
import sys
from context_module import ContextualDecoder
ContextualDecoder.from_pretrained("module").generate(2, do="a")
print([name for name in {heavy} if name in sys.modules])
"""
    result = run(code, tmp_path)
    assert result.stderr == ""
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", list(modules()))
def test_every_module(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] == "context_module":
            raise
        pytest.skip(f"needs {error.name}, an extra")
    assert module.__doc__ or module.__all__
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert hasattr(module, public)
    assert doctest.testmod(module).failed == 0


def test_docstrings_have_examples():
    """They run with `test_every_module`; here they are counted, so that they do not go unseen."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = {
        found.name: len(found.examples)
        for name in modules()
        if importable(name)
        for found in finder.find(importlib.import_module(name))
    }
    assert sum(examples.values()) >= 32


def importable(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True


def test_files_are_data_only():
    """Nothing in the library unpickles: torch.load is always with weights_only=True."""
    for room in ROOMS.values():
        for file in room.rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert "weights_only=False" not in text, file
            assert text.count("torch.load(") <= text.count("weights_only=True"), file
            assert "pickle.load" not in text, file
