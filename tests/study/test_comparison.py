"""The table of methods beside published figures."""

import csv
import io
import math

import pytest
from PIL import Image

from context_module.study.comparison import Comparison, Score


@pytest.fixture
def comparison():
    scores = {
        "base": {"concept": Score.of([0.2, 0.3]), "composition": Score.of([0.4])},
        "ours": {"concept": Score.of([0.1, 0.1]), "composition": None},
    }
    return Comparison("a title", {"concept": "concept", "composition": "pairs"}, scores, {"base": {"concept": 0.175}})


def test_mean_and_standard_error():
    score = Score.of([1.0, 2.0, 3.0])
    assert (score.mean, score.seeds) == (2.0, 3)
    assert score.error == pytest.approx(1 / math.sqrt(3))
    assert str(score) == "2.000 ± 0.577"
    one = Score.of([0.5])
    assert str(one) == "0.500"
    assert math.isnan(one.error)
    assert Score.of([]) is Score.of([math.nan, math.inf]) is None
    assert Score.of([math.nan, 2.0, 1.0]) == Score.of([2.0, 1.0])


def test_markdown(comparison):
    assert comparison.markdown().splitlines() == [
        "| method | concept ↓ | paper | pairs ↓ |",
        "|---|---|---|---|",
        "| base | 0.250 ± 0.050 | 0.175 | **0.400** |",
        "| ours | **0.100 ± 0.000** |  |  |",
    ]


def test_tables_of_several_data_sets_together(comparison):
    other = Comparison("other", comparison.columns, {"base": {"concept": Score.of([0.5])}, "ours": {}})
    found = Comparison.together("all", {"quad": comparison, "chase": other})
    assert list(found.scores) == ["quad: base", "quad: ours", "chase: base", "chase: ours", "mean: base", "mean: ours"]
    assert found.scores["mean: base"]["concept"].mean == pytest.approx((0.25 + 0.5) / 2)
    assert found.scores["mean: ours"]["concept"].mean == pytest.approx(0.1)
    assert found.scores["mean: ours"]["composition"] is None
    assert "**" not in found.markdown()  # data sets do not compete


def test_without_published_figures_and_where_higher_is_better():
    """Methods that are level are both the best; of a column without a better end none is."""
    rows = {"a": (1.0, 0.2, 0.3), "b": (2.0, 0.5, 0.3), "c": (1.0, 0.5, 0.3)}
    columns = {"edges": "wrong edges", "precision": "precision", "floor": "floor"}
    scores = {
        row: {key: Score.of([value]) for key, value in zip(columns, values, strict=True)}
        for row, values in rows.items()
    }
    comparison = Comparison("a title", columns, scores, better={"precision": "higher", "floor": None})
    assert comparison.markdown().splitlines() == [
        "| method | wrong edges ↓ | precision ↑ | floor |",
        "|---|---|---|---|",
        "| a | **1.000** | 0.200 | 0.300 |",
        "| b | 2.000 | **0.500** | 0.300 |",
        "| c | **1.000** | **0.500** | 0.300 |",
    ]
    assert comparison.csv().splitlines()[:2] == ["method,score,mean,standard_error,seeds", "a,edges,1.0,nan,1"]
    panels = comparison.figure().axes
    assert [axes.get_title() for axes in panels] == ["wrong edges ↓", "precision ↑", "floor"]


def test_a_number_stands_inside_its_bar():
    scores = {"ahead": {"headline": Score.of([0.2])}, "behind": {"headline": Score.of([-0.2])}}
    (axes,) = Comparison("a title", {"headline": "headline"}, scores).figure().axes
    texts = {text.get_text(): text for text in axes.texts}
    assert texts["0.200"].get_horizontalalignment() == "left"
    assert texts["-0.200"].get_horizontalalignment() == "right"
    assert texts["0.200"].xyann[0] > 0 > texts["-0.200"].xyann[0]


def test_csv(comparison):
    rows = list(csv.DictReader(io.StringIO(comparison.csv())))
    assert len(rows) == 4
    assert rows[0] == {
        "method": "base",
        "score": "concept",
        "mean": "0.25",
        "standard_error": rows[0]["standard_error"],
        "seeds": "2",
        "published": "0.175",
    }
    assert float(rows[0]["standard_error"]) == pytest.approx(0.05)
    assert rows[3]["mean"] == ""
    assert rows[3]["seeds"] == "0"


def test_saved_files(comparison, tmp_path):
    comparison.save(tmp_path / "table")
    assert sorted(path.name for path in (tmp_path / "table").iterdir()) == ["table.csv", "table.md", "table.png"]
    assert "# a title" in (tmp_path / "table" / "table.md").read_text()
    with Image.open(tmp_path / "table" / "table.png") as picture:
        assert picture.width > picture.height > 100
