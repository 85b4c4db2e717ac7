"""The paper's theorem on the data of docs/examples/identifiability.py, whose edits take a moment."""

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "examples" / "identifiability.py"))


def found(missing, folder):
    """The share of each concept, over three worlds."""
    shares = [EXAMPLE["recovered"]("edits, in closed form", 1000, missing, seed, folder) for seed in range(3)]
    return torch.tensor(shares).mean(0)


def test_edits_find_every_concept_that_was_intervened_on(tmp_path):
    assert found(None, tmp_path).min() > 0.8


def test_and_no_other(tmp_path):
    with pytest.warns(UserWarning, match="images of context 'b' do not differ from observational ones"):
        a, b, c, d = found("b", tmp_path)
    assert b < 0.65
    assert min(a, c, d) > 0.8
