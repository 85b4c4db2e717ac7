"""What a page knows without a browser: modules, settings, links, pictures, and the code that makes them."""

import io
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from context_module import ContextualDecoder, Value
from context_module.demo import Settings, load_modules, make_output, python_code, read_link, write_link
from context_module.demo.markup import markup_of, problem
from context_module.drawing import labelled_samples
from context_module.errors import CheckpointError, ConceptError
from context_module.model import contexts_on_one_noise
from context_module.training.objectives import new_pack

BOTH = ("edits", "structural")


def run(code, folder, monkeypatch):
    """What the code of a page writes in an empty folder."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    exec(compile(code, "page", "exec"), {})  # noqa: S102 (our own code)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- modules


def test_a_folder_of_modules(saved, modules):
    assert list(modules) == ["edits", "structural"]
    assert modules["edits"].path == str(saved / "edits")
    assert list(modules["edits"].values) == ["quad1", "size"]
    low, high = modules["edits"].values["size"]
    assert 0 < low < high < 2
    assert modules["structural"].values == {}


def test_one_folder_with_a_module_and_others_in_it(saved, tmp_path):
    shutil.copytree(saved / "structural", tmp_path / "run")
    shutil.copytree(saved / "structural", tmp_path / "run" / "named")
    (tmp_path / "run" / "checkpoint-2").mkdir()
    assert list(load_modules([str(tmp_path / "run")])) == ["run", "named"]


def test_modules_of_one_name_are_told_apart(saved, tmp_path):
    shutil.copytree(saved / "structural", tmp_path / "structural")
    found = load_modules([str(saved / "structural"), str(tmp_path / "structural")])
    assert list(found) == [str(saved / "structural"), str(tmp_path / "structural")]
    settings = Settings(tuple(found))
    assert len({make_output(module, settings).name for module in found.values()}) == 2


def test_packs_are_added_to_the_modules_they_fit(saved, tmp_path, monkeypatch):
    model = ContextualDecoder.from_pretrained(saved / "structural")
    pack = new_pack(model, "glow", rank=4, noise_width=4, hidden_width=8)
    torch.nn.init.normal_(pack.spread, generator=torch.Generator().manual_seed(0))
    pack.save(tmp_path / "glow.safetensors")
    found = load_modules([str(saved)], packs=[str(tmp_path / "glow.safetensors")])
    assert found["structural"].model.concepts == ("quad1", "shade", "glow")
    assert found["edits"].model.concepts == ("quad1", "size")
    settings = Settings(("structural",), {"glow": 1.0})
    assert run(python_code(settings, found), tmp_path / "code", monkeypatch) == {
        "structural.png": make_output(found["structural"], settings).content
    }
    with pytest.raises(CheckpointError, match="was trained on another"):
        load_modules([str(saved / "edits")], packs=[str(tmp_path / "glow.safetensors")])


def test_places_without_a_module(tmp_path):
    with pytest.raises(CheckpointError, match="holds no context module: neither it nor a folder in it has adapter_co"):
        load_modules([str(tmp_path)])


# --- settings


def test_settings_say_what_each_module_is_to_do(modules):
    settings = Settings(BOTH, {"size": Value(0.7), "shade": 1 / 3, "quad1": 0.0})
    settings.check(modules)
    assert settings.do == {"size": Value(0.7), "shade": 0.333333}
    assert settings.of(modules["edits"]) == {"size": Value(0.7)}
    assert settings.of(modules["structural"]) == {"shade": 0.333333}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules": ()}, "one or two modules can be shown, got none"),
        ({"modules": ("edits", "edits")}, "one or two modules can be shown, got edits, edits"),
        ({"modules": ("other",)}, "there is no module 'other' here; modules: edits, structural"),
        ({"n": 0}, "the number of samples must be from 1 to 16, got 0"),
        ({"n": 17}, "the number of samples must be from 1 to 16, got 17"),
        ({"seed": 2**31}, "the seed must be from 0 to 2147483647, got 2147483648"),
        ({"temperature": 2.1}, "the temperature must be from 0 to 2, got 2.1"),
        ({"temperature": float("nan")}, "the temperature must be from 0 to 2, got nan"),
        ({"text": "hello"}, "the modules are of images: give one of these, or none"),
        ({"do": {"shade": 1.0}}, "there is no concept 'shade'; concepts: quad1, size"),
        ({"do": {"quad1": 3.5}}, "must be in [-2, 3]"),
        ({"do": {"quad1": float("nan")}}, "must be in [-2, 3]"),
        ({"do": {"quad1": 3.5}, "modules": BOTH}, "must be in [-2, 3]"),
        ({"do": {"size": Value(9.0)}}, "'size' cannot be set to 9: the training data has values from"),
        ({"do": {"quad1": Value(0.5)}, "modules": ("structural",)}, "the training data carried no values for it"),
        ({"image": "0" * 32, "context": "shade"}, "unknown concept 'shade'"),
    ],
)
def test_settings_that_cannot_be(changes, message, modules):
    settings = Settings(**{"modules": ("edits",), **changes})
    with pytest.raises(ValueError) as error:
        settings.check(modules)
    assert message in str(error.value)


# --- links


@pytest.mark.parametrize(
    "settings",
    [
        Settings(("edits",)),
        Settings(BOTH, {"quad1": 0.15, "size": Value(0.7)}, n=3, temperature=0.35, seed=2**31 - 1),
        Settings(("edits",), {"quad1": -1.95, "size": 3.0}, image="0123456789abcdef" * 2, context="quad1+size"),
    ],
)
def test_a_link_leads_back(settings, modules):
    link = write_link(settings)
    assert link.startswith("?module=edits&")
    assert read_link(link, modules) == settings
    assert read_link(f"{link}&__theme=dark", modules) == settings


def test_what_a_link_leaves_out_is_as_on_a_new_page(modules):
    assert read_link("", modules) == read_link("?", modules) == Settings(("edits",))
    assert read_link("?do=quad1%2Bsize", modules).do == {"quad1": 1.0, "size": 1.0}


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("?seed=1e3", "seed must be a number, got '1e3'"),
        ("?seed=-1", "seed must be a number, got '-1'"),
        ("?seed=٣", "seed must be a number, got '٣'"),
        ("?seed=9999999999", "the seed must be from 0 to"),
        ("?n=99", "the number of samples must be from 1 to 16"),
        ("?n=", "n must be a number, got ''"),
        ("?temperature=nan", "temperature must be a number, got 'nan'"),
        ("?temperature=5", "the temperature must be from 0 to 2, got 5"),
        ("?seed=1&seed=2", "the link sets seed more than once"),
        ("?sed=1", "the link sets 'sed', which is not known; a link sets module, do, n, seed,"),
        ("?seed", "the link is damaged: bad query field"),
        ("?do=%ff", "the link is damaged"),
        ("&".join(["?do=quad1"] * 101), "the link is damaged: Max number of fields exceeded"),
        (f"?text={'a' * 7000}", "the link has 7006 characters, of at most 6000"),
        ("?module=../../etc/passwd", "there is no module '../../etc/passwd' here"),
        ("?do=quad9", "unknown concept 'quad9'"),
        ("?do=quad1:inf", "must be in [-2, 3]"),
        ("?do=size=nan", "'size=nan' needs a number after '='"),
        ("?do=size=__import__('os')", "needs a number after '='"),
        ("?do=quad1&do=quad1:0.5", "names a concept more than once"),
        ("?image=aa&context=else", "unknown concept 'else'"),
    ],
)
def test_links_that_are_none(link, message, modules):
    with pytest.raises(ValueError) as error:
        read_link(link, modules)
    assert message in str(error.value)


# --- pictures and code


def test_the_picture_is_that_of_the_library(modules):
    settings = Settings(("edits",), {"quad1": 1.0, "size": Value(0.7)}, n=3, seed=5)
    output = make_output(modules["edits"], settings)
    contexts = {"obs": None, "do": {"quad1": 1.0, "size": Value(0.7)}}
    expected = labelled_samples(contexts_on_one_noise(modules["edits"].model, contexts, n=3, seed=5))
    with Image.open(io.BytesIO(output.content)) as picture:
        assert picture.tobytes() == expected.tobytes()
    other = make_output(modules["edits"], Settings(("edits",), {"quad1": 1.0}, n=3, seed=5))
    assert other.content != output.content


@pytest.mark.parametrize(
    "settings",
    [
        Settings(("edits",)),
        Settings(("structural",), {"shade": 0.5}, n=2, temperature=0.7, seed=3),
        Settings(BOTH, {"quad1": 1.0, "size": Value(0.6), "shade": 1.0}, n=2),
    ],
)
def test_the_code_makes_the_bytes(settings, modules, tmp_path, monkeypatch):
    outputs = [make_output(modules[name], settings) for name in settings.modules]
    code = python_code(settings, modules)
    assert max(map(len, code.replace(str(Path(modules["edits"].path).parent), "").splitlines())) < 100
    assert run(code, tmp_path / "code", monkeypatch) == {output.name: output.content for output in outputs}


def test_the_code_of_an_image_makes_the_bytes(modules, tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    photo = tmp_path / "code" / "photo.png"
    Image.linear_gradient("L").resize((70, 50)).convert("RGB").save(photo)
    settings = Settings(("edits",), {"quad1": 1.5}, image="0" * 32, context="size")
    output = make_output(modules["edits"], settings, photo)
    made = run(python_code(settings, modules, "photo.png"), tmp_path / "code", monkeypatch)
    assert made["edits.png"] == output.content
    with Image.open(io.BytesIO(output.content)) as picture:
        assert picture.height == 3 * 66  # the image, as it would be, and under the intervention


def test_names_cannot_write_code(modules):
    settings = Settings(("edits",), {"a'}); print('": 1.0}, context="x'); y")
    code = python_code(settings, modules, "it's\n.png")
    compile(code, "page", "exec")
    assert repr("it's\n.png") in code


def test_the_base_is_named_where_it_lies_now(saved, tmp_path, monkeypatch):
    shutil.copytree(Path(__file__).parents[2] / "recipes" / "pretrained" / "nvae-quad32", tmp_path / "moved")
    moved = load_modules([str(saved / "edits")], base=str(tmp_path / "moved"))
    code = python_code(Settings(("edits",), n=1), moved)
    assert f"base={str(tmp_path / 'moved')!r}" in code
    assert "edits.png" in run(code, tmp_path / "code", monkeypatch)


# --- HTML


def test_words_on_the_page_are_escaped():
    assert problem("<script>alert(1)</script>") == (
        '<p class="problem" role="alert">&lt;script&gt;alert(1)&lt;/script&gt;</p>'
    )


def test_the_picture_is_in_the_page_once(modules):
    output = make_output(modules["edits"], Settings(("edits",), n=1))
    page = markup_of([output], '?do="x"')
    assert page.count("data:image/png;base64,") == 1
    assert 'href="?do=&quot;x&quot;"' in page
    assert 'download="edits.png"' in page


# --- texts


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A module of a language model, loaded; its words are at random."""
    pytest.importorskip("transformers")
    from context_module import wrap_decoder
    from context_module.adapters import load_base
    from context_module.adapters.transformers import TransformersAdapter
    from helpers.models import SMALL, randomise

    folder = tmp_path_factory.mktemp("texts")
    torch.manual_seed(0)
    words = ["the cat saw a <b>red</b> ball .", "the cats saw a green ball ."]
    TransformersAdapter.from_texts(words, hidden_size=16, num_layers=1, max_tokens=12).save(folder / "base")
    model = wrap_decoder(load_base("transformers", folder / "base"), ["number"], **SMALL)
    randomise(model.module)
    model.save_pretrained(folder / "words")
    return load_modules([str(folder / "words")])


