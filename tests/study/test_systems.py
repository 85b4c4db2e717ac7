"""What the tables of other systems take from reports."""

from context_module.study import LECTURE, LECTURE_PUBLISHED, scores_of_codes
from context_module.study.comparison import Comparison, Score


def test_figures_of_a_report():
    report = {"disentanglement": {"factor_vae": {"value": 0.7}}, "categories": None}
    assert scores_of_codes(report) == {"factor_vae": 0.7}
    report["categories"] = {"code 1": {"shape": {"value": 0.4}, "scale": {"value": 0.2}}}
    assert scores_of_codes(report) == {"factor_vae": 0.7, "shape": 0.4}


def test_rows_show_deviation_and_best():
    table = Comparison("t", {"a": "A"}, {"x": {"a": Score.of([0.5, 0.7])}, "y": {"a": Score.of([0.5])}}, spread=True)
    assert "0.600 (0.141, best 0.700)" in table.markdown()
    assert "| y | **0.500** |" in table.markdown()
    assert set(LECTURE) == set(LECTURE_PUBLISHED)
