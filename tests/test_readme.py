"""What the documents tell users to type works: the Python block runs, and the recipes know every flag."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from context_module.cli.arguments import given, parse_arguments

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "Makefile",
    "docs/examples/third_party_adapter/README.md",
    "recipes/pretrained/nvae-quad32/README.md",
    *sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md")),
)


def commands():
    """(document, recipe, its arguments) of every command that runs a recipe."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
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
    if recipe == "pretrain":  # whose flags depend on the family
        kind = script.arguments_of(given("base", script.DEFAULT, arguments))
    assert parse_arguments(kind, description="", argv=arguments)


def test_there_are_commands_of_every_kind():
    assert {recipe for _, recipe, _ in commands()} == {
        "ablate",
        "benchmark",
        "compose",
        "evaluate",
        "finetune",
        "pretrain",
        "preview",
        "reproduce",
        "train_concept",
    }


def test_the_library_in_ten_lines(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    names = {"x": torch.rand(4, 3, 32, 32)}
    exec(block, names)  # noqa: S102 (our own document)
    assert names["images"].shape == (16, 3, 32, 32)
    assert names["edited"].shape == names["x"].shape
    assert (tmp_path / "my-module" / "adapter_model.safetensors").is_file()


def test_pictures_the_readme_shows_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r'!\[[^\]]*\]\(([^)]+)\)|<img src="([^"]+)"', text)
    assert len(links) >= 2
    for link in map("".join, links):
        assert (ROOT / link).is_file(), link


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/examples/third_party_adapter/README.md"])
def test_links_lead_somewhere(document):
    path = ROOT / document
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_the_contributors_loop_is_what_the_makefile_has():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    loop = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].splitlines()
    assert [line.partition("#")[0].strip() for line in loop] == ["make quality", "make tests"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"quality", "tests"} <= set(targets)
    for code in re.findall(r"`((?:tests|adapters|context_module|docs)/[\w./]+)`", text):
        assert (ROOT / code.replace("NAME", "modules")).exists(), code
    assert [line[0] for line in text.splitlines() if re.match(r"\d\. ", line)] == list("12345")  # steps of an adapter


def test_the_changelog_keeps_its_format():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds
