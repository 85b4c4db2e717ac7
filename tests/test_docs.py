"""The docs: their code runs, they read as plain Markdown, and what the site adds to them is complete."""

import dataclasses
import importlib.util
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters import load_base
from context_module.baselines import available_baselines, get_baseline
from context_module.data import load_data
from context_module.training import fit_values

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.glob("*.md"))
CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def script(name):
    """A module of docs/, which is no package; some import one another."""
    if str(DOCS) not in sys.path:
        sys.path.append(str(DOCS))
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
    assert f"[`{recipe}.py`](../recipes/{recipe}.py)" in page_text("recipes.md")


def test_an_options_page_says_what_a_flag_takes(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "recipe_finetune", None)
    text = options.page("finetune")
    assert ":::{option} --pooled, --no-pooled\n" in text
    assert "One of `structural`, `reduced`, `edits`." in text
    assert "falls to 1% along a cosine. Default: `0.002`." in text
    assert "unfrozen after `--frozen_share` of the steps" in text
    assert ".. code-block:: bash\n\n    python recipes/finetune.py --base nvae\n" in text
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


def test_figures_are_what_their_script_draws(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    if int(matplotlib.__version__.split(".")[1]) < 10:
        pytest.skip(f"drawn with matplotlib 3.10 or later, {matplotlib.__version__} draws lines in other places")
    figures = script("figures")
    figures.write(tmp_path)
    kept = {path.stem: path for path in (DOCS / "figures").iterdir()}
    assert set(kept) == set(figures.FIGURES) == {path.stem for path in tmp_path.glob("*.png")}
    for name, path in kept.items():
        assert path.stat().st_size < 50_000, name  # of a repository that stays small
        with Image.open(path) as old, Image.open(tmp_path / f"{name}.png") as new:
            small = [np.asarray(picture.convert("RGB").resize((200, 100)), dtype=float) for picture in (old, new)]
            assert abs(new.width / old.width - 1) < 0.1
            assert abs(new.height / old.height - 1) < 0.1
        assert small[0].std() > 10, name  # not blank
        assert np.abs(small[0] - small[1]).mean() < 4, f"{name} is not what docs/figures.py draws: run it"
    shown = set(re.findall(r"\]\(figures/(\w+)\.png\)", "".join(page_text(page) for page in PAGES)))
    assert shown == set(kept)


@pytest.mark.parametrize("page", PAGES)
def test_pages_read_well_where_nothing_is_built(page):
    """No directive, role or target of MyST's, no definition list and no empty text of a link."""
    text = page_text(page)
    fences = set(re.findall(r"^ *(?:```|~~~|:::)(.*)$", text, re.MULTILINE))
    assert fences <= {"", "bash", "python", "text", "toml"}
    prose = re.sub(r"^```.*?^```|`[^`\n]*`|\$\$.*?\$\$|\$[^$]+\$", "code", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"\{[\w:-]+\}|^\([\w-]+\)=|^: |\[\]\(", prose, re.MULTILINE)
    assert not re.search(r"\]\((?:generated/|[^)]*#context_module\.)", text)  # what is there on the site alone


OF_OTHERS = {"--help", "--quiet", "--num_processes", "--nproc_per_node", "--cpu", "--config_file", "--config"}


def test_flags_that_pages_speak_of_are_those_of_recipes(options, monkeypatch):
    for recipe in RECIPES:
        monkeypatch.setitem(sys.modules, f"recipe_{recipe}", None)
    kinds = [options.arguments_of(recipe) for recipe in RECIPES]
    kinds += [get_baseline(name).settings_class for name in available_baselines()]
    flags = {f"--{field.name}" for kind in kinds for field in dataclasses.fields(kind)} | OF_OTHERS
    for page in PAGES:
        code = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", page_text(page), flags=re.DOTALL | re.MULTILINE))
        for span in code:
            assert set(re.findall(r"(?<!\S)--\w+", span)) <= flags, f"{page}: {span}"


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
def folder_of_a_reader(tmp_path, monkeypatch):
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
def test_the_code_of_a_page_runs(page, folder_of_a_reader):
    """Block after block, as a reader would."""
    torch.manual_seed(0)
    names = {}
    with warnings.catch_warnings():
        if page == "training.md":  # the loops of others have warnings of their own
            warnings.simplefilter("ignore")
        for block in CODE.findall(page_text(page)):
            exec(compile(block, page, "exec"), names)  # noqa: S102 (our own document)
    if page == "training.md":
        for folder in ("by-transformers", "by-lightning"):
            assert ContextualDecoder.from_pretrained(Path("outputs", folder), base=names["model"].base)
    if page == "quickstart.md":
        assert names["edited"].shape == names["x"].shape == (4, 3, 32, 32)
        assert (folder_of_a_reader / "composition.png").is_file()
        ContextualDecoder.from_pretrained("my-module", base=names["base"])


def test_every_page_can_be_reached():
    """On the site by its contents, in the repository by links from the first page."""
    plain = script("plain")
    listed = {page for parts in plain.CONTENTS.values() for pages in parts.values() for page in pages}
    for page in {page.removesuffix(".md") for page in PAGES} - {"index"}:
        assert page in listed
        assert f"]({page}.md)" in page_text("index.md")


def test_a_link_out_of_the_docs_is_to_a_page_of_the_site():
    site_link = script("plain").site_link
    assert site_link("../CONTRIBUTING.md") == "generated/contributing.md"
    assert site_link("../recipes/finetune.py") == "generated/options/finetune.md"
    assert site_link("../context_module/nn/__init__.py") == "generated/api/nn.md"
    assert site_link("../context_module/__init__.py") == "generated/api/context_module.md"
    assert site_link("../adapters/__init__.py") == "generated/api/adapters.md"
    assert site_link("../recipes/assets/composition.png") == "../recipes/assets/composition.png"
    assert site_link("base.md") == "base.md"


@pytest.fixture(scope="module")
def api():
    return script("api")


def test_the_api_starts_with_what_one_starts_with(api):
    first = next(iter(api.pages().items()))
    assert first[0] == "context_module"
    assert re.findall(r"\.\. auto(?:class|function):: context_module\.(\w+)", first[1])[:2] == [
        "wrap_decoder",
        "ContextualDecoder",
    ]
    for room in api.PAGES:
        inside = "" if room in ("adapters", "baselines", "context_module") else "context_module/"
        folder = f"../{inside}{room}"
        assert f"]({folder}/__init__.py)" in page_text("api.md")


def test_the_api_has_every_public_name_once(api, references):
    text = "".join(api.pages().values())
    heads = re.findall(r"^\.\. (?:auto|py:)(\w+):: (\S+)$", text, re.MULTILINE)
    named = [name for kind, name in heads if kind != "module"]
    assert len(named) == len(set(named))
    short = {name.rpartition(".")[2] for name in named}
    for room in references.rooms():
        assert set(importlib.import_module(room).__all__) <= short, room
    assert "[`ContextualDecoder`](#context_module.ContextualDecoder)" in api.pages()["model"]


def test_a_constant_is_described_by_its_comment(api):
    assert ":value: ('smoke', 'cpu', 'paper')" not in api.pages()["nn"]
    assert (
        ".. py:data:: context_module.nn.Form\n   :value: Literal['structural', 'reduced', 'edits']\n"
        in api.pages()["nn"]
    )
    assert "\n   fewer items say too little of their own spread\n" in api.pages()["metrics"]
    with pytest.raises(LookupError, match="context_module.nn.NONE is made in no file of .*nn"):
        api._constant("context_module.nn", "NONE")


def test_formulas_become_mathml():
    mathml = script("formulas").mathml
    text = mathml(r"\mathcal L = \mathbb E_q[z] \sim \mathbb{R}", "block")
    assert text.startswith("<math ")
    assert 'display="block"' in text
    assert "<mi>ℒ</mi>" in text  # browsers do not know MathML's alphabets any more
    assert "<mi>𝔼</mi>" in text
    assert "&#x0223C;" in text
    with pytest.raises(ValueError, match=r"\\unheardof in .* would be shown as it is: write the formula without it"):
        mathml(r"x \unheardof y")


def test_flags_of_commands_do_not_wrap():
    lexer = script("commands").CommandLexer()
    tokens = [
        value
        for kind, value in lexer.get_tokens("run it.py --base nvae \\\n  --output_dir a-b -e")
        if "Attr" in str(kind)
    ]
    assert tokens == ["--base", "--output_dir", "-e"]
    assert re.search(
        r"\.highlight-bash \.na.*\{\s*white-space: nowrap", (DOCS / "static/site.css").read_text(), re.DOTALL
    )


def test_what_a_page_fetches_from_another_host_is_found():
    fetched = script("offline").fetched
    assert list(fetched('<script async="async" src="https://cdn.jsdelivr.net/npm/mathjax.js"></script>')) == [
        "https://cdn.jsdelivr.net/npm/mathjax.js"
    ]
    assert list(fetched('<link rel="stylesheet" href="//fonts.example/a.css" />')) == ["//fonts.example/a.css"]
    assert list(fetched("a { background: url(https://example.org/a.png) }")) == ["https://example.org/a.png"]
    assert not list(
        fetched('<a href="https://arxiv.org">there</a><img src="_images/a.png"><script src="a.js"></script>')
    )


SITE = """
extensions = ["myst_parser", "sphinx_copybutton", "commands", "formulas", "offline"]
html_math_renderer = "mathml"
html_theme = "furo"
myst_enable_extensions = ["dollarmath"]
"""


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("# A page\n\nOf $x^2$:\n\n$$\ny = x \\tag{1}\n$$\n\n```bash\npython a.py --flag\n```\n", None),
        (
            '# A page\n\n<img src="https://example.org/a.png">\n',
            "fetched from another host: https://example.org/a.png",
        ),
        ("# A page\n\n$\\unheardof$\n", r"\unheardof in '\\unheardof' would be shown as it is"),
    ],
    ids=["whole", "host", "formula"],
)
def test_pages_are_built_to_be_read_without_a_network(page, problem, tmp_path):
    (tmp_path / "conf.py").write_text(f"import sys\nsys.path.insert(0, {str(DOCS)!r})\n{SITE}", encoding="utf-8")
    (tmp_path / "index.md").write_text(page, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(tmp_path), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if problem:
        assert done.returncode
        assert problem in done.stderr
        return
    assert not done.returncode, done.stderr
    html = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert html.count("<math ") == 2
    assert '<span class="eqno">(1)</span>' in html
    assert "mathjax.js" not in html
    assert "copybutton.js" in html
    assert '<span class="na">--flag</span>' in html


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
    assert "context_module.adapt is public and on no page of the API: see docs/api.py" in said
    assert not any("wrap_decoder" in line for line in said)


def test_the_site_is_built_with_the_tests():
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^test:.* docs\b", rules, re.MULTILINE)
    assert re.search(r"^docs:.*\n.*sphinx -W ", rules, re.MULTILINE)
