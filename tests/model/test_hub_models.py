"""The Hugging Face Hub, without a network: what is uploaded, what is downloaded, and the card that goes along."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from context_module import ContextualDecoder
from context_module.adapters import get_adapter
from context_module.errors import CheckpointError, HubError
from context_module.io.files import save_tensors
from context_module.io.hub import is_hub_id, upload
from context_module.saving.card import licence_of
from context_module.saving.details import CardDetails
from context_module.training.objectives.pack import new_pack
from helpers.draws import seeded
from helpers.hub import record_uploads
from helpers.models import wrapped

CONFIG, WEIGHTS, CARD, GRID = "adapter_config.json", "adapter_model.safetensors", "README.md", "contexts.png"


def made(model):
    return model.generate(2, do="a", generator=seeded(0))


@pytest.fixture
def saved(make_base, tmp_path):
    """A saved module for the tiny modules base."""
    wrapped(make_base("modules"), ["a", "b", "c"]).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def lightweight(make_base, tmp_path):
    make_base("lightweight").save_pretrained(tmp_path / "lightweight")
    return tmp_path / "lightweight"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub: repository -> (folder it holds, what was asked for it)."""
    repositories, asked = {}, []

    def snapshot_download(repo_id, **options):
        asked.append({"repo_id": repo_id, **options})
        if repo_id not in repositories:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not there")
        return str(repositories[repo_id])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return SimpleNamespace(repositories=repositories, asked=asked)


@pytest.fixture
def uploads(monkeypatch):
    """What was uploaded: (repository, file names, private)."""
    done = []
    record_uploads(monkeypatch, lambda repository, names, private, message: done.append((repository, names, private)))
    return done


# --- up


def test_pushes_the_folder(make_base, tmp_path, uploads):
    model = wrapped(make_base("modules"), ["a", "b", "c"])
    files = sorted([CARD, CONFIG, WEIGHTS])
    model.push_to_hub("sizes", private=True)
    (tmp_path / "shapes" / "checkpoint-7").mkdir(parents=True)
    (tmp_path / "shapes" / "checkpoint-7" / "optimizer.bin").write_text("not for everyone")
    model.save_pretrained(tmp_path / "shapes", push_to_hub=True)
    assert 'from_pretrained("me/shapes", base=base)' in (tmp_path / "shapes" / CARD).read_text()
    model.save_pretrained(tmp_path / "shapes", push_to_hub=True, repo_id="hues")
    assert uploads == [("me/sizes", files, True), ("me/shapes", files, None), ("me/hues", files, None)]


def test_pushes_modules_with_names_and_pictures(make_base, saved, uploads):
    model = wrapped(make_base("modules"), ["a", "b", "c"])
    model.load_adapter(saved, "more")
    model.details = CardDetails("photos", "| a table |", b"a picture")
    model.push_to_hub("both")
    files = [CARD, CONFIG, WEIGHTS]
    assert uploads == [("me/both", sorted([*files, GRID, *(f"more/{name}" for name in files)]), None)]


def test_nobody_is_logged_in(make_base, tmp_path):
    model = wrapped(make_base("modules"), ["a", "b", "c"])
    with pytest.raises(HubError, match=r"cannot upload to the Hub repository 'sizes' \(.+\): log in with 'hf auth"):
        model.save_pretrained(tmp_path / "new", push_to_hub=True, repo_id="sizes")
    assert not (tmp_path / "new").exists()


def test_an_upload_that_breaks_off(saved, monkeypatch):
    def upload_folder(self, **options):
        raise ConnectionError("the line is dead")

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    message = r"saved is whole, but its upload to 'me/x' failed \(the line is dead\).*'hf upload me/x .*--incl"
    with pytest.raises(HubError, match=message):
        upload(saved, "me/x", ["a*"], "context module")


# --- down


@pytest.mark.parametrize("path", ["someone/no-such-model", "no-such-model", "./no/such/folder", "a//b"])
def test_a_name_that_is_nowhere(path, make_base):
    with pytest.raises(
        CheckpointError, match=f"'{path}' is neither a local folder nor a Hub repository that can be read"
    ):
        ContextualDecoder.from_pretrained(path, base=make_base("modules"))


def test_loads_what_the_hub_gives(saved, make_base, hub):
    hub.repositories["me/sizes"] = saved
    model = ContextualDecoder.from_pretrained(
        "me/sizes", base=make_base("modules"), revision="v2", token="secret", local_files_only=True
    )
    assert model.concepts == ["a", "b", "c"]
    (asked,) = hub.asked
    assert (asked["repo_id"], asked["revision"], asked["token"]) == ("me/sizes", "v2", "secret")
    assert asked["local_files_only"]
    assert {CARD, CONFIG, WEIGHTS, GRID, "base/*", f"*/{CONFIG}"} <= set(asked["allow_patterns"])


