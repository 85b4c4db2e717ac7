"""Causal language models of transformers as bases, tiny ones with random weights."""

import json
import math
import shutil

import pytest
import torch
from torch.nn import functional as F

from context_module import ContextualDecoder
from context_module.adapters import adapt, load_base
from context_module.errors import CheckpointError, DataError, ShapeError

transformers = pytest.importorskip("transformers")

from context_module.adapters.language_model import LanguageModelObjective  # noqa: E402
from context_module.adapters.tokens import own_tokens  # noqa: E402
from context_module.adapters.transformers import TransformersAdapter  # noqa: E402
from helpers.draws import seeded  # noqa: E402
from helpers.models import wrapped  # noqa: E402

TEXTS = ["the cat sees a ball .", "the dogs run .", "a cat runs ."]
SIZES = {"virtual_tokens": 3, "max_tokens": 12}


def tiny(seed=0, **options):
    """A Llama whose predictions are far from uniform."""
    torch.manual_seed(seed)
    base = TransformersAdapter.from_texts(TEXTS, hidden_size=8, num_layers=2, **{**SIZES, **options})
    with torch.no_grad():
        base.net.lm_head.weight.mul_(60)
    return base


def gpt2(base):
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32}
    net = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=len(base.tokenizer), **sizes))
    return TransformersAdapter(net, base.tokenizer, **SIZES)


@pytest.fixture(params=["llama", "gpt2"])
def base(request):
    return tiny() if request.param == "llama" else gpt2(tiny())


@pytest.fixture
def saved(tmp_path):
    tiny().save(tmp_path / "lm")
    return tmp_path / "lm"


# --- the contract


def test_describes_itself(base):
    assert (base.kind, base.takes) == ("texts", "texts of up to 12 tokens")
    layers, pair, _, tokens, _ = base.latent.shape
    assert (layers, pair, tokens, base.num_features) == (2, 2, 3, 8)
    assert base.data_settings() == {"tokenize": base.tokenize, "base": base}


