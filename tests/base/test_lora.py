"""LoRA on a base's decoder: what it adapts, that it starts without effect, and that it survives saving and merging."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from context_module import ContextualDecoder
from context_module.adapters.modules import ModulesAdapter
from context_module.adapters.registry import adapt
from context_module.base.fingerprint import fingerprint
from context_module.base.lora import decoder_layers, is_lora
from context_module.errors import CheckpointError, LoraError, NonFiniteError
from helpers.draws import seeded
from helpers.models import randomise_lora, wrapped
from helpers.tensors import same, state

SAVED = ("diffusers", "lightweight", "nvae")  # families that can write their base
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def images(model, n=3):
    return torch.rand(n, *model.base.image_shape, generator=seeded(1))


def generated(model):
    return model.generate(4, do="a", generator=seeded(2))


def encoded(model):
    encoding = model.base.encode(images(model))
    states = encoding.states or ()
    return [tensor for tensor in (encoding.features, encoding.mean, encoding.log_var, *states) if tensor is not None]


def equal(first, second):
    return all(map(torch.equal, first, second))


# --- what it adapts


class Kinds(nn.Module):
    """Layers of every kind; by the names of those that LoRA can adapt: "yes"."""

    def __init__(self):
        super().__init__()
        self.yes_linear = nn.Linear(4, 4)
        self.yes_grouped = nn.Conv2d(4, 8, 3, groups=4, dilation=2, padding=2, padding_mode="reflect")
        self.yes_transposed = nn.ConvTranspose2d(8, 4, 4, 2, 1, output_padding=1, groups=2)
        self.yes_plain = nn.Conv2d(4, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.shared = nn.Linear(4, 4)
        self.alias = self.shared
        self.tied = nn.Linear(4, 4)
        self.tied_to = nn.Linear(4, 4)
        self.tied_to.weight = self.tied.weight
        self.normalised = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, e):
        e = self.normalised(self.tied_to(self.tied(self.alias(self.shared(self.yes_linear(e))))))
        e = self.attention(e, e, e)[0] + e
        x = self.yes_transposed(self.yes_grouped(e[:, :, None, None].expand(-1, -1, 4, 4)))
        return self.yes_plain(self.norm(x))


@pytest.fixture
def kinds():
    torch.manual_seed(5)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    return ModulesAdapter(encoder, Kinds(), (4,), (1, 8, 8))


def test_adapts_linear_and_convolution_layers_with_weights_of_their_own(kinds):
    names = {f"decoder.yes_{kind}" for kind in ("linear", "grouped", "transposed", "plain")}
    assert set(decoder_layers(kinds)) == names
    model = wrapped(kinds).add_lora(rank=3)
    assert {name.partition(".lora_")[0] for name, _ in kinds.named_parameters() if is_lora(name)} == names
    assert model.lora.target_modules == decoder_layers_of(model)


def decoder_layers_of(model):
    return tuple(dict.fromkeys(n.partition(".lora_")[0] for n, _ in model.base.named_parameters() if is_lora(n)))


def test_a_decoder_without_such_layers():
    decoder = nn.Sequential(nn.BatchNorm2d(1), nn.Upsample(scale_factor=2))
    base = ModulesAdapter(nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 1, 1)), decoder, (1, 4, 4), (1, 8, 8))
    with pytest.raises(
        LoraError,
        match=r"nothing for LoRA to adapt in the decoder of the 'modules' base: looked for nn.Linear, nn.Conv2d, "
        r"nn.Conv3d, nn.ConvTranspose2d with weights of their own, the layers with parameters are BatchNorm2d",
    ):
        wrapped(base).add_lora()


def test_a_family_that_does_not_name_its_decoder(make_base):
    class Silent(ModulesAdapter):
        name = "silent"
        decoder_parts = ModulesAdapter.__mro__[1].decoder_parts

    plain = make_base("modules")
    base = Silent(plain.encoder, plain.decoder, (2, 2, 2), (1, 8, 8))
    with pytest.raises(LoraError, match=r"a 'silent' base does not say .* takes no LoRA: write Silent.decoder_parts"):
        wrapped(base).add_lora()
    assert generated(wrapped(base)).isfinite().all()  # LoRA alone needs it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be an integer of at least 1, got 0"),
        ({"rank": 2.0}, "rank must be an integer of at least 1, got 2.0"),
        ({"alpha": 0.0}, "alpha must be a positive number, got 0.0"),
    ],
)
def test_settings_out_of_range(options, message, make_base):
    model = wrapped(make_base("modules"))
    with pytest.raises(ValueError, match=message):
        model.add_lora(**options)
    assert model.lora is None


def test_needs_peft(make_base, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    model = wrapped(make_base("modules"))
    with pytest.raises(ImportError, match=r"pip install context-module\[peft\]"):
        model.add_lora()
    assert model.lora is None


def test_starts_without_effect(base):
    model = wrapped(base)
    x, before = images(model), generated(model)
    loss = model(x, "a", generator=seeded(4)).loss
    model.add_lora()
    # but for rounding, which may be of another layout in memory
    torch.testing.assert_close(generated(model), before, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(x, "a", generator=seeded(4)).loss, loss, rtol=1e-5, atol=1e-4)


def test_starts_without_effect_on_layers_of_every_kind(kinds):
    model = wrapped(kinds)
    before = generated(model)
    assert torch.equal(generated(model.add_lora()), before)


def test_alpha_scales_the_update(kinds):
    """The known answer: a linear layer's update is alpha / rank B A; so is that of a kernel as a matrix."""
    model = randomise_lora(wrapped(kinds).add_lora(rank=2, alpha=6.0))
    linear, kernel = kinds.decoder.yes_linear, kinds.decoder.yes_transposed
    x = torch.randn(5, 4)
    update = 3 * linear.lora_B["default"].weight @ linear.lora_A["default"].weight
    torch.testing.assert_close(linear(x), linear.base_layer(x) + x @ update.T)
    update = 3 * (kernel.lora_B["default"] @ kernel.lora_A["default"]).view(8, 2, 4, 4)
    x = torch.randn(1, 8, 3, 3)
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}
    by_hand = nn.functional.conv_transpose2d(x, kernel.base_layer.weight + update, kernel.base_layer.bias, **options)
    torch.testing.assert_close(kernel(x), by_hand)
    assert model.lora.alpha == 6.0


