"""The report: one file that holds all it shows; its mosaics and figures."""

import base64
import io
import re
from html import escape

import pytest
import torch
from PIL import Image

from context_module.drawing.figures import edge_map, mosaic, png, training_curves
from context_module.errors import ShapeError
from context_module.evaluation import Evaluation
from context_module.evaluation.report import render_report
from context_module.evaluation.result import ContextScores
from context_module.metrics import GraphScores, figure_of
from context_module.metrics.counterfactual import CounterfactualConsistency, CounterfactualScores
from context_module.metrics.estimate import Estimate
from context_module.nn.graph import CausalGraph


def estimate(value):
    return Estimate(value, value - 0.01, value + 0.02, 100)


def columns(**values):
    return {name: estimate(value) for name, value in values.items()}


DISTANCES = {"sliced_wasserstein": columns(model=0.25, base=0.5, floor=0.1)}
CONTEXTS = {
    "a+b": ContextScores(True, {**DISTANCES, "concept_accuracy": columns(model=0.6, real=0.9)}),
    "obs": ContextScores(False, {**DISTANCES, "concept_accuracy": columns(model=0.7, real=0.95)}),
}
GRAPH = CausalGraph(("a", "b", "c"), torch.tensor([[9.0, 0.5, 0.25], [0.0, 9.0, 0.0], [0.0, 0.05, 9.0]]))
COUNTERFACTUAL = CounterfactualConsistency(
    concepts={
        "size": CounterfactualScores(
            *(estimate(1.1), estimate(1.2), {"hue": estimate(0.3), "shape": estimate(0.5)}),
            *({"hue": estimate(0.1), "shape": estimate(0.1)}, estimate(0.05), estimate(0.01)),
        )
    },
    real={"hue": estimate(0.21)},
    reconstruction={"hue": estimate(0.22)},
    reconstruction_pixel_error=estimate(0.03),
)


def pictures_in(html):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in found]


# --- the page


def test_figures_come_with_intervals_and_directions():
    html = render_report("Evaluation of x", Evaluation(100, 0, CONTEXTS))
    assert "<h1>Evaluation of x</h1>" in html
    assert "Sliced Wasserstein distance (lower is better)" in html
    assert html.count("0.250 <small>[0.240, 0.270]</small>") == 6  # two contexts, their means, and the summary's
    assert "with context module" in html
    for name in ("sliced_wasserstein", "concept_accuracy"):
        assert escape(figure_of(name).text).replace("&#x27;", "&#39;") in html
    assert figure_of("mmd").text not in html  # not measured
    rows = re.findall(r'<tr[^>]*><th scope="row">([^<]+)</th>', html)
    table = rows[rows.index("obs") :]
    assert table[:4] == ["obs", "mean (concept)", "a+b", "mean (composition)"]


def test_everything_is_inside_the_file():
    images = torch.rand(8, 3, 8, 8)
    html = render_report(
        "x",
        Evaluation(100, 0, CONTEXTS, {"graph": GraphScores(GRAPH)}),
        pictures={"obs": (images, images[:3]), "a+b": (images, images)},
        counterfactuals={"real": images, "size": images},
        curves=training_curves([{"step": 1, "loss": 2.0}]),
    )
    assert not re.search(r"<script|<link|@import|url\(|(src|href)=\"(?!data:|#)", html)
    assert len(pictures_in(html)) == 4 + 2 + 2
    assert html.count("never trained on</span>") == 1
    anchors = re.findall(r'href="#([^"]+)"', html)
    assert anchors == ["summary", "pictures", "counterfactuals", "contexts", "graph", "training"]
    assert all(f'id="{anchor}"' in html for anchor in anchors)
    assert 'name="viewport"' in html
    assert "@media print" in html


def test_parts_without_content_are_left_out():
    html = render_report("x", Evaluation(100, 0, {}, {"reconstruction": {"bits_per_pixel": estimate(1.5)}}))
    assert re.findall(r'href="#([^"]+)"', html) == ["summary", "reconstruction"]
    assert "bits per pixel" in html
    assert "1.500 <small>[1.490, 1.520]</small>" in html
    assert not pictures_in(html)


def test_names_of_users_are_text():
    contexts = {"<b>": ContextScores(False, DISTANCES)}
    html = render_report("<i>", Evaluation(100, 0, contexts), facts={"data": "<script>alert(1)</script>"})
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;" in html
    assert "<h1>&lt;i&gt;</h1>" in html