@pytest.mark.parametrize("text", [None, "the cat saw a green ball ."])
def test_texts(text, texts, tmp_path, monkeypatch):
    settings = Settings(("words",), {"number": 1.0}, n=2, text=text)
    settings.check(texts)
    assert read_link(write_link(settings), texts) == settings
    output = make_output(texts["words"], settings)
    assert list(output.texts) == (["text", "obs", "do"] if text else ["obs", "do"])
    assert run(python_code(settings, texts), tmp_path / "code", monkeypatch) == {"words.md": output.content}
    page = markup_of([output], "?")
    assert page.count("<td>") == (3 if text else 4)
    assert "<b>" not in page


def test_settings_that_cannot_be_with_texts(texts, modules):
    with pytest.raises(ValueError, match="a text must have at most 500 characters, got 501"):
        Settings(("words",), text="a" * 501).check(texts)
    with pytest.raises(ValueError, match="the modules are of texts: give one of these, or none"):
        Settings(("words",), image="0" * 32).check(texts)
    with pytest.raises(ConceptError, match="unknown concept"):
        Settings(("words",), text="a", context="tense").check(texts)


def test_modules_of_two_kinds(texts, modules):
    with pytest.raises(ValueError, match="edits makes images and words makes texts: give modules of one kind"):
        load_modules([modules["edits"].path, texts["words"].path])
