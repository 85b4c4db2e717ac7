"""The paper's two small VAEs."""

from pathlib import Path

import pytest
import torch

from context_module.adapters.lightweight import LightweightAdapter, LightweightObjective, LightweightVAE
from context_module.base import base_output
from context_module.errors import CheckpointError
from helpers.files import edit_json, edit_tensors

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "published" / "mnist-conv3-2.15.5.vae.pth"
SHAPES = {"simple64bn": (3, 64, 64), "simple32bn": (3, 32, 32), "conv3": (1, 28, 28)}


def conv(name, outs, ins, kernel):
    return {f"{name}.weight": (outs, ins, kernel, kernel), f"{name}.bias": (outs,)}


def up(name, ins, outs, kernel):
    return {f"{name}.weight": (ins, outs, kernel, kernel), f"{name}.bias": (outs,)}


def norm(name, size):
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (size,) for part in vectors}, f"{name}.num_batches_tracked": ()}


def linear(name, ins, outs):
    return {f"{name}.weight": (outs, ins), f"{name}.bias": (outs,)}


# the paper's layers, in order: convolution, ReLU, batch norm in simple64bn
SIMPLE64BN = {
    **conv("encoder.0", 32, 3, 4),
    **norm("encoder.2", 32),
    **conv("encoder.3", 64, 32, 4),
    **norm("encoder.5", 64),
    **conv("encoder.6", 128, 64, 4),
    **norm("encoder.8", 128),
    **conv("encoder.9", 256, 128, 4),
    **norm("encoder.11", 256),
    **linear("encoder.13", 4096, 128),
    **linear("decoder.0", 128, 128),
    **linear("decoder.2", 128, 4096),
    **up("decoder.5", 256, 128, 4),
    **norm("decoder.7", 128),
    **up("decoder.8", 128, 64, 4),
    **norm("decoder.10", 64),
    **up("decoder.11", 64, 32, 4),
    **norm("decoder.13", 32),
    **up("decoder.14", 32, 3, 4),
}


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_simple64bn_has_the_papers_names_and_shapes():
    assert shapes(LightweightVAE("simple64bn", heads=False).state_dict()) == SIMPLE64BN


def test_conv3_has_the_papers_names_and_shapes():
    published = torch.load(PUBLISHED, weights_only=True)["model_state_dict"]
    theirs = {name: tensor for name, tensor in published.items() if name.startswith(("encoder.", "decoder."))}
    assert shapes(LightweightVAE("conv3", heads=False).state_dict()) == shapes(theirs)


@pytest.mark.parametrize("architecture", SHAPES)
def test_images_of_every_size_have_a_fresh_network(architecture):
    assert LightweightAdapter.fresh(SHAPES[architecture]).net.architecture == architecture


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize("architecture", SHAPES)
@torch.no_grad()
def test_encode_and_decode(architecture, heads):
    adapter = LightweightAdapter(LightweightVAE(architecture, heads).eval())
    assert adapter.image_shape == SHAPES[architecture]
    x = torch.rand(2, *adapter.image_shape)
    encoding = adapter.encode(x)
    assert encoding.features.shape == encoding.mean.shape == (2, *adapter.latent.shape) == (2, 128)
    assert torch.equal(encoding.features, encoding.mean) != heads
    assert encoding.log_var.shape == (2, 128) if heads else encoding.log_var is None
    decoding = adapter.decode(encoding.mean)
    assert decoding.mean.shape == x.shape
    assert decoding.log_prob(x).shape == (2,)
    assert torch.equal(decoding.kl, torch.zeros(2))
    assert decoding.residuals == ()


@pytest.mark.parametrize("heads", [True, False])
def test_saves_and_loads_bit_for_bit(heads, tmp_path):
    net = LightweightVAE("conv3", heads)
    net.encode(torch.rand(4, 1, 28, 28))  # moves the statistics
    net.save_pretrained(tmp_path / "new" / "folder")
    again = LightweightVAE.from_pretrained(tmp_path / "new" / "folder")
    assert not again.training
    assert (again.architecture, again.fc_mu is not None) == ("conv3", heads)
    theirs = again.state_dict()
    assert theirs.keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in net.state_dict().items())
    adapter = LightweightAdapter.load(tmp_path / "new" / "folder")
    assert adapter.source == str(tmp_path / "new" / "folder")


