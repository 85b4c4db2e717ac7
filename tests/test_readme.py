"""What the documents tell users to type works: the code runs, recipes know every flag, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from context_module.cli.arguments import given, parse_arguments

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "Makefile",
    "docs/examples/third_party_adapter/README.md",
    "recipes/pretrained/nvae-quad32/README.md",
    *sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md")),
)
PAGES = [*(document for document in DOCUMENTS if document.endswith(".md")), "CONTRIBUTING.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def read(document):
    return (ROOT / document).read_text(encoding="utf-8")


def commands():
    """(document, recipe, its arguments) of every command that runs a recipe."""
    for document in DOCUMENTS:
        text = read(document).replace("\\\n", " ")
        for line in text.splitlines():
            if found := re.search(r"(?:accelerate launch|python)\S* recipes/(\w+)\.py([^`]*)", line):
                yield document, found[1], tuple(shlex.split(found[2], comments=True))


@pytest.mark.parametrize(("document", "recipe", "arguments"), sorted(set(commands())))
def test_every_recipe_command_parses(document, recipe, arguments, tmp_path, monkeypatch, load_recipe):
    (tmp_path / "outputs" / "demo").mkdir(parents=True)  # of an earlier run, for --config
    (tmp_path / "outputs" / "demo" / "arguments.json").write_text('{"seed": 0}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    script = load_recipe(recipe)
    kind = getattr(script, f"{recipe.title().replace('_', '')}Arguments")
    for named, flag in (("pretrain", "base"), ("train_baseline", "method")):  # whose flags depend on it
        if recipe == named:
            kind = script.arguments_of(given(flag, script.DEFAULT, arguments))
    assert parse_arguments(kind, description="", argv=arguments)


def test_there_are_commands_of_every_kind():
    assert {recipe for _, recipe, _ in commands()} == {
        "ablate",
        "benchmark",
        "compose",
        "demo",
        "evaluate",
        "finetune",
        "pretrain",
        "preview",
        "reproduce",
        "train_baseline",
        "train_classifier",
        "train_concept",
    }


def test_the_readme_is_read_on_one_screen():
    assert len(read("README.md").splitlines()) <= 110


def test_the_library_in_a_few_lines(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    assert len([line for line in block.splitlines() if line]) <= 10
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    names = {"x": torch.rand(4, 3, 32, 32)}
    exec(block, names)  # noqa: S102 (our own document)
    assert names["images"].shape == (16, 3, 32, 32)
    assert names["edited"].shape == names["x"].shape
    assert (tmp_path / "my-module" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("document", PAGES)
def test_links_and_pictures_lead_somewhere(document):
    """To a file, and to a heading where a link has an anchor: those that a code host makes of headings."""
    path = ROOT / document
    for link in LINK.findall(re.sub(r"^```.*?^```", "", read(document), flags=re.DOTALL | re.MULTILINE)):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.is_file(), f"{document} -> {link}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{document} -> {link}"


def anchors(text):
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_an_anchor_is_what_a_code_host_makes_of_a_heading():
    assert anchors("# The paper's comparison\n\n## You have, you do\n```bash\n# none\n```\n") == {
        "the-papers-comparison",
        "you-have-you-do",
    }


def test_the_pages_show_pictures():
    shown = {page: len(re.findall(r"!\[[^\]]+\]\(", read(page))) for page in PAGES}
    assert shown["README.md"] == 1
    assert sum(shown.values()) >= 9


@pytest.mark.parametrize("document", PAGES)
def test_what_is_installed_can_be(document):
    """The package is on no index: it is installed from a clone."""
    assert not re.search(r"pip install [^`\n]*\bcontext-module", read(document))


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load(read("CITATION.cff"))
    project = read("pyproject.toml")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == re.search(r'^version = "(.*)"', project, re.MULTILINE)[1]
    assert citation["license"] == re.search(r'^license = "(.*)"', project, re.MULTILINE)[1]
    paper = citation["preferred-citation"]
    assert paper["title"] in " ".join(read("README.md").replace(">", "").split())
    assert re.search(rf'^Paper = "{re.escape(paper["url"])}"', project, re.MULTILINE)
    authors = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
    assert f"> {', '.join(authors)}." in read("README.md")


def test_the_contributors_loop_is_what_the_makefile_has():
    text = read("CONTRIBUTING.md")
    loop = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].splitlines()
    assert [line.partition("#")[0].strip() for line in loop] == ["make quality", "make tests"]
    targets = re.findall(r"^(\w+):", read("Makefile"), re.MULTILINE)
    assert {"quality", "tests"} <= set(targets)
    for code in re.findall(r"`((?:tests|adapters|context_module|docs)/[\w./]+)`", text):
        assert (ROOT / code.replace("NAME", "modules")).exists(), code
    assert [line[0] for line in text.splitlines() if re.match(r"\d\. ", line)] == list("12345")  # steps of an adapter


def test_the_changelog_keeps_its_format():
    text = read("CHANGELOG.md")
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds
