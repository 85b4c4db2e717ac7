"""The site: its pages' code runs, the pages made at build time are complete, and the figures can be drawn."""

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters import load_base
from context_module.data import load_data
from context_module.training.values import fit_values

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.glob("*.md"))
CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def script(name):
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def options():
    return script("options")


RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_options_pages_have_every_flag(recipe, options, monkeypatch):
    monkeypatch.setitem(sys.modules, f"recipe_{recipe}", None)  # restored afterwards
    text = options.page(recipe)
    for field in dataclasses.fields(options.arguments_of(recipe)):
        (head,) = re.findall(rf"^:::{{option}} --{field.name}\b.*", text, re.MULTILINE)
        body = text.split(head, 1)[1].split(":::")[0]
        assert len(body.split()) >= 2, field.name
        if field.default not in (None, dataclasses.MISSING, True, False):
            assert f"Default: `{field.default}`." in body, field.name
    assert f"# {recipe}.py" in text
    assert f"generated/options/{recipe}\n" in (DOCS / "recipes.md").read_text(encoding="utf-8")


def test_an_options_page_says_what_a_flag_takes(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "recipe_finetune", None)
    text = options.page("finetune")
    assert ":::{option} --pooled, --no-pooled\n" in text
    assert "One of `structural`, `reduced`. Default: `structural`." in text
    assert "falls to 1% along a cosine. Default: `0.003`." in text
    assert "unfrozen after `--frozen_share` of the steps" in text
    assert ".. code-block:: bash\n\n    accelerate launch recipes/finetune.py --base nvae\n" in text
    monkeypatch.setitem(sys.modules, "recipe_compose", None)
    assert "files of train\\_concept.py" in options.page("compose")
    assert "Required." in options.page("compose")


def test_options_pages_are_written_once(options, tmp_path):
    options.write(tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.md")) == RECIPES
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    options.write(tmp_path)  # else Sphinx would read them anew
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    for recipe in RECIPES:
        sys.modules.pop(f"recipe_{recipe}", None)


def test_figures_are_drawn_and_shown(tmp_path):
    pytest.importorskip("matplotlib")
    figures = script("figures")
    figures.write(tmp_path)
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == set(figures.FIGURES)
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 100
            assert len(picture.convert("L").getcolors(256)) > 5  # not blank
    shown = set(re.findall(r"generated/figures/(\w+)\.png", "".join(page_text(page) for page in PAGES)))
    assert shown == drawn


def page_text(page):
    return (DOCS / page).read_text(encoding="utf-8")


def folders(root, concepts, suffix, write):
    for context in ("obs", *concepts, "+".join(concepts)):
        Path(root, context).mkdir(parents=True)
        for n in range(2):
            write(Path(root, context, f"{n}{suffix}"))


def picture(path):
    Image.new("RGB", (70, 66), (90, 120, 150)).save(path)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what the pages speak of: a trained module, photos, texts."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    data = load_data("quad", resolution=32, samples_per_context=20, held_out_samples=4)
    model = wrap_decoder(load_base("nvae", "recipes/pretrained/nvae-quad32"), data.concepts, latent_noise=True)
    fit_values(model, data.train, draws=0)
    model.save_pretrained("outputs/demo")
    folders("photos", ["smile", "glasses"], ".png", picture)
    folders("reviews", ["angry", "formal"], ".txt", lambda path: path.write_text("fine\nnot bad\n", encoding="utf-8"))
    Path("faces").mkdir()
    rows = ["file,smile,glasses"]
    for n in range(8):
        picture(Path("faces", f"{n}.png"))
        rows.append(f"{n}.png,{n % 2},{n // 2 % 2}")
    Path("faces.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if CODE.search((DOCS / page).read_text(encoding="utf-8"))])
def test_the_code_of_a_page_runs(page, workplace):
    """Block after block, as a reader would."""
    torch.manual_seed(0)
    names = {}
    for block in CODE.findall(page_text(page)):
        exec(compile(block, page, "exec"), names)  # noqa: S102 (our own document)
    if page == "quickstart.md":
        assert names["edited"].shape == names["x"].shape == (4, 3, 32, 32)
        assert (workplace / "composition.png").is_file()
        ContextualDecoder.from_pretrained("my-module", base=names["base"])


def test_every_page_can_be_reached():
    """Sphinx warns of pages in no toctree, but not of folders that it does not read."""
    listed = set(re.findall(r"^([\w/]+)$", page_text("index.md"), re.MULTILINE))
    pages = {page.removesuffix(".md") for page in PAGES} | {
        page.relative_to(DOCS).with_suffix("").as_posix() for page in (DOCS / "api").glob("*.md")
    }
    assert pages - {"index"} <= listed


@pytest.fixture
def references():
    pytest.importorskip("sphinx")
    return script("references")


def test_docstrings_are_read_as_they_are_meant(references):
    lines = ["From (B, *shape) to |x - y|, ``*args`` stay.", "", "Returns:", "    by name, how far: the mean."]
    shown = list(lines)
    references._before_napoleon(None, "function", "f", None, None, shown)
    assert ":" not in shown[3]  # napoleon would take "by name, how far" for a type
    references._after_napoleon(None, "function", "f", None, None, shown)
    assert shown == [r"From (B, \*shape) to \|x - y\|, ``*args`` stay.", *lines[1:]]
    typed = ["What.", "", "Returns:", "    ContextData: the images."]
    references._before_napoleon(None, "function", "f", None, None, shown := list(typed))
    assert shown == typed


def test_references_that_code_does_not_know_fail_the_build(references):
    class Node(dict):
        source = "values.py:docstring of context_module.training.values.fit_values"

    environment = type("Environment", (), {"domaindata": {"py": {"objects": {}}}})

    def shown(target, kind="obj"):
        node = Node(refdomain="py", reftype=kind, reftarget=target)
        return references._resolve(None, environment, node, "shown")

    assert shown("draws") == shown("torch.distributions.Normal") == shown("recipes/finetune.py") == "shown"
    assert shown("posterior_heads") == "shown"  # of a module that values.py imports
    assert shown("drawz") is None
    assert shown("ContextualDecoder.generrate") is None
    assert shown("context_module.training.values.fit_valuez") is None


def test_a_public_name_on_no_page_fails_the_build(references, monkeypatch):
    said = []
    monkeypatch.setattr(references._logger, "warning", lambda text, *names: said.append(text % names))
    environment = type("Environment", (), {"domaindata": {"py": {"objects": {"context_module.wrap_decoder": None}}}})
    references._check_public_names(None, environment)
    assert "context_module.adapt is public and on no page below docs/api" in said
    assert not any("wrap_decoder" in line for line in said)


def test_the_site_is_built_with_the_tests():
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^test:.* docs\b", rules, re.MULTILINE)
    assert re.search(r"^docs:.*\n.*sphinx -W ", rules, re.MULTILINE)