def test_what_was_not_measured_says_why():
    html = render_report("x", Evaluation(100, 0, CONTEXTS, skipped={"downstream": "there is nothing to predict"}))
    assert "Downstream prediction: there is nothing to predict." in html


def test_a_base_alone_has_one_column_of_its_own():
    alone = {"obs": ContextScores(False, {"mmd": columns(model=0.5, base=0.5, floor=0.1)})}
    html = render_report("x", Evaluation(100, 0, alone))
    assert "samples of the base" in html
    assert "with context module" not in html


def test_counterfactuals_are_summed_up():
    html = render_report("x", Evaluation(100, 0, {}, {"counterfactual": COUNTERFACTUAL}))
    (row,) = re.findall(r'<tr><th scope="row">size</th>(.*)</tr>', html)
    assert re.findall(r"<td>([\d.]+) ", row) == ["1.100", "1.200", "0.400", "0.100", "0.050"]
    assert "0.220" in html


def test_nested_figures_are_listed_by_their_path():
    found = {"under_shift": {"worst_group": estimate(0.4)}}
    assert "under shift / worst group" in render_report("x", Evaluation(100, 0, {}, {"downstream": found}))


@pytest.mark.parametrize(
    ("truth", "said", "distance", "listed"),
    [
        ((("a", "b"), ("b", "c")), "are outlined", 3, ["missing: b → c", "extra: c → a", "reversed: a → b"]),
        ((), "none of these concepts acts", 2, ["extra: b → a, c → a"]),
        ((("b", "a"), ("c", "a")), "are outlined", 0, []),
        (None, None, None, []),
    ],
)
def test_says_what_is_known_of_the_true_graph(truth, said, distance, listed):
    html = render_report("x", Evaluation(100, 0, {}, {"graph": GraphScores(GRAPH, truth)}))
    for sentence in ("are outlined", "none of these concepts acts"):
        assert (sentence in html) == (sentence == said)
    assert re.findall(r"<strong>(\d+)</strong>", html) == ([] if distance is None else [str(distance)])
    assert re.findall(r"<li>([^<]+)</li>", html) == listed
    assert len(pictures_in(html)) == 1


# --- figures


def test_a_mosaic_is_rows_of_enlarged_images():
    images = torch.stack([torch.full((1, 2, 2), level) for level in (0.0, 0.2, 1.0)])
    picture = mosaic(images, 2, min_size=4)
    assert (picture.mode, picture.size) == ("RGB", (2 * 4 + 2, 2 * 4 + 2))
    assert [picture.getpixel(at) for at in ((3, 3), (6, 0), (0, 6))] == [(0, 0, 0), (51, 51, 51), (255, 255, 255)]
    assert picture.getpixel((4, 0)) not in [(0, 0, 0), (255, 255, 255)]  # the gap is seen beside black and white
    assert picture.getpixel((6, 6)) == (255, 255, 255)  # no image there


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 2, 4, 4), (3, 4, 4)])
def test_mosaic_refuses(shape):
    with pytest.raises(ShapeError, match="a mosaic needs images"):
        mosaic(torch.zeros(shape), 2)


def test_edge_map_labels_causes_and_effects_and_outlines_true_edges():
    figure = edge_map(CausalGraph(("a", "b"), torch.tensor([[9.0, 0.25], [0.5, 9.0]])), [("a", "b")])
    axes = figure.axes[1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("cause", "effect")
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(1, 0): "0.25", (0, 1): "0.50"}
    (outline,) = axes.patches
    assert (outline.get_x() + 0.46, outline.get_y() + 0.46) == pytest.approx((0, 1))
    assert axes.images[0].get_clim() == (0, 0.5)  # the diagonal is no edge


def test_curves_have_a_panel_per_term():
    lines = [{"step": 1, "lr": 0.1, "loss": 900.0, "kl": 2.0}, {"step": 2, "lr": 0.1, "loss": 9.0, "kl": 1.0}]
    figure = training_curves([*lines, {"step": 2, "val_loss": 10.0}])
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    assert set(panels) == {"loss", "kl"}
    training, validation = panels["loss"].lines
    assert training.get_xydata().tolist() == [[1, 900], [2, 9]]
    assert validation.get_xydata().tolist() == [[2, 10]]
    assert (panels["loss"].get_yscale(), panels["kl"].get_yscale()) == ("log", "linear")
    assert training_curves([]) is None


def test_pngs_hold_the_picture():
    assert Image.open(io.BytesIO(png(mosaic(torch.rand(2, 3, 4, 4), 2)))).size == (130, 64)
    assert Image.open(io.BytesIO(png(edge_map(GRAPH)))).format == "PNG"