SPOILED = {
    "nothing": (lambda d: (d / "config.json").unlink(), "config.json does not exist: expected a folder written by"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors does not exist: expected"),
    "truncated": (
        lambda d: (d / "model.safetensors").write_bytes(b"123"),
        "model.safetensors is not a readable safetensors file",
    ),
    "another base": (lambda d: edit_json(d / "config.json", base="nvae"), "folder does not hold a lightweight VAE$"),
    "another architecture": (
        lambda d: edit_json(d / "config.json", architecture="conv4"),
        "config.json is of no usable lightweight VAE: unknown architecture 'conv4'; known: simple64bn, "
        + "simple32bn, conv3",
    ),
    "unknown option": (
        lambda d: edit_json(d / "config.json", wings=2),
        "config.json is of no usable lightweight VAE: .*'wings'",
    ),
    "no heads": (lambda d: edit_json(d / "config.json", heads=False), "does not fit .*unexpected: fc_mu.bias"),
    "missing tensor": (
        lambda d: edit_tensors(d / "model.safetensors", lambda t: t.pop("decoder.5.bias")),
        "model.safetensors does not fit the model it is loaded into: missing: decoder.5.bias$",
    ),
    "wrong shape": (
        lambda d: edit_tensors(d / "model.safetensors", lambda t: t.update({"decoder.5.bias": torch.ones(3)})),
        r"decoder.5.bias: shape \(3,\) in the file, \(64,\) in the model$",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_refuses_a_spoiled_folder(case, tmp_path):
    spoil, message = SPOILED[case]
    LightweightVAE("conv3").save_pretrained(tmp_path / "folder")
    spoil(tmp_path / "folder")
    with pytest.raises(CheckpointError, match=message):
        LightweightVAE.from_pretrained(tmp_path / "folder")


def test_refuses_an_architecture():
    with pytest.raises(ValueError, match="unknown architecture 'conv4'; known: simple64bn, simple32bn, conv3"):
        LightweightVAE("conv4")


@pytest.mark.parametrize("architecture", SHAPES)
def test_the_objective_trains(architecture):
    torch.manual_seed(0)
    net = LightweightVAE(architecture)
    objective = LightweightObjective(net, beta=0.5).train()
    batch = {"x": torch.rand(8, *net.image_shape)}
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(3):
        terms = objective(batch)
        assert {name: tuple(term.shape) for name, term in terms.items()} == dict.fromkeys(
            ("loss", "neg_log_likelihood", "kl"), (8,)
        )
        assert torch.allclose(terms["loss"], terms["neg_log_likelihood"] + 0.5 * terms["kl"])
        assert (terms["kl"] >= 0).all()
        optimiser.zero_grad()
        terms["loss"].mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        optimiser.step()
        losses.append(terms["loss"].mean().item())
    assert losses[2] < losses[0]


def test_the_objective_needs_heads():
    with pytest.raises(ValueError, match="has no posterior to pretrain: build it with heads=True"):
        LightweightObjective(LightweightVAE("conv3", heads=False))({"x": torch.rand(2, 1, 28, 28)})


def test_an_encoder_that_is_at_a_loss_says_no_variance_of_thousands():
    """As those do that meet images unlike all they were trained on; a module in front of one is fitted as ever."""
    torch.manual_seed(0)
    net = LightweightVAE("conv3").eval()
    adapter = LightweightAdapter(net)
    mean, features, log_var = torch.zeros(40, 128), torch.zeros(40, 256), torch.zeros(40, 128)
    log_var[20:] = 20.0
    net.encode = lambda x: (features[: len(x)], mean[: len(x)], log_var[: len(x)])
    encoding = adapter.encode(torch.rand(40, 1, 28, 28))
    assert encoding.log_var.unique().tolist() == [0, 2]
    assert base_output(adapter, torch.rand(40, 1, 28, 28), encoding).loss.max() < 1e4
