"""docs/extending.md as a reader runs it: a system, a metric and a data set of somebody else."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from context_module import adapt, wrap_decoder
from context_module.data import ArrayContextDataset
from context_module.training import encode_dataset
from context_module.training.objectives import LatentObjective
from helpers.loop import forget_accelerate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What is defined after all blocks of the page."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found = {}
    for block in CODE.findall(PAGE.read_text(encoding="utf-8")):
        exec(compile(block, PAGE.name, "exec"), found)  # noqa: S102 (our own document)
    forget_accelerate()
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


def test_an_objective_of_fifteen_lines_trains(names):
    block = next(block for block in CODE.findall(PAGE.read_text(encoding="utf-8")) if "class BetaVAE" in block)
    assert len(block[block.index("class BetaVAE") :].splitlines()) <= 15
    assert names["result"].steps == 20
    assert Path("outputs/beta-vae/metrics.jsonl").is_file()


def test_a_term_of_one_file_joins_the_others(names, make_base):
    """And is logged under its name, with its weight in the loss."""
    base = adapt(make_base("nvae"))
    images = torch.randint(0, 256, (12, *base.image_shape), dtype=torch.uint8)
    data = ArrayContextDataset(images, torch.arange(2).repeat_interleave(6), ["obs", "a"], ["a"])
    encodings = encode_dataset(base, data, progress=False)
    model = wrap_decoder(base, ["a"], noise_width=4, concept_width=2, latent_noise=True)
    objective = LatentObjective(model, encodings, [names["Spread"](weight=3.0)], beta=0.0).eval()
    out = objective(encodings.batch(torch.arange(12)))
    torch.testing.assert_close(out["loss"], out["neg_log_likelihood"] + 3 * out["spread"])
    assert not len(LatentObjective(model, encodings, [names["Spread"](weight=0.0)]).terms)


def test_a_family_says_its_flags(names):
    (width,) = dataclasses.fields(names["ToyPretraining"])
    assert (width.name, width.default, width.metadata["help"]) == ("width", 64, "of the hidden layer")
