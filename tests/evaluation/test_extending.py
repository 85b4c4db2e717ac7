"""docs/extending.md as a reader runs it: a system, a metric and a data set of somebody else."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def names():
    """What is defined after all blocks of the page."""
    torch.manual_seed(0)
    found = {}
    for block in CODE.findall(PAGE.read_text(encoding="utf-8")):
        exec(compile(block, PAGE.name, "exec"), found)  # noqa: S102 (our own document)
    return found


def test_a_system_of_ten_lines_is_scored(names):
    block = next(block for block in CODE.findall(PAGE.read_text(encoding="utf-8")) if "class Painter" in block)
    assert len(block[block.index("class Painter") :].splitlines()) <= 10
    scores = names["scored"].contexts["a+b"].scores["sliced_wasserstein"]
    assert scores["model"].value < 0.1 < scores["base"].value  # it paints what was asked, its baseline does not
    found = names["evaluate"](names["Painter"](), names["data"], samples=20, progress=False, metrics=None)
    assert found.skipped["disentanglement"] == "Painter has no method 'codes'"
    assert found.skipped["graph"] == "Painter has no method 'graph'"


def test_a_metric_of_one_file_is_in_tables_and_in_the_report(names):
    from context_module.evaluation import render_report, summary_table

    found = names["evaluate"](names["Painter"](), names["data"], samples=20, metrics=["brightness"], progress=False)
    assert "| composition | brightness | " in summary_table(found)
    html = render_report("x", found)
    assert "Brightness (lower is better)" in html
    assert "How far off the mean brightness of the images is." in html


def test_a_data_set_of_one_file_takes_its_options(names):
    assert len(names["greys_data"].train) == 60
    assert names["greys_data"].train.select("obs").max() <= 0.5


def test_views_of_the_page_come_in_batches(names):
    assert names["labelled"][3]["factors"].shape == (2,)
    assert names["batch"]["other_mask"].any(1).all()
