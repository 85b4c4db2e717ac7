"""The report: one file that holds all it shows; its mosaics and figures."""

import base64
import dataclasses
import hashlib
import io
import itertools
import re
from html import escape

import pytest
import torch
from PIL import Image

from context_module.drawing import edge_map, filmstrip, mosaic, png, training_curves
from context_module.errors import ShapeError
from context_module.evaluation import ContextScores, Evaluation, render_report, verdict
from context_module.evaluation.verdicts import VERDICTS
from context_module.metrics import GraphScores, figure_of
from context_module.metrics.counterfactual import CounterfactualConsistency, CounterfactualScores
from context_module.metrics.estimate import Estimate
from context_module.nn.graph import CausalGraph
from helpers.draws import seeded


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
    assert (
        html.count('<td data-value="0.25">0.250 <small>[0.240, 0.270]</small></td>') == 6
    )  # two contexts, their means, and the summary's
    assert "with context module" in html
    for name in ("sliced_wasserstein", "concept_accuracy"):
        assert escape(figure_of(name).text).replace("&#x27;", "&#39;") in html
    assert figure_of("mmd").text not in html  # not measured
    rows = re.findall(r'<tr[^>]*><th scope="row">([^<]+)</th>', html)
    table = rows[rows.index("obs") :]
    assert table[:4] == ["obs", "mean (concept)", "a+b", "mean (composition)"]


def test_everything_is_inside_the_file():
    images = torch.rand(8, 3, 8, 8)
    pictured = {
        name: dataclasses.replace(context, examples=dict.fromkeys(("real", "model", "maps"), images))
        for name, context in CONTEXTS.items()
    }
    html = render_report(
        "x",
        Evaluation(100, 0, pictured, {"graph": GraphScores(GRAPH)}),
        counterfactuals={"real": images, "size": images},
        strengths={"size": {0.0: images[:2], 0.5: images[:2], 1.0: images[:2]}},
        log=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}],
    )
    assert not re.search(r"<link|@import|url\(|(src|href|srcset)=\"(?!data:|#)", html)
    assert len(pictures_in(html)) == 6 + 2 + 1 + 2
    assert html.count("never trained on</span>") == 1
    anchors = re.findall(r'href="#([^"]+)"', html)
    assert anchors == [
        "verdicts",
        "summary",
        "pictures",
        "strengths",
        "counterfactuals",
        "contexts",
        "graph",
        "training",
    ]
    assert all(f'id="{anchor}"' in html for anchor in anchors)
    assert 'name="viewport"' in html
    assert "@media print" in html
    assert "prefers-color-scheme: dark" in html
    assert html.count("<source media=") == 2  # figures are drawn for dark pages, too
    assert re.findall("<figcaption>([^<]+)", html) == [*["real", "generated", "Gaussian maps"] * 2, "size"]


def test_its_policy_lets_nothing_else_in():
    """It names the page's own style and script, by their digest, and pictures inside it."""
    html = render_report("x", Evaluation(100, 0, CONTEXTS))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not re.search(r' (style|on\w+)="', html)  # which the policy would not let through


