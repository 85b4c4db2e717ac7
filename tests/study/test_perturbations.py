"""What the tables of perturbation screens take from reports."""

import pytest

from context_module.io import write_json
from context_module.study.perturbations import CLOSED, scores_of_combinations, scores_of_latents
from context_module.study.table import folder_name


def figure(value):
    return {"value": value, "low": value, "high": value, "samples": 9}


def columns(**values):
    return {name: figure(value) for name, value in values.items()}


def test_latents_and_transfer(tmp_path):
    (tmp_path / "evaluation").mkdir()
    report = {"latents": columns(mcc=0.5, f1=0.25), "transfer": columns(nll_elbo=30.0)}
    write_json(tmp_path / "evaluation" / "report.json", report)
    assert scores_of_latents(tmp_path) == {"mcc": 0.5, "f1": 0.25, "nll_elbo": 30.0}
    write_json(tmp_path / "evaluation" / "report.json", {"latents": None, "transfer": None})
    assert scores_of_latents(tmp_path) == {}


def test_combinations_are_scaled_and_answers_read_from_the_reports_of_the_module(tmp_path):
    figures = columns(model=0.3, additive=0.2, linear=0.4, mean_response=0.5, floor=0.1)
    module = tmp_path / folder_name(CLOSED) / "seed-0"
    assert scores_of_combinations(module) == {}
    for screen in ("additive", "interactions"):
        (module / screen / "evaluation").mkdir(parents=True)
        report = {"summary": {"composition": {"e_distance": figures}}, "discrimination": None}
        write_json(module / screen / "evaluation" / "report.json", report)
    found = scores_of_combinations(module)
    assert found == {"e_distance-additive": pytest.approx(0.5), "e_distance-interactions": pytest.approx(0.5)}
    additive = scores_of_combinations(tmp_path / "additive" / "seed-0")
    assert additive["e_distance-additive"] == pytest.approx(0.75)
    assert scores_of_combinations(tmp_path / "mean-response" / "seed-0")["e_distance-interactions"] == 0