def test_at_zero_virtual_tokens_say_nothing(base):
    """Log-probabilities are the model's own, after begin tokens."""
    x = base.check_inputs(TEXTS)
    found = base.decode(torch.zeros(3, *base.latent.shape)).log_prob(x)
    begins = torch.full((3, 4), base.begin)
    logits = base.net(torch.cat([begins, x], 1)).logits[:, 3:-1].log_softmax(-1)
    own = own_tokens(x, base.end)
    expected = (logits.gather(2, x[..., None])[..., 0] * own).sum(1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert own.sum(1).tolist() == [7, 5, 5]
    assert torch.equal(base.sample_latent(3), torch.zeros(3, *base.latent.shape))


def test_texts_follow_on_a_prompt(base):
    """Its last tokens but one are virtual, after begin tokens if it is short; at zero the model reads it as it is."""
    x = base.check_inputs(TEXTS)
    for prompt in ("the cat runs . a", "the"):
        prompted = TransformersAdapter(base.net, base.tokenizer, prompt=prompt, **SIZES)
        ids = base.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert prompted.before == [base.begin] * (4 - len(ids)) + ids
        assert prompted.latent == base.latent
        assert prompted.options["prompt"] == prompt
        logits = base.net(torch.cat([torch.tensor(prompted.before).expand(3, -1), x], 1)).logits
        logits = logits[:, len(prompted.before) - 1 : -1].log_softmax(-1)
        expected = (logits.gather(2, x[..., None])[..., 0] * own_tokens(x, base.end)).sum(1)
        zero = torch.zeros(3, *base.latent.shape)
        torch.testing.assert_close(prompted.decode(zero).log_prob(x), expected, atol=1e-4, rtol=1e-5)
        assert not torch.allclose(base.decode(zero).log_prob(x), expected)
        assert not torch.allclose(prompted.decode(zero + 1).log_prob(x), expected)


def test_a_prompt_takes_room():
    with pytest.raises(ValueError, match="19 tokens of a prompt and texts of 12 tokens do not fit the model, which"):
        TransformersAdapter(tiny().net, tiny().tokenizer, prompt="the cat " * 10, **SIZES)


def test_a_text_does_not_depend_on_its_batch(base):
    latent = 0.5 * torch.randn(3, *base.latent.shape, generator=seeded())
    x = base.check_inputs(TEXTS)
    together, features = base.decode(latent).log_prob(x), base.encode(x).features
    for row, text in enumerate(TEXTS):
        alone = base.check_inputs([text])
        torch.testing.assert_close(base.decode(latent[row : row + 1]).log_prob(alone)[0], together[row])
        torch.testing.assert_close(base.encode(alone).features[0], features[row])
        filled = F.pad(alone, (0, 3), value=base.end)
        torch.testing.assert_close(base.decode(latent[row : row + 1]).log_prob(filled)[0], together[row])


def test_features_are_mean_last_hidden_states(base):
    x = base.check_inputs(TEXTS[:1])
    ids = torch.cat([torch.tensor([[base.begin]]), x[:, :-1]], 1)
    hidden = base.net(ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(base.encode(x).features, hidden.mean(1))


def test_the_mean_takes_the_likeliest_token_each_time(base):
    latent = torch.randn(2, *base.latent.shape, generator=seeded())
    decoding = base.decode(latent)
    ids = decoding.mean
    assert ids.shape[1] <= base.max_tokens
    assert (ids == base.end).any(1).all()
    for row in range(2):
        for length in range(int(own_tokens(ids, base.end)[row].sum()) - (ids.shape[1] == base.max_tokens)):
            options = torch.arange(len(base.tokenizer))
            ahead = torch.cat([ids[row, :length].expand(len(options), -1), options[:, None]], 1)
            scores = base.decode(latent[row].expand(len(options), *base.latent.shape)).log_prob(ahead)
            assert scores.argmax() == ids[row, length]


def test_samples_follow_the_likelihood():
    base = tiny()
    latent = 0.5 * torch.randn(1, *base.latent.shape, generator=seeded())
    first = torch.arange(len(base.tokenizer))[:, None]
    for temperature in (1.0, 0.5):
        expected = (base.decode(latent.expand(len(first), *base.latent.shape)).log_prob(first) / temperature).softmax(
            0
        )
        decoding = base.decode(latent.expand(3000, *base.latent.shape), temperature=temperature)
        drawn = decoding.sample(seeded())[:, 0].bincount(minlength=len(first)) / 3000
        assert (drawn - expected).abs().max() < 0.03
        assert expected.max() < 0.95
    assert torch.equal(decoding.sample(seeded(1)), decoding.sample(seeded(1)))
    assert not torch.equal(decoding.sample(seeded(1)), decoding.sample(seeded(2)))
    cold = base.decode(latent, temperature=0.0)
    assert torch.equal(cold.sample(), cold.mean)


def test_texts_come_back(base):
    assert base.present(base.check_inputs(TEXTS)) == TEXTS
    assert base.present(torch.full((1, 3), base.end)) == [""]
    assert base.check_inputs("a cat runs .").tolist() == base.check_inputs(["a cat runs ."]).tolist()


# --- in front of it a context module


def test_generates_texts_and_counterfactuals(base):
    model = wrapped(base, free_blocks=1)
    torch.nn.init.normal_(model.module.inversion.linear.weight, std=2.0)
    texts = model.generate(6, do=("a", "b"), sample=True, generator=seeded())
    assert len(texts) == 6
    assert all(isinstance(text, str) for text in texts)
    assert texts == model.generate(6, do="a+b", sample=True, generator=seeded())
    noise = model.abduct(TEXTS, "obs")
    assert torch.equal(noise.noise, model.posterior(TEXTS).mean)
    assert len(model.generate(noise=noise, do={"a": 0.5})) == 3
    out = model(TEXTS, ["obs", "a", "b"])
    assert out.reconstruction.dtype == torch.int64
    torch.testing.assert_close(out.loss, out.neg_log_likelihood + out.kl_noise)


def test_the_counterfactual_of_a_text_starts_from_the_text_itself(base):
    """Token by token the noise behind it is kept: Oberst and Sontag 2019."""
    base.net.lm_head.weight.data.mul_(100)
    model = wrapped(base, free_blocks=1)
    for context in ("obs", "a"):
        behind = model.abduct(TEXTS, context)
        assert model.generate(noise=behind, do=context) == TEXTS
        assert model.generate(noise=behind, do=context, sample=True, generator=seeded()) == TEXTS
        assert torch.equal(behind.residuals[0], model.abduct(TEXTS, context).residuals[0])
    torch.nn.init.normal_(model.module.inversion.linear.weight, std=20.0)
    torch.nn.init.normal_(model.module.intervention.bias, std=5.0)
    behind = model.abduct(TEXTS, "obs")
    assert model.generate(noise=behind, do="obs") == TEXTS
    changed = model.generate(noise=behind, do="a+b")
    assert changed != TEXTS
    assert changed == model.generate(noise=behind, do="a+b")


def test_the_noise_behind_tokens_is_gumbel(base):
    """Over tokens drawn from the model and their noise drawn after them, it is the noise that draws tokens."""
    latent = base.sample_latent(400)
    drawn = base.decode(latent).sample(seeded(1))[:, :1]
    likelihood = base.decode(latent).likelihood
    noise = likelihood.noise_of(drawn, seeded(2)).flatten()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.05)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.12)
    assert noise.median().item() == pytest.approx(-math.log(math.log(2)), abs=0.05)


