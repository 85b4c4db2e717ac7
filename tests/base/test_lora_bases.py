"""Bases that come with LoRA of somebody else's training: peft models, and LoRA checkpoints."""

import copy
import json

import pytest
import torch
from torch import nn

from context_module import ContextualDecoder, adapt
from context_module.adapters import load_base
from context_module.adapters.modules import ModulesAdapter
from context_module.base.fingerprint import fingerprint
from context_module.base.lora import foreign_lora
from context_module.errors import CheckpointError, LoraError
from helpers.draws import seeded
from helpers.models import wrapped

peft = pytest.importorskip("peft")
TARGETS = {"lightweight": r"decoder\.[02]", "nvae": r"dec_tower\..*", "diffusers": r"decoder\..*to_[qkv]"}


def generated(model):
    return model.generate(3, do="a", generator=seeded(2))


def with_lora(net, family="lightweight", seed=0, **options):
    """A PeftModel as somebody else trained it."""
    config = peft.LoraConfig(r=2, target_modules=TARGETS[family], **options)
    model = peft.get_peft_model(net, config)
    generator = seeded(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(params=["lightweight", "diffusers"])
def lora_family(request):
    return request.param


# --- wrapping


def test_a_peft_model_is_a_base(lora_family, make_base):
    plain = wrapped(make_base(lora_family))
    model = wrapped(with_lora(make_base(lora_family), lora_family))
    assert type(model.base) is type(plain.base)
    assert foreign_lora(model.base)
    assert model.lora is None
    assert not torch.equal(generated(model), generated(plain))
    assert not any(parameter.requires_grad for parameter in model.base.parameters())
    assert not any(name.startswith("base.") for name in model.adapter_state_dict())


def test_its_lora_is_a_part_of_the_base(lora_family, make_base, tmp_path):
    model = wrapped(with_lora(make_base(lora_family), lora_family))
    assert fingerprint(model.base) != fingerprint(adapt(make_base(lora_family)))
    assert fingerprint(model.base) != fingerprint(adapt(with_lora(make_base(lora_family), lora_family, seed=1)))
    model.save_pretrained(tmp_path)
    again = ContextualDecoder.from_pretrained(tmp_path, base=with_lora(make_base(lora_family), lora_family))
    assert torch.equal(generated(again), generated(model))
    message = "was trained on another base.*that base came with LoRA of its own, in [0-9]+ layers; this one has it"
    with pytest.raises(CheckpointError, match=f"{message} in 0"):
        ContextualDecoder.from_pretrained(tmp_path, base=make_base(lora_family))


def test_ours_does_not_go_on_top(make_base):
    model = wrapped(with_lora(make_base("lightweight")))
    before = generated(model)
    for call in (model.add_lora, model.unfreeze_base):
        with pytest.raises(
            LoraError, match=r"came with LoRA of its own, in 2 layers from 'net.decoder.0', so .*merge_and_unload"
        ):
            call()
    assert torch.equal(generated(model), before)


def test_folded_in_it_is_a_base_like_any_other(make_base):
    base = with_lora(make_base("lightweight"))
    before = generated(wrapped(base))
    model = wrapped(base.merge_and_unload())
    torch.testing.assert_close(generated(model), before, rtol=1e-4, atol=1e-5)
    assert model.add_lora().lora is not None


def test_in_front_of_an_encoder_and_a_decoder():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    decoder = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)))
    config = peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    base = ModulesAdapter(encoder, peft.get_peft_model(decoder, config), (3,), (1, 4, 4))
    assert generated(wrapped(base)).shape == (3, 1, 4, 4)
    assert foreign_lora(base) == ["decoder.base_model.model.0"]


def test_prompts_are_no_base():
    model = peft.PeftModel.__new__(peft.PeftModel)
    nn.Module.__init__(model)
    model.active_adapter, model._is_prompt_learning = "default", True
    model._peft_config = {"default": peft.PromptTuningConfig(num_virtual_tokens=2)}
    with pytest.raises(TypeError, match="a PeftModel with PROMPT_TUNING changes what goes into a network"):
        adapt(model)


# --- two models around one network


def test_lora_of_one_model_does_not_slip_into_another(make_base):
    net = make_base("lightweight")
    one, other = wrapped(net), wrapped(net)  # two adapters around one network
    before = generated(other)
    one.add_lora()
    for call in (lambda: generated(other), lambda: other(torch.rand(2, *other.base.image_shape), "obs")):
        with pytest.raises(LoraError, match=r"carries the LoRA of another model around it.*deepcopy.*load_adapter"):
            call()
    assert generated(one).shape == before.shape
    assert torch.equal(generated(copy.deepcopy(one)), generated(one))


# --- LoRA checkpoints


@pytest.fixture
def checkpoint(make_base, tmp_path):
    """A folder of peft with LoRA for the base beside it: (folder, the model that was saved)."""
    net = make_base("lightweight")
    net.save_pretrained(tmp_path / "base")
    model = with_lora(net)
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "lora")
    return tmp_path / "lora", model


def test_a_lora_checkpoint_is_a_base(checkpoint, tmp_path):
    folder, saved = checkpoint
    base = load_base("lightweight", folder)
    assert fingerprint(base) == fingerprint(adapt(saved))
    assert not base.training
    model = wrapped(base)
    assert torch.equal(generated(model), generated(wrapped(saved)))
    model.save_pretrained(tmp_path / "module")
    assert json.loads((tmp_path / "module" / "adapter_config.json").read_text())["base_name_or_path"] == str(folder)
    assert torch.equal(generated(ContextualDecoder.from_pretrained(tmp_path / "module")), generated(model))


def edit(folder, **changes):
    config = {**json.loads((folder / "adapter_config.json").read_text()), **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda d: edit(d, base_model_name_or_path=None),
            "does not say which base its LoRA is for: set base_model_na",
        ),
        (lambda d: (d / "adapter_model.safetensors").rename(d / "adapter_model.bin"), "safetensors does not exist"),
        (lambda d: edit(d, r=3), "lora_A.weight: shape .* in the file, .* in the model"),
        (lambda d: edit(d, target_modules=["0"]), "unexpected: .*decoder.2.lora_A.weight"),
        (lambda d: edit(d, target_modules=["nothing"]), "does not fit the 'lightweight' base at .*nothing"),
        (lambda d: edit(d, base_model_name_or_path="gone"), "gone: no such file or folder; expected a folder of"),
    ],
)
def test_lora_checkpoints_that_cannot_be_used(spoil, message, checkpoint):
    folder, _ = checkpoint
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        load_base("lightweight", folder)


def test_a_context_module_is_no_base(make_base, tmp_path):
    wrapped(make_base("lightweight")).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds a context module, not a base: give the base that it was trained"):
        load_base("lightweight", tmp_path)