def test_agrees_with_peft_on_a_plain_convolution():
    """The same function of the same A and B as peft's own layer, which is two convolutions."""
    import peft

    from context_module.base.lora_kernels import KernelLora

    torch.manual_seed(6)
    conv = nn.Conv2d(3, 5, 3, 2, 1)
    theirs = peft.inject_adapter_in_model(peft.LoraConfig(r=2, lora_alpha=3, target_modules="0"), nn.Sequential(conv))
    nn.init.normal_(theirs[0].lora_B["default"].weight)
    ours = KernelLora(conv, "default", r=2, lora_alpha=3)
    with torch.no_grad():
        ours.lora_A["default"].copy_(theirs[0].lora_A["default"].weight.flatten(1))
        ours.lora_B["default"].copy_(theirs[0].lora_B["default"].weight.flatten(1))
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_bfloat16_base(family, make_base):
    """LoRA in float32, as the module, on weights that stay in bfloat16."""
    model = wrapped(make_base(family).bfloat16())
    before = generated(model)
    model.add_lora()
    assert torch.equal(generated(model), before)
    assert {p.dtype for name, p in model.base.named_parameters() if is_lora(name)} == {torch.float32}
    assert {p.dtype for name, p in model.base.named_parameters() if ".base_layer." in name} == {torch.bfloat16}
    assert not torch.equal(generated(randomise_lora(model)), before)
    model(images(model), "a").loss.sum().backward()
    assert all(p.grad is not None for name, p in model.base.named_parameters() if is_lora(name))


def test_the_same_weights_under_autocast(make_base):
    """The update is a product of weights, not of activations: it keeps its precision."""
    model = randomise_lora(wrapped(make_base("modules")).add_lora())
    layer = model.base.decoder[0]
    x = torch.randn(2, 2, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x)
    assert mixed.dtype == torch.bfloat16
    merged = layer._kernel()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer._kernel(), merged)


def test_added_twice_or_to_a_base_that_trains(make_base):
    model = wrapped(make_base("lightweight")).add_lora()
    with pytest.raises(LoraError, match=r"the base carries LoRA already, in \d+ layers from 'net.decoder.0'"):
        model.add_lora()
    with pytest.raises(LoraError, match=r"a base with LoRA cannot train: fold LoRA into it first"):
        model.unfreeze_base()
    with pytest.raises(LoraError, match="freeze_base"):
        wrapped(make_base("lightweight")).unfreeze_base().add_lora()
    with pytest.raises(LoraError, match="no LoRA to merge"):
        wrapped(make_base("lightweight")).merge_lora()


def test_a_base_that_carries_lora_is_not_wrapped(base, tmp_path):
    adapter = adapt(base)
    model = wrapped(adapter).add_lora()
    model.save_pretrained(tmp_path)
    for wrap in (lambda: wrapped(adapter), lambda: ContextualDecoder.from_pretrained(tmp_path, base=adapter)):
        with pytest.raises(LoraError, match=r"the base carries LoRA already.*load the base afresh, or fold LoRA into"):
            wrap()


# --- saving


def test_round_trip(family, make_base, tmp_path):
    model = randomise_lora(wrapped(make_base(family)).add_lora(rank=3, alpha=2.0))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["lora"] == {"rank": 3, "alpha": 2.0, "target_modules": list(model.lora.target_modules)}
    assert config["base_fingerprint"] == fingerprint(adapt(make_base(family)))
    assert "LoRA | rank 3" in (tmp_path / "README.md").read_text()
    names = set(load_file(tmp_path / WEIGHTS))
    assert {n for n in names if n.startswith("base.")} == {f"base.{n}" for n in state(model.base) if is_lora(n)}
    loaded = ContextualDecoder.from_pretrained(tmp_path, base=make_base(family))
    assert loaded.lora == model.lora
    assert same(state(loaded), state(model))
    assert torch.equal(generated(loaded), generated(model))
    assert not any(part.training for part in loaded.modules())