@pytest.mark.parametrize("family", ["lightweight", "nvae"])
def test_one_line_loads_module_and_base(family, make_base, tmp_path, hub):
    make_base(family).save_pretrained(tmp_path / "base")
    hub.repositories["me/base"] = tmp_path / "base"
    model = wrapped(get_adapter(family).load("me/base", revision="v1"), ["a", "b", "c"])
    model.save_pretrained(tmp_path / "module")
    hub.repositories["me/module"] = tmp_path / "module"
    hub.asked.clear()
    again = ContextualDecoder.from_pretrained("me/module", revision="v3", local_files_only=True)
    assert torch.equal(made(again), made(model))
    assert [(asked["repo_id"], asked["revision"]) for asked in hub.asked] == [("me/module", "v3"), ("me/base", "v1")]
    assert all(asked["local_files_only"] for asked in hub.asked)
    card = (tmp_path / "module" / CARD).read_text()
    assert "base_model: me/base\nbase_model_relation: adapter\n" in card
    assert 'from_pretrained("path/to/this/folder")' in card
    del hub.repositories["me/base"]
    with pytest.raises(
        CheckpointError, match=r"the base of .*module cannot be loaded: me/base: no such file or .*Pass base=\.\.\."
    ):
        ContextualDecoder.from_pretrained("me/module")


def test_what_is_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here/base").mkdir(parents=True)
    assert is_hub_id("me/base-1.0")
    for other in (None, "base", "here/base", "/me/base", "a/b/c", "../base", "./base"):
        assert not is_hub_id(other), other


def test_concept_packs(make_base, tmp_path, hub):
    repository = hub.repositories["me/faces"] = tmp_path / "faces"
    repository.mkdir()
    model = wrapped(make_base("lightweight"), ["a", "b", "c"])
    for concept in ("smile", "glasses"):
        new_pack(model, concept, rank=2).save(repository / f"{concept}.safetensors")
    model.add_concept("me/faces/smile.safetensors", revision="v2", token="secret", local_files_only=True)
    assert model.concepts == ("a", "b", "c", "smile")
    assert hub.asked == [
        {
            "repo_id": "me/faces",
            "allow_patterns": ["smile.safetensors"],
            "revision": "v2",
            "token": "secret",
            "local_files_only": True,
        }
    ]
    for place in ("me/faces", repository):  # a folder on this disk, too
        with pytest.raises(CheckpointError, match="faces holds not one concept pack, but glasses.safetensors, smile"):
            model.add_concept(place)
    (repository / "smile.safetensors").unlink()
    save_tensors(repository / "weights.safetensors", {"other": torch.ones(1)})
    model.add_concept("me/faces")
    assert model.concepts == ("a", "b", "c", "smile", "glasses")
    hub.asked.clear()
    with pytest.raises(CheckpointError, match="faces/hat.safetensors does not exist"):
        model.add_concept("me/faces/hat.safetensors")
    with pytest.raises(CheckpointError, match="outputs/size: no such file or folder; expected the folder of size"):
        model.add_concept("outputs/size/size.safetensors")
    assert len(hub.asked) == 2
    for missing in ("size/size.safetensors", "./outputs/size/size.safetensors"):
        with pytest.raises(CheckpointError, match="size.safetensors does not exist"):
            model.add_concept(missing)
    assert len(hub.asked) == 2


# --- where and in which precision


def test_dtype_is_of_the_base(lightweight, tmp_path):
    wrapped(get_adapter("lightweight").load(lightweight), ["a", "b", "c"]).save_pretrained(tmp_path / "saved")
    for options in ({"dtype": torch.float16}, {"torch_dtype": "bfloat16"}, {"dtype": "torch.float64"}):
        model = ContextualDecoder.from_pretrained(tmp_path / "saved", **options, device_map="cpu")
        assert str(model.base.dtype).removeprefix("torch.") in str(*options.values())
        assert all(parameter.dtype == torch.float32 for parameter in model.module.parameters())
        assert all(parameter.dtype == torch.float32 for parameter in model.posterior_heads.parameters())
    assert made(model).dtype == torch.float32
    assert ContextualDecoder.from_pretrained(tmp_path / "saved").base.dtype == torch.float32


