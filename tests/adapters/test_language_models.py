"""Language models beyond Llama: hybrids, peft models, gradient checkpoints, tokenizers that do not fit."""

import pytest
import torch
from torch.nn import functional as F

from context_module import wrap_decoder
from context_module.base.lora import foreign_lora
from context_module.errors import ShapeError

tf = pytest.importorskip("transformers")

from context_module.adapters.tokens import own_tokens  # noqa: E402
from context_module.adapters.transformers import TransformersAdapter  # noqa: E402
from context_module.adapters.word_tokenizer import word_tokenizer  # noqa: E402
from helpers.draws import seeded  # noqa: E402
from helpers.models import wrapped  # noqa: E402

TEXTS = ["the cat sees a ball .", "the dogs run .", "a cat runs ."]
SIZES = {"virtual_tokens": 3, "max_tokens": 12}
WIDTHS = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 2, "num_local_experts": 2, "num_experts_per_tok": 1}


def tokenizer():
    return word_tokenizer(TEXTS)


LATER = ("FalconH1", "Jamba", "Lfm2", "Llama4", "RecurrentGemma")


def of(name, **config):
    """A tiny model of a family of transformers, with random weights of a size that shows."""
    if name in LATER and int(tf.__version__.split(".")[0]) < 5:
        pytest.skip(f"before transformers 5 {name} is no base: it keeps its states in caches of its own")
    torch.manual_seed(0)
    text = f"{name}TextConfig" if hasattr(tf, f"{name}TextConfig") else f"{name}Config"
    ids = {"vocab_size": len(tokenizer()), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    kind = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    net = getattr(tf, kind)(getattr(tf, text)(**{**ids, "num_hidden_layers": 2, **config}))
    with torch.no_grad():
        net.get_output_embeddings().weight.mul_(30)
    return net


def llama():
    return of("Llama", **WIDTHS)


def enable_checkpoints(net):
    getattr(net, "activation_checkpointing_enable", net.gradient_checkpointing_enable)()  # since transformers 5
    return net


def checkpoints(net):
    return sum(getattr(module, "gradient_checkpointing", False) for module in net.modules())


# family -> (its configuration, layers that attend)
HYBRIDS = {
    "Lfm2": ({**WIDTHS, "layer_types": ["conv", "full_attention"]}, 1),
    "Jamba": ({**WIDTHS, **EXPERTS, "use_mamba_kernels": False, "attn_layer_period": 2, "attn_layer_offset": 1}, 1),
    "FalconH1": ({**WIDTHS, "mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 4}, 2),
    "Llama4": (
        {
            **WIDTHS,
            **EXPERTS,
            "head_dim": 8,
            "intermediate_size_mlp": 16,
            "attention_chunk_size": 8,
            "num_hidden_layers": 4,
        },
        4,
    ),
    "Gemma3": (
        {**WIDTHS, "head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
        2,
    ),
}


@pytest.mark.parametrize("family", HYBRIDS)
def test_hybrid_models_are_bases(family):
    """At zero virtual tokens say nothing, and greedy texts are the likeliest; elsewhere gradients reach them."""
    config, attending = HYBRIDS[family]
    base = TransformersAdapter(of(family, **config), tokenizer(), **SIZES)
    assert base.latent.shape[:2] == (attending, 2)
    x = base.check_inputs(TEXTS)
    found = base.decode(torch.zeros(3, *base.latent.shape)).log_prob(x)
    logits = base.net(torch.cat([torch.full((3, 4), base.begin), x], 1), use_cache=False).logits[:, 3:-1]
    own = own_tokens(x, base.end)
    expected = (logits.log_softmax(-1).gather(2, x[..., None])[..., 0] * own).sum(1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    latent = torch.randn(2, *base.latent.shape, generator=seeded()).requires_grad_()
    decoding = base.decode(latent)
    ids = decoding.mean
    for length in range(int(own_tokens(ids, base.end)[0].sum()) - (ids.shape[1] == base.max_tokens)):
        ahead = F.pad(ids[:, :length], (0, 1), value=int(ids[0, length]))
        others = [base.decode(latent).log_prob(F.pad(ids[:, :length], (0, 1), value=token))[0] for token in range(5)]
        assert base.decode(latent).log_prob(ahead)[0] >= max(others) - 1e-3
    decoding.log_prob(x[:2]).sum().backward()
    assert latent.grad.isfinite().all()
    assert (latent.grad.flatten(1).abs().sum(1) > 0).all()
    model = wrapped(base)
    assert len(model.generate(2, do="a", generator=seeded())) == 2
    assert model(TEXTS, "a").loss.isfinite().all()


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("Mamba", {"hidden_size": 16}),
        ("Mamba2", {"hidden_size": 16, "num_heads": 4, "head_dim": 8, "state_size": 4, "n_groups": 1}),
    ],
)
def test_models_without_attention_are_refused(family, config):
    with pytest.raises(TypeError, match=f"a {family}ForCausalLM has no key-value cache .* to put virtual tokens in"):
        TransformersAdapter(of(family, **config), tokenizer())


def test_states_outside_of_the_cache_are_refused():
    config = {**WIDTHS, "block_types": ["recurrent", "attention"], "lru_width": 16, "attention_window_size": 8}
    with pytest.raises(TypeError, match="a RecurrentGemmaForCausalLM keeps what some of its layers have read outside"):
        TransformersAdapter(of("RecurrentGemma", **config), tokenizer())


def test_keys_and_values_of_several_sizes_are_refused():
    experts = {"moe_intermediate_size": 8, "n_routed_experts": 2, "n_group": 1, "topk_group": 1}
    ranks = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 6}
    net = of("DeepseekV3", **WIDTHS, **experts, **ranks, num_experts_per_tok=1)
    with pytest.raises(TypeError, match="the layers of a DeepseekV3ForCausalLM have keys and values of several sizes"):
        TransformersAdapter(net, tokenizer())


# --- models of peft

OF_PEFT = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # it asks


@OF_PEFT
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_model_of_peft_is_a_base(by_hand):
    peft = pytest.importorskip("peft")
    net = llama()
    plain = TransformersAdapter(llama(), tokenizer(), **SIZES)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    tuned = peft.get_peft_model(net, config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    base = TransformersAdapter(tuned, tokenizer(), **SIZES)
    model = wrapped(base) if by_hand else wrap_decoder(tuned, ["a", "b"], tokenizer=tokenizer(), **SIZES).eval()
    assert foreign_lora(model.base)
    zero = torch.zeros(3, *base.latent.shape)
    x = base.check_inputs(TEXTS)
    assert not torch.allclose(model.base.decode(zero).log_prob(x), plain.decode(zero).log_prob(x), atol=1e-3)
    torch.testing.assert_close(model.base.encode(x).features, base.encode(x).features)
    model(TEXTS, "a").loss.mean().backward()
    assert all(parameter.grad is None for parameter in model.base.parameters())


@OF_PEFT
def test_prompts_of_peft_are_refused_by_hand_too():
    peft = pytest.importorskip("peft")
    prompted = peft.get_peft_model(llama(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(TypeError, match="a PeftModel with PROMPT_TUNING changes what goes into a network"):
        TransformersAdapter(prompted, tokenizer())


# --- gradient checkpoints

CHECKPOINTED = {
    "Llama": WIDTHS,
    "GPT2": {"n_embd": 16, "n_head": 2},
    "Lfm2": HYBRIDS["Lfm2"][0],
    "Jamba": HYBRIDS["Jamba"][0],
}


@pytest.mark.parametrize("family", CHECKPOINTED)
def test_gradients_are_the_same_with_checkpoints(family):
    found = {}
    for checkpointed in (False, True):
        net = of(family, **CHECKPOINTED[family])
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointed:
            enable_checkpoints(net)
        before = checkpoints(net)
        model = wrapped(TransformersAdapter(net, tokenizer(), **SIZES), seed=0)
        torch.nn.init.normal_(model.module.inversion.linear.weight, std=0.5, generator=seeded())
        model.unfreeze_base().train()
        runs = []
        inside = next(module for module in net.modules() if type(module).__name__.endswith("Norm"))
        inside.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        loss = model(TEXTS, "a", generator=seeded()).loss.mean()
        forward = len(runs)
        loss.backward()
        assert (len(runs) > forward) == checkpointed  # gradients run it again
        assert checkpoints(net) == before
        assert model.generate(2, do="a", generator=seeded())
        assert len(model.abduct(TEXTS, "a").noise) == 3
        found[checkpointed] = (loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(found[True], found[False], rtol=1e-4, atol=1e-5)


def test_checkpoints_of_a_models_own_are_refused():
    net = enable_checkpoints(llama())
    for layer in net.model.layers:  # as models of one's own, whose forward checkpoints
        layer.gradient_checkpointing = False
    net.model.gradient_checkpointing = True
    model = wrapped(TransformersAdapter(net, tokenizer(), **SIZES)).unfreeze_base().train()
    with pytest.raises(TypeError, match=r"of a LlamaForCausalLM drops the key-value cache.*: switch it off"):
        model(TEXTS, "a")


# --- tokenizers


def test_tokens_that_the_model_has_no_embeddings_of():
    longer = tokenizer()
    longer.add_tokens(["zebra", "gnu"])
    net = llama()
    with pytest.raises(
        ShapeError, match=r"has 14 tokens, the model embeddings of 12: call model.resize_token_embeddings\(len"
    ):
        TransformersAdapter(net, longer)
    net.resize_token_embeddings(len(longer))
    assert wrapped(TransformersAdapter(net, longer, **SIZES)).abduct(["the zebra sees a gnu ."]).noise.isfinite().all()
