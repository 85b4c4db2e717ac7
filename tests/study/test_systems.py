"""What the tables of other systems take from reports."""

import pytest

from context_module.io import write_json
from context_module.study import DEAR_TABLES, LECTURE_TABLE
from context_module.study.comparison import Comparison, Score
from context_module.study.dear import scores_of_prediction, scores_of_setting
from context_module.study.lecture import scores_of_codes


def value(number):
    return {"value": number}


def test_figures_of_a_report():
    report = {"disentanglement": {"factor_vae": {"value": 0.7}}, "categories": None}
    assert scores_of_codes(report) == {"factor_vae": 0.7}
    report["categories"] = {"code 1": {"shape": {"value": 0.4}, "scale": {"value": 0.2}}}
    assert scores_of_codes(report) == {"factor_vae": 0.7, "shape": 0.4}


def test_rows_show_deviation_and_best():
    rows = {"x": {"a": Score.of([0.5, 0.7])}, "y": {"a": Score.of([0.5])}}
    assert "| y | **0.500** |" in Comparison("t", {"a": "A"}, rows, spread=True).markdown()
    for better, shown in (("lower", ", best 0.500"), ("higher", ", best 0.700"), (None, "")):
        assert (
            f"0.600 (0.141{shown})" in Comparison("t", {"a": "A"}, rows, better={"a": better}, spread=True).markdown()
        )
    assert set(LECTURE_TABLE.rows) == set(LECTURE_TABLE.published)


def test_accuracies_of_a_representation_and_of_classifiers(tmp_path):
    found = {
        "sample_efficiency": {"few": value(0.8), "full": value(0.9), "efficiency": value(0.88)},
        "under_shift": {"worst_group": value(0.6), "average": value(0.85)},
    }
    (tmp_path / "evaluation").mkdir()
    write_json(tmp_path / "evaluation" / "report.json", {"downstream": found | {"labelled_codes": found}})
    scores = scores_of_prediction(tmp_path)
    assert scores["few"] == scores["few_of_factors"] == 0.8
    assert (scores["worst"], scores["average_of_factors"]) == (0.6, 0.85)
    erm = tmp_path / "erm"
    erm.mkdir()
    write_json(erm / "accuracy.json", {"worst_group": value(0.5), "average": value(0.9), "accuracy": value(0.95)})
    assert scores_of_prediction(erm) == {"worst": 0.5, "average": 0.9}
    for name, number in (("few", 0.6), ("full", 0.8)):
        (tmp_path / "resnet" / name).mkdir(parents=True)
        write_json(tmp_path / "resnet" / name / "accuracy.json", {"accuracy": value(number)})
    assert scores_of_prediction(tmp_path / "resnet")["efficiency"] == pytest.approx(0.75)


def test_errors_of_factors_that_can_change(tmp_path):
    """Those of the other three; not of a corruption that the pictures do not have."""
    errors = {name: value(number) for name, number in (("light", 0.1), ("length", 0.3), ("corrupted", 9.0))}
    scores = {"errors": errors, "floor": errors, "effect": value(1.0), "pixel_error": value(0.01)}
    (tmp_path / "evaluation").mkdir()
    report = {"counterfactual": {"concepts": {"pendulum": scores}}}
    write_json(tmp_path / "evaluation" / "report.json", report)
    found = scores_of_setting(tmp_path)
    assert found["pendulum"] == found["mean"] == found["floor"] == pytest.approx(0.2)
    assert set(found) <= set(DEAR_TABLES["dear_generation"].columns)