def test_the_module_learns_and_the_base_stays(base):
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = wrapped(base).train()
    assert not base.net.training
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    losses = []
    for _ in range(30):
        loss = model(TEXTS[:2], ["a", "b"], generator=seeded()).loss.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    assert all(p.grad is None for p in base.parameters())


def test_pretraining_learns():
    base = tiny()
    objective = LanguageModelObjective(base)
    optimizer = torch.optim.Adam(base.parameters(), lr=0.01)
    batch = {"x": base.check_inputs(TEXTS)}
    start = objective(batch)["loss"].detach()
    assert start.shape == (3,)
    for _ in range(20):
        objective(batch)["loss"].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert objective(batch)["loss"].mean() < 0.5 * start.mean()


def test_lora(base):
    model = wrapped(base)
    before = model.generate(3, do="a", generator=seeded())
    model.add_lora(2)
    assert {"q_proj", "c_attn"} & {name.rpartition(".")[2] for name in model.lora.target_modules}
    assert model.generate(3, do="a", generator=seeded()) == before
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if ".lora_B" in name:
                parameter.normal_()
    adapted = model(TEXTS, "a", generator=seeded()).loss
    model.merge_lora()
    torch.testing.assert_close(model(TEXTS, "a", generator=seeded()).loss, adapted, atol=1e-3, rtol=1e-4)


# --- files


def test_saved_and_loaded(saved, tmp_path):
    base = load_base("transformers", saved, virtual_tokens=2, max_tokens=9, dtype="bfloat16")
    assert base.dtype == torch.bfloat16
    model = wrapped(base)
    model.save_pretrained(tmp_path / "module")
    options = json.loads((tmp_path / "module" / "adapter_config.json").read_text())["base_options"]
    assert options == {"virtual_tokens": 2, "max_tokens": 9, "dtype": "bfloat16"}
    again = ContextualDecoder.from_pretrained(tmp_path / "module")
    assert again.base.options == options
    x = base.check_inputs(TEXTS)
    assert torch.equal(again(x, "a", generator=seeded()).loss, model(x, "a", generator=seeded()).loss)
    shutil.move(saved, tmp_path / "elsewhere")
    with pytest.raises(
        CheckpointError, match="lm is neither a folder of a language model and its tokenizer nor a Hub"
    ):
        ContextualDecoder.from_pretrained(tmp_path / "module")
    moved = ContextualDecoder.from_pretrained(tmp_path / "module", base=tmp_path / "elsewhere")
    assert moved.base.latent.shape[3] == 2
    assert "texts of up to 9 tokens" in (tmp_path / "module" / "README.md").read_text()


def test_a_base_that_trained_is_saved_with_the_module(tmp_path):
    base = gpt2(tiny())  # its output layer is its embedding
    model = wrapped(base).unfreeze_base()
    with torch.no_grad():
        base.net.transformer.ln_f.bias.add_(1)
    model.save_pretrained(tmp_path)
    again = ContextualDecoder.from_pretrained(tmp_path)
    torch.testing.assert_close(again(TEXTS, "a", generator=seeded()).loss, model(TEXTS, "a", generator=seeded()).loss)


def test_models_and_pipelines_are_recognised(saved):
    net = transformers.AutoModelForCausalLM.from_pretrained(saved)
    assert adapt(net).source == str(saved)
    pipeline = transformers.pipeline("text-generation", model=str(saved))
    assert adapt(pipeline).end == adapt(net).end
    with pytest.raises(TypeError, match="a LlamaForCausalLM does not say where its tokenizer is: give both"):
        adapt(tiny().net)