def test_sizes_stay_sensible():
    """Pictures of large images are shrunk."""
    images = torch.rand(8, 3, 300, 200, generator=seeded(0))
    context = ContextScores(False, DISTANCES, {"real": images})
    html = render_report(
        "x", Evaluation(100, 0, {"obs": context}), strengths={"a": {0.0: images[:1], 1.0: images[:1]}}
    )
    picture, film = pictures_in(html)
    assert picture.size == (4 * (85 + 2) - 2, 2 * (128 + 2) - 2)
    assert film.height == 2 * (film.height // 2)
    assert film.width < 130


# --- verdicts


def judged_scores(**distances):
    return {"sliced_wasserstein": columns(**{"base": 0.5, "arithmetic": 0.1, "floor": 0.02, **distances})}


GOOD = {"model": 0.022, "maps": 0.05, "recon": 0.015, "unchanged": 0.1}
IDLE = {"model": 0.09, "maps": 0.03, "recon": 0.02, "unchanged": 0.1}
LIMITED = {"model": 0.085, "maps": 0.09, "recon": 0.08, "unchanged": 0.3}
JUDGED = {
    "a+b": ContextScores(True, judged_scores(**GOOD)),
    "a+c": ContextScores(True, judged_scores(**LIMITED)),
    "obs": ContextScores(False, judged_scores(**GOOD)),
    "a": ContextScores(False, judged_scores(**GOOD)),
    "c": ContextScores(False, judged_scores(**IDLE)),
}


def test_verdicts_stand_on_top_with_their_reasons():
    html = render_report("x", Evaluation(100, 0, JUDGED), notes=["something odd"])
    assert html.index('id="verdicts"') < html.index('id="summary"')
    cells = r'row">([^<]+)</th><td class="works[^>]*>([^<]+)</td><td[^>]*>([^<]+) <span class="why">([^<]+)<'
    rows = re.findall(cells, html.replace("<wbr>", ""))
    assert [row[:3] for row in rows] == [
        ("a+b", "yes", "as real images are"),
        ("a+c", "as far as the base allows", "limited by the base"),
        ("a", "yes", "as real images are"),
        ("c", "no", "no visible effect"),
    ]
    assert [row[2] for row in rows] == [
        verdict(found) for found in [{**d, "floor": 0.02} for d in (GOOD, LIMITED, GOOD, IDLE)]
    ]
    assert rows[1][3].endswith("reconstructions 0.080. c alone: no visible effect.")
    assert "0.090 from real images, as observational images are, 0.100" in rows[3][3]
    assert "Of 2: 1 as real images are, 1 limited by the base." in html
    assert "<li>something odd</li>" in html


def test_compositions_that_the_base_does_not_know_are_said():
    strange = {**judged_scores(**GOOD), "unfamiliar": {"model": Estimate(0.3, 0.2, 0.4, 100)}}
    html = render_report("x", Evaluation(100, 0, {"a+b": ContextScores(True, strange)}))
    assert "30% of its images are unlike anything that the base knows." in html
    assert "empty or blended perhaps: a+b 30% of images</li>" in html


def test_a_verdict_for_all_distances_there_can_be():
    steps = torch.linspace(0.01, 0.3, 6).tolist()
    for model, maps, recon, floor, unchanged in itertools.product(steps, repeat=5):
        distances = {"model": model, "maps": maps, "recon": recon, "floor": floor, "unchanged": unchanged}
        works, why = VERDICTS[verdict(distances)]
        assert works
        assert why.format_map(distances).endswith(".")


def test_without_verdicts_it_says_what_they_take():
    assert "None: a verdict takes" in render_report("x", Evaluation(100, 0, CONTEXTS))


def test_films_say_their_strengths():
    images = torch.rand(2, 3, 4, 4)
    html = render_report("x", Evaluation(100, 0, {}), strengths={"size": {-2.0: images, 0.5: images, 3.0: images}})
    assert '<input type="range" min="-2.0" max="3.0" step="2.5" value="1"' in html
    assert re.findall("<li>([^<]+)</li>", html) == ["-2", "0.5", "3"]
    assert 'aria-label="strength of the intervention on size"' in html


def test_parts_without_content_are_left_out():
    html = render_report("x", Evaluation(100, 0, {}, {"reconstruction": {"bits_per_pixel": estimate(1.5)}}))
    assert re.findall(r'href="#([^"]+)"', html) == ["verdicts", "summary", "reconstruction"]
    assert "bits per pixel" in html
    assert "1.500 <small>[1.490, 1.520]</small>" in html
    assert not pictures_in(html)


def test_names_of_users_are_text():
    contexts = {"<b>": ContextScores(False, DISTANCES)}
    html = render_report("<i>", Evaluation(100, 0, contexts), facts={"data": "<script>alert(1)</script>"})
    assert "<script>alert" not in html
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
    assert re.findall(r"<td[^>]*>([\d.]+) ", row) == ["1.100", "1.200", "0.400", "0.100", "0.050"]
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


def test_curves_have_a_panel_per_term_with_units_under_one_legend():
    lines = [{"step": 1, "lr": 0.1, "loss": 900.0, "kl": 2.0}, {"step": 2, "lr": 0.1, "loss": 9.0, "kl": 1.0}]
    figure = training_curves([*lines, {"step": 2, "val_loss": 10.0}])
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    assert set(panels) == {"loss", "kl"}
    training, validation = panels["loss"].lines
    assert training.get_xydata().tolist() == [[1, 900], [2, 9]]
    assert validation.get_xydata().tolist() == [[2, 10]]
    assert (panels["loss"].get_yscale(), panels["kl"].get_yscale()) == ("log", "linear")
    assert {(axes.get_xlabel(), axes.get_ylabel()) for axes in panels.values()} == {
        ("optimiser step", "nats per image")
    }
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation"]
    assert training_curves([]) is None
    assert training_curves(lines[:1]) is None  # no curve


def test_what_is_logged_for_every_context_shares_a_panel():
    lines = [{"step": step, "val_loss": 1.0, "gap/a": 0.1, "gap/b": 0.3, "gap/floor": 0.05} for step in (1, 2)]
    figure = training_curves(lines)
    loss, gap = figure.axes
    assert (loss.get_title(), gap.get_title(), gap.get_ylabel()) == ("loss", "gap", "standard deviations")
    mean, floor = gap.lines
    assert mean.get_ydata().tolist() == pytest.approx([0.2, 0.2])
    assert floor.get_ydata().tolist() == [0.05, 0.05]
    assert len(gap.collections) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["validation", "range over several", "floor"]


def test_figures_for_dark_pages():
    lines = [{"step": step, "loss": 1.0} for step in (1, 2)]
    for draw in (lambda dark: training_curves(lines, dark=dark), lambda dark: edge_map(GRAPH, dark=dark)):
        light, dark = (Image.open(io.BytesIO(png(draw(dark)))).convert("L") for dark in (False, True))
        assert light.size == dark.size
        assert (light.getpixel((0, 0)), dark.getpixel((0, 0)) < 40) == (255, True)
        assert (light.getextrema()[0] < 60, dark.getextrema()[1] > 200) == (True, True)  # ink on either


def test_a_film_has_frames_of_one_height():
    frames = torch.stack([torch.full((2, 3, 4, 4), level) for level in (0.0, 0.6, 1.0)])
    picture = filmstrip(frames)
    height = picture.height // 3
    assert picture.size == (2 * 64 + 2, 3 * 66)
    assert [picture.getpixel((5, frame * height))[0] for frame in range(3)] == [0, 153, 255]
    with pytest.raises(ShapeError, match=r"a filmstrip needs frames \(f, n, C, H, W\), got \(2, 3, 4, 4\)"):
        filmstrip(frames[0])


def test_pngs_hold_the_picture():
    assert Image.open(io.BytesIO(png(mosaic(torch.rand(2, 3, 4, 4), 2)))).size == (130, 64)
    assert Image.open(io.BytesIO(png(edge_map(GRAPH)))).format == "PNG"