@pytest.mark.parametrize("device_map", ["meta", {"": "meta"}, torch.device("meta")])
def test_device_map_is_one_device(device_map, make_base, saved, monkeypatch):
    monkeypatch.setattr("context_module.model.pretrained.load_strictly", lambda *_: None)  # there is nothing on meta
    model = ContextualDecoder.from_pretrained(saved, base=make_base("modules"), device_map=device_map)
    assert {tensor.device.type for tensor in model.parameters()} == {"meta"}


def test_the_best_device(make_base, saved, monkeypatch):
    monkeypatch.setattr("context_module.model.pretrained.load_strictly", lambda *_: None)  # there is nothing on meta

    def none():
        raise RuntimeError("Cannot access accelerator device when none is available.")  # torch 2.6

    for found, kind in ((none, "cpu"), (lambda: torch.device("meta"), "meta")):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda found=found: found is not none)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", found)
        model = ContextualDecoder.from_pretrained(saved, base=make_base("modules"), device_map="auto")
        assert model.base.device.type == kind


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype must be a floating-point type of torch, such as torch.bfloat16, got 'int8'"),
        ({"dtype": "half a byte"}, "dtype must be a floating-point type"),
        ({"dtype": "float16", "torch_dtype": "float16"}, "dtype and torch_dtype are the same: give one of them"),
        ({"device_map": "balanced"}, "device_map must be one device, such as 'cuda:0', or 'auto', got 'balanced'"),
        ({"device_map": {"base": "cpu", "module": "cpu"}}, "base and module are not spread over several"),
    ],
)
def test_what_cannot_be(options, message, saved, make_base):
    with pytest.raises(ValueError, match=message):
        ContextualDecoder.from_pretrained(saved, base=make_base("modules"), **options)


# --- the card


def test_the_card_says_what_there_is(make_base, tmp_path):
    model = wrapped(make_base("modules"), ["a", "b", "c"])
    model.details = CardDetails("quad shade=1", "| context | base |\n|---|---|\n| a+b | 0.4 |", b"png")
    model.save_pretrained(tmp_path)
    card = (tmp_path / CARD).read_text()
    for part in (
        "- `a`\n- `b`\n- `c`\n",
        "| trained on | quad shade=1 |",
        "| licence of the base | not known here: see the base |",
        f"]({GRID})",
        "## Measured\n\n| context | base |",
        "base = ...  # the one that it was trained on, as `wrap_decoder` takes it\nmodel = ",
        'from_pretrained("path/to/this/folder", base=base)',
    ):
        assert part in card, part
    assert (tmp_path / GRID).read_bytes() == b"png"
    assert json.loads((tmp_path / CONFIG).read_text())["card"].keys() == {"data", "metrics"}
    again = ContextualDecoder.from_pretrained(tmp_path, base=make_base("modules"))
    assert again.details == model.details  # what was measured goes along when it is pushed later
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / CARD).read_text() == card


def test_its_python_works(lightweight, tmp_path, monkeypatch):
    wrapped(get_adapter("lightweight").load(lightweight), ["a", "b", "c"]).save_pretrained(tmp_path / "saved")
    code = (tmp_path / "saved" / CARD).read_text().partition("```python\n")[2].partition("```")[0]
    names = {}
    code = code.replace("path/to/this/folder", str(tmp_path / "saved"))
    exec(code.replace(f"path/to/{lightweight.name}", str(lightweight)), names)  # noqa: S102 (our own document)
    assert names["images"].shape == (16, 1, 28, 28)


def test_a_generated_card_is_renewed_and_an_edited_one_kept(saved, make_base):
    wrapped(make_base("modules"), ["hue"]).save_pretrained(saved)
    renewed = (saved / CARD).read_text()
    assert "- `hue`" in renewed
    (saved / CARD).write_text(renewed.replace("hue", "colour"))
    model = wrapped(make_base("modules"), ["size"])
    model.details = CardDetails("photos", grid=b"another picture")
    model.save_pretrained(saved)
    assert "- `colour`" in (saved / CARD).read_text()
    assert not (saved / GRID).exists()


def test_the_licence_of_a_base_is_what_its_card_names(lightweight):
    assert licence_of(None) is licence_of(str(lightweight)) is licence_of("me/never-downloaded") is None
    (lightweight / CARD).write_text("---\nlicense: cc-by-4.0\n---\n# A base\n")
    assert licence_of(str(lightweight)) == "cc-by-4.0"
    (lightweight / CARD).write_text("---\nlicense: [a\n---\n")
    assert licence_of(str(lightweight)) is None
    shipped = Path(__file__).parents[2] / "recipes" / "pretrained" / "nvae-quad32"
    assert licence_of(str(shipped)) == "apache-2.0"