# --- what it refuses


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a cat runs .", " "], "text 1 is empty: leave it out"),
        (
            ["a cat " * 9],
            r"text 0 \('a cat a cat.*'\) has 18 tokens and an end token, the limit is 12: .*max_tokens=N",
        ),
        (["a zebra runs ."], r"text 0 \('a zebra runs .'\) holds words that the tokenizer does not know"),
        (["a cat </s> runs ."], "holds the end token '</s>' itself"),
    ],
)
def test_texts_it_cannot_take(texts, message):
    with pytest.raises(DataError, match=message):
        tiny().check_inputs(texts)


def test_texts_are_named():
    with pytest.raises(DataError, match="obs/1.txt, line 3 is empty"):
        tiny().tokenize([""], ["obs/1.txt, line 3"])
    assert tiny().check_inputs(["cat " * 11]).shape == (1, 12)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(2, 3, 8, 8), r"token ids, int64 of shape \(batch, tokens\).*; got torch.float32 of shape"),
        (torch.zeros(1, 13, dtype=torch.int64), "at most 12 tokens; got torch.int64 of shape \\(1, 13\\)"),
        (torch.tensor([[1, 99]]), "token ids must lie in 0 to"),
        (torch.tensor([[3, 4], [4, 1]]), r"every text must end with the end token, 1 \('</s>'\)"),
    ],
)
def test_ids_it_cannot_take(x, message):
    with pytest.raises(ShapeError, match=message):
        tiny().check_inputs(x)


def test_a_tokenizer_without_an_end_token():
    base = tiny()
    base.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="the tokenizer has no end token.*set tokenizer.eos_token"):
        TransformersAdapter(base.net, base.tokenizer)


def small(kind, **options):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return kind(vocab_size=12, **sizes, **options)


def test_models_that_are_no_causal_language_models(tmp_path):
    bert = small(transformers.BertConfig)
    t5 = transformers.T5Config(vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    nets = [
        transformers.BertForMaskedLM(bert),
        transformers.BertLMHeadModel(small(transformers.BertConfig, is_decoder=False)),  # sees what comes later
        transformers.T5ForConditionalGeneration(t5),
        tiny().net.model,  # without its output layer
    ]
    for net in nets:
        with pytest.raises(
            TypeError, match=f"no adapter for transformers' {type(net).__name__}: supported are causal"
        ):
            TransformersAdapter(net, tiny().tokenizer)
    nets[2].save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no adapter for transformers' T5ForConditionalGeneration"):
        TransformersAdapter.load(tmp_path)


def test_weights_of_several_types():
    base = tiny()
    base.net.lm_head.to(torch.bfloat16)
    with pytest.raises(ValueError, match="weights are of several types, bfloat16 and float32: bring them to one"):
        TransformersAdapter(base.net, base.tokenizer)


def test_counts_out_of_range():
    base = tiny()
    with pytest.raises(ValueError, match="virtual_tokens must be at least 1 and max_tokens at least 2, got 0 and 16"):
        TransformersAdapter(base.net, base.tokenizer, virtual_tokens=0)
    with pytest.raises(
        ValueError, match="3 virtual tokens and texts of 40 tokens do not fit the model, which reads 16"
    ):
        TransformersAdapter(base.net, base.tokenizer, virtual_tokens=3, max_tokens=40)
    assert TransformersAdapter(base.net, base.tokenizer, virtual_tokens=3).max_tokens == 13


def test_the_latent_objective_has_nothing_to_model():
    with pytest.raises(
        ValueError, match="no decoder inputs of its own behind texts .*leave it out, for the likelihood"
    ):
        wrapped(tiny(), latent_noise=True)


def test_options_of_other_families(saved):
    with pytest.raises(ValueError, match="a 'nvae' base takes no option dtype \\('bfloat16'\\): it takes revision"):
        load_base("nvae", "nowhere", dtype="bfloat16")
    with pytest.raises(ValueError, match="it takes revision, .*, virtual_tokens, max_tokens, dtype"):
        load_base("transformers", saved, nonsense=1)


def test_a_damaged_file(saved):
    (saved / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="lm is neither a folder of a language model"):
        TransformersAdapter.load(saved)
