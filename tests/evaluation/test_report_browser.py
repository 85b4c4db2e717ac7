"""The report in a browser: what its script does, what it is without one, and that it loads nothing."""

from pathlib import Path

import pytest
import torch

from context_module.evaluation import ContextScores, Evaluation, render_report
from context_module.metrics.estimate import Estimate
from helpers.draws import seeded

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium")

WIDTHS = (390, 820, 1440)


def figure(value):
    return Estimate(value, value - 0.01, value + 0.01, 100)


def scores(model):
    distances = {"model": model, "base": 0.5, "floor": 0.02, "maps": 0.05, "recon": 0.02, "unchanged": 0.2}
    return {"sliced_wasserstein": {column: figure(value) for column, value in distances.items()}}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    images = torch.rand(8, 3, 16, 16, generator=seeded(0))
    examples = dict.fromkeys(("real", "model", "maps"), images)
    contexts = {
        name: ContextScores(len(name) > 2, scores(model), examples)
        for name, model in (("a+b", 0.04), ("a+c", 0.02), ("b+c", 0.1), ("a", 0.03), ("b", 0.021), ("c", 0.19))
    }
    steps = [-2 + 0.5 * step for step in range(11)]
    html = render_report(
        "A report",
        Evaluation(100, 0, contexts, {"reconstruction": {"bits_per_pixel": figure(1.5)}}),
        facts={"command": "python recipes/evaluate.py --model " + "a-long-name/" * 12},
        strengths={"size": {step: torch.full((3, 3, 16, 16), (step + 2) / 5) for step in steps}},
        log=[{"step": step, "loss": 1 / step} for step in (1, 2, 3)],
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, report):
    """The report in a new window, which must not complain, nor ask for anything but itself."""
    complaints, contexts = [], []

    def opened(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("data:", report)) or complaints.append(request.url))
        page.goto(report)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def names(table, column=0):
    return [row.locator("th, td").nth(column).inner_text() for row in table.locator("tbody tr").all()]


def test_a_click_on_a_header_sorts_and_means_stay(open_page):
    page = open_page()
    table = page.locator("#contexts ~ .scroll table").first
    means = ["mean (concept)", "mean (composition)"]
    assert names(table) == ["a", "b", "c", means[0], "a+b", "a+c", "b+c", means[1]]
    header = table.locator("thead th").nth(1)
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert names(table) == ["b", "a", "c", means[0], "a+c", "a+b", "b+c", means[1]]
    header.get_by_role("button").press("Enter")  # the keyboard does, too
    assert header.get_attribute("aria-sort") == "descending"
    assert names(table) == ["c", "a", "b", means[0], "b+c", "a+b", "a+c", means[1]]
    table.locator("thead th").first.get_by_role("button").press("Space")
    assert table.locator("[aria-sort]").count() == 1
    assert names(table)[:3] == ["a", "b", "c"]


def test_verdicts_sort_from_good_to_bad(open_page):
    page = open_page()
    table = page.locator("table.verdicts").first
    assert names(table) == ["a+c", "a+b", "b+c"]
    header = page.get_by_role("button", name="verdict, and why").first
    header.click()
    header.click()
    assert names(table) == ["b+c", "a+b", "a+c"]


def test_a_slider_shows_the_frame_of_its_strength(open_page):
    page = open_page()
    slider = page.get_by_role("slider", name="strength of the intervention on size")
    film = page.locator(".film")
    assert slider.input_value() == film.locator("output").inner_text() == "1"
    assert not film.locator("ol").is_visible()
    gate = film.locator(".gate").bounding_box()
    pitch = film.locator("img").bounding_box()["height"] / 11
    assert 0.9 * pitch < gate["height"] < pitch  # no other frame is seen, nor the gap below
    for strength, frame in ((-2, 0), (0.5, 5), (3, 10)):
        slider.fill(str(strength))
        picture = film.locator("img").bounding_box()
        assert picture["y"] == pytest.approx(film.locator(".gate").bounding_box()["y"] - frame * pitch, abs=1)
        assert film.locator("output").inner_text() == f"{strength:g}"
    slider.press("ArrowLeft")
    assert slider.input_value() == "2.5"


def test_without_a_script_all_of_it_is_there(open_page):
    page = open_page(java_script_enabled=False)
    assert not page.get_by_role("slider").is_visible()
    assert not page.locator("thead button").count()
    assert [item.inner_text() for item in page.locator(".film li").all()][::5] == ["-2", "0.5", "3"]
    assert page.locator(".film img").bounding_box()["height"] > 11 * 30


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_screen_in_light_and_dark(open_page, width, scheme):
    page = open_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 25, 31)"}[scheme]
    light, dark = (
        page.locator(selector).get_attribute(name)
        for selector, name in (("#training ~ figure img", "src"), ("#training ~ figure source", "srcset"))
    )
    shown = page.locator("#training ~ figure img").evaluate("picture => picture.currentSrc")
    assert shown == (dark if scheme == "dark" else light)


def test_its_policy_stops_what_somebody_puts_in(browser, report):
    page = browser.new_page()
    failed = {}
    page.on("requestfailed", lambda request: failed.update({request.url: request.failure}))
    page.goto(report)
    with page.expect_event("requestfailed"):
        page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    assert page.evaluate("window.ran") is None
    assert failed == {"http://127.0.0.1:9/x.png": "csp"}  # before it was sent
    page.close()