def test_saves_the_same_file_without_it(base, tmp_path):
    model = wrapped(base)
    model.save_pretrained(tmp_path)
    assert "lora" not in json.loads((tmp_path / CONFIG).read_text())
    assert {name.partition(".")[0] for name in load_file(tmp_path / WEIGHTS)} == {"module", "posterior_heads"}


def spoil_weights(folder):
    content = load_file(folder / WEIGHTS)
    from safetensors.torch import save_file

    save_file({name: t for name, t in content.items() if "lora_B" not in name}, folder / WEIGHTS)


def spoil_config(**changes):
    def spoil(folder):
        config = json.loads((folder / CONFIG).read_text())
        config["lora"] |= changes
        (folder / CONFIG).write_text(json.dumps(config))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weights, r"missing: base.decoder.0.lora_B"),
        (spoil_config(rank="many"), "unusable LoRA settings .*rank must be an integer"),
        (spoil_config(colour="red"), "unusable LoRA settings .*colour"),
        (spoil_config(target_modules=["decoder.9"]), "unusable LoRA settings .*"),
    ],
)
def test_a_spoilt_folder_leaves_the_base_as_it_was(spoil, message, make_base, tmp_path):
    wrapped(make_base("modules")).add_lora().save_pretrained(tmp_path)
    spoil(tmp_path)
    base = make_base("modules")
    before = state(base)
    with pytest.raises(CheckpointError, match=message):
        ContextualDecoder.from_pretrained(tmp_path, base=base)
    assert same(state(base), before)


def test_the_fingerprint_is_of_the_base_without_it(base):
    model = wrapped(base)
    before = fingerprint(model.base)
    randomise_lora(model.add_lora())
    assert fingerprint(model.base) == before
    assert model.lora.target_modules == decoder_layers_of(model)  # and it is back in its place


# --- merging


@pytest.mark.parametrize("family", SAVED)
def test_merged_it_is_a_base_of_its_own(family, make_base, tmp_path):
    original = state(adapt(make_base(family)))
    model = randomise_lora(wrapped(make_base(family)).add_lora())
    images_before, encodings_before = generated(model), encoded(model)
    layers = model.lora.target_modules
    model.merge_lora()
    torch.testing.assert_close(generated(model), images_before, rtol=1e-4, atol=1e-5)
    assert equal(encoded(model), encodings_before)
    merged = state(model.base)
    assert merged.keys() == original.keys()
    changed = {name for name in merged if not torch.equal(merged[name], original[name])}
    assert changed == {f"{layer}.weight" for layer in layers}
    assert model.owns_base
    assert model.lora is None
    model.save_pretrained(tmp_path)
    loaded = ContextualDecoder.from_pretrained(tmp_path)
    assert same(state(loaded), state(model))
    with pytest.raises(CheckpointError, match="was trained on another base"):
        ContextualDecoder.from_pretrained(tmp_path, base=make_base(family))
    # and a second LoRA goes on the merged base, saved with its own names
    randomise_lora(loaded.add_lora(rank=2)).save_pretrained(tmp_path / "again")
    assert same(state(ContextualDecoder.from_pretrained(tmp_path / "again")), state(loaded))


def test_convolutions_merge_bit_for_bit(make_base, monkeypatch):
    model = randomise_lora(wrapped(make_base("modules")).add_lora())
    before = generated(model)
    monkeypatch.setattr(type(model.base), "save", lambda self, directory: None)
    assert torch.equal(generated(model.merge_lora()), before)


def test_merging_every_kind_of_layer(kinds, monkeypatch):
    model = randomise_lora(wrapped(kinds).add_lora())
    before = generated(model)
    monkeypatch.setattr(type(kinds), "save", lambda self, directory: None)
    torch.testing.assert_close(generated(model.merge_lora()), before)


def test_what_cannot_merge(make_base):
    model = randomise_lora(wrapped(make_base("modules")).add_lora())
    before = generated(model)
    with pytest.raises(ValueError, match="a 'modules' base cannot be saved, so LoRA cannot be merged into it"):
        model.merge_lora()
    assert torch.equal(generated(model), before)
    model = randomise_lora(wrapped(make_base("lightweight")).add_lora())
    with torch.no_grad():
        next(p for name, p in model.base.named_parameters() if is_lora(name)).fill_(torch.nan)
    before = state(model.base)
    with pytest.raises(NonFiniteError, match=r"net.decoder.0.lora_A.* not merged"):
        model.merge_lora()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model.base).items() if not is_lora(name))
    assert not model.owns_base
