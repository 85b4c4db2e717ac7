"""How every recipe starts: --help without heavy imports, flags from a file, and errors of both."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(path.name for path in RECIPES.glob("*.py"))
# what --help has no use for, and whose import takes a second or more
HEAVY = ["accelerate", "datasets", "diffusers", "huggingface_hub", "matplotlib", "ot", "peft", "PIL", "scipy"]
HEAVY += ["skimage", "sklearn", "transformers"]

HELP = f"""
import contextlib, io, runpy, sys
for recipe in sys.argv[1:]:
    sys.argv, text = [recipe, "--help"], io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            runpy.run_path(recipe, run_name="__main__")
    except SystemExit as stop:
        assert not stop.code
    assert "--config" in text.getvalue(), recipe
    print(recipe, *[name for name in {HEAVY} if name in sys.modules])
"""


def test_help_imports_nothing_heavy(tmp_path):
    recipes = [str(RECIPES / name) for name in NAMES]
    result = subprocess.run(
        [sys.executable, "-c", HELP, *recipes],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == recipes


@pytest.mark.parametrize("recipe", NAMES)
def test_a_file_of_flags_with_a_typo(recipe, here, tmp_path):
    (tmp_path / "run.yaml").write_text("output: there\noutpt_dir: here\nnum_concept: 3\n")
    code, _, err = here(recipe, "--config", "run.yaml")
    assert code == 2
    assert "error: --config run.yaml: unknown key 'out" in err


def test_a_tracker_that_is_not_installed_ends_it_before_anything_is_read(here, check, monkeypatch, tmp_path):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    error = check.failed(here("finetune.py", "--report_to", "wandb", "--data", "nowhere", "--output_dir", "out"))
    assert error == "error: report_to='wandb' needs a package that is not installed: pip install wandb"
    assert not (tmp_path / "out").exists()
