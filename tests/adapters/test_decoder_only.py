"""A decoder without an encoder: one is made, trained through it, and saved with the module."""

import copy
import json

import pytest
import safetensors.torch
import torch
from torch import nn

from context_module import ContextualDecoder
from context_module.adapters import Encoding
from context_module.adapters.decoder_only import DecoderOnlyAdapter, SmallEncoder
from context_module.base.alone import base_output
from context_module.base.fingerprint import fingerprint
from context_module.data import ArrayContextDataset
from context_module.errors import CheckpointError, NonFiniteError, ShapeError, UnfittedError
from context_module.training.encoder import fit_encoder, wants_encoder
from helpers.draws import seeded
from helpers.models import wrapped

IMAGE, LATENT = (1, 8, 8), (2, 1, 1)


def decoder(image=IMAGE, seed=0):
    """Two latents, of which each moves half of the image; with a batch norm that must stand still."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 64))
    with torch.no_grad():
        net[4].weight.mul_(12)
    return nn.Sequential(net, nn.Unflatten(1, image))


def adapter(**options):
    return DecoderOnlyAdapter(decoder(**options), LATENT, IMAGE)


def images(base, n=300):
    """What the decoder itself generates, in two contexts: (data, the latents behind it)."""
    generator = seeded(1)
    latents = base.sample_latent(n, generator)
    with torch.no_grad():
        x = (base.decode(latents).mean * 255).round().byte()
    return ArrayContextDataset(x, torch.arange(n) % 2, ["obs", "a"], ["a"]), latents


@pytest.fixture(scope="module")
def fitted():
    """(base, its data, the latents behind it, the loss before and after)."""
    base = adapter()
    data, latents = images(base)
    x = data.read(torch.arange(len(data)))
    before = loss(base, x)
    fit_encoder(base, data, steps=250, batch_size=50, learning_rate=3e-3, progress=False)
    return base, x, latents, before, loss(base, x)


@torch.no_grad()
def loss(base, x):
    mean, log_var = base.encoder.posterior(x)
    encoding = Encoding(mean.flatten(1), mean, log_var)
    return base_output(base, x, encoding, seeded(0)).loss.mean().item()


@pytest.mark.parametrize("shape", [(1, 3, 3), (1, 28, 28), (3, 64, 48), (3, 17, 90)])
def test_the_encoder_fits_the_shape(shape):
    mean, log_var = SmallEncoder(shape, (4, 2, 2)).posterior(torch.rand(2, *shape))
    assert mean.shape == log_var.shape == (2, 4, 2, 2)


def test_it_finds_the_latents_behind_images(fitted):
    base, x, latents, before, after = fitted
    assert after < before - 5  # nats per image
    with torch.no_grad():
        encoding = base.encode(x)
    assert encoding.mean.shape == encoding.log_var.shape == (300, *LATENT)
    assert torch.equal(encoding.features, encoding.mean.flatten(1))
    pairs = torch.corrcoef(torch.cat([encoding.mean.flatten(1), latents.flatten(1)], dim=1).t())[:2, 2:]
    assert pairs.diagonal().min() > 0.9
    assert not any(parameter.requires_grad for parameter in base.parameters())


def test_the_decoder_stands_still():
    base = adapter()
    before = copy.deepcopy(base.decoder.state_dict())
    data, _ = images(base, 20)
    fit_encoder(base, data, steps=2, batch_size=10, progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.decoder.state_dict().items())


def test_same_seed_same_encoder():
    states = []
    for seed in (0, 0, 1):
        base = adapter()
        fit_encoder(base, images(base, 20)[0], steps=2, batch_size=10, seed=seed, progress=False)
        states.append(base.encoder.head.weight.detach().clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_it_is_saved_with_the_module_and_no_part_of_the_base(fitted, tmp_path):
    base = fitted[0]
    print_before = fingerprint(base)
    assert print_before == fingerprint(adapter())
    assert print_before != fingerprint(adapter(seed=1))
    model = wrapped(base, ["a"])
    model.save_pretrained(tmp_path)
    names = set(safetensors.torch.load_file(tmp_path / "adapter_model.safetensors"))
    assert {name for name in names if name.startswith("base.")} == {
        f"base.encoder.{name}" for name in base.encoder.state_dict()
    }
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_adapter"] == "decoder_only"
    new = adapter()
    assert wants_encoder(new)
    again = ContextualDecoder.from_pretrained(tmp_path, base=new)
    assert not wants_encoder(again.base)
    x = fitted[1][:3]
    assert torch.equal(again.abduct(x, "a").noise, model.abduct(x, "a").noise)
    model.train()(x, "a").loss.mean().backward()


def test_errors(fitted):
    base = adapter()
    model = wrapped(base, ["a"])
    with pytest.raises(UnfittedError, match=r"the encoder of this 'decoder_only' base is untrained: fit_encoder"):
        model(torch.rand(2, *IMAGE), "a")
    assert model.generate(2, do="a").shape == (2, *IMAGE)  # which takes no encoder
    with pytest.raises(ShapeError, match=r"the decoder gives images of shape \(1, 4, 16\), not \(1, 8, 8\)"):
        adapter(image=(1, 4, 16))
    with torch.no_grad():
        base.decoder[0][4].bias.fill_(torch.nan)
    data = images(fitted[0], 20)[0]
    with pytest.raises(NonFiniteError, match="the loss of the encoder is nan at step 0"):
        fit_encoder(base, data, steps=2, batch_size=10, progress=False)
    assert wants_encoder(base)
    with pytest.raises(CheckpointError, match="a 'decoder_only' base cannot be rebuilt from a file"):
        DecoderOnlyAdapter.load("somewhere")


@pytest.mark.parametrize(("last", "output"), [(nn.Tanh, "tanh"), (nn.Sigmoid, "unit")])
def test_a_generator_of_images(last, output):
    """Its images come out as they are, and its encoder learns from them."""
    net = nn.Sequential(*decoder(), last())
    base = DecoderOnlyAdapter(net, LATENT, IMAGE, output=output)
    data, latents = images(base, 40)
    x = data.read(torch.arange(len(data)))
    with torch.no_grad():
        image = net(latents)
        assert torch.equal(base.decode(latents).mean, image if output == "unit" else (image + 1) / 2)
    before = loss(base, x)
    fit_encoder(base, data, steps=40, batch_size=20, learning_rate=3e-3, progress=False)
    assert loss(base, x) < before
    with pytest.warns(UserWarning, match=f"output='logits', but it ends in a .*: give output='{output}'"):
        DecoderOnlyAdapter(net, LATENT, IMAGE)


def test_an_encoder_of_its_own_is_left_alone(make_base):
    base = make_base("modules")
    assert not wants_encoder(base)
    with pytest.raises(ValueError, match="the encoder of a 'modules' base is its own"):
        fit_encoder(base, None)
