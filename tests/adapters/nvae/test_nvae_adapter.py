"""The NVAE as a base."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from context_module import wrap_decoder
from context_module.adapters import adapt, get_adapter
from context_module.adapters.nvae import NVAE, NVAEAdapter, NVAEConfig
from context_module.base.lora import decoder_layers
from context_module.errors import CheckpointError, ShapeError
from helpers.draws import seeded

MakeNet = Callable[..., NVAE]


@pytest.mark.parametrize("num_flows", [0, 1])
def test_contract(num_flows: int, make_net: MakeNet) -> None:
    net = make_net(num_flows=num_flows)
    adapter = adapt(net)
    assert isinstance(adapter, NVAEAdapter)
    assert get_adapter("nvae") is NVAEAdapter
    assert adapter.latent.shape == (2, 2, 2)
    assert adapter.image_shape == (3, 8, 8)
    x = torch.rand(2, 3, 8, 8)
    encoding = adapter.encode(x)
    posterior, _ = net.encode(x)
    features = torch.cat((posterior.mean.flatten(1), posterior.sigma.log().flatten(1)), 1)
    assert torch.equal(encoding.features, features)
    assert encoding.features.shape == (2, adapter.num_features)
    assert encoding.mean.shape == (2, 2, 2, 2)
    assert encoding.log_var is not None
    assert torch.allclose(encoding.log_var.exp(), posterior.sigma**2)

    decoding = adapter.decode(encoding.mean, encoding, temperature=0)
    whole = net(x, temperature=0)
    assert torch.equal(decoding.log_prob(x), -whole.neg_log_likelihood)
    assert torch.equal(decoding.kl, whole.kl_per_group[1:].sum(0))
    assert decoding.mean.shape == decoding.sample().shape == (2, 3, 8, 8)
    assert torch.equal(adapter.decode(encoding.mean).kl, torch.zeros(2))


@pytest.mark.parametrize("num_flows", [0, 1])
@pytest.mark.parametrize("from_images", [True, False])
def test_residuals_replay_the_image(num_flows: int, from_images: bool, make_net: MakeNet) -> None:
    adapter = NVAEAdapter(make_net(num_flows=num_flows))
    encoding = adapter.encode(torch.rand(2, 3, 8, 8))
    first = adapter.decode(encoding.mean, encoding if from_images else None, temperature=0.8)
    assert len(first.residuals) == 2
    again = adapter.decode(encoding.mean, residuals=first.residuals)
    assert torch.allclose(first.mean, again.mean, atol=1e-6)
    other = adapter.decode(encoding.mean, temperature=0.8)
    assert not torch.allclose(first.mean, other.mean, atol=1e-4)


def test_single_group_has_no_deeper_latents(make_net: MakeNet) -> None:
    adapter = NVAEAdapter(make_net(num_scales=1, groups_per_scale=1))
    encoding = adapter.encode(torch.rand(2, 3, 8, 8))
    decoding = adapter.decode(encoding.mean, encoding)
    assert decoding.residuals == ()
    assert torch.equal(decoding.kl, torch.zeros(2))
    assert torch.equal(adapter.decode(encoding.mean, residuals=decoding.residuals).mean, decoding.mean)


def test_prior_draws(make_net: MakeNet) -> None:
    adapter = NVAEAdapter(make_net())
    draws = adapter.sample_latent(2000, seeded(0))
    assert draws.shape == (2000, 2, 2, 2)
    assert draws.std().item() == pytest.approx(1.01, abs=0.02)


def test_loads_files_and_folders(make_net: MakeNet, checkpoints: Path, tmp_path: Path) -> None:
    file = checkpoints / "cifar10-one_group-5bit.checkpoint.pt"
    adapter = NVAEAdapter.load(file)
    assert adapter.source == str(file)
    assert adapter.latent.shape == (4, 16, 16)
    make_net().save_pretrained(tmp_path)
    assert NVAEAdapter.load(str(tmp_path)).source == str(tmp_path)
    assert NVAEAdapter(make_net()).source is None
    with pytest.raises(CheckpointError, match="nowhere: no such file or folder; expected a folder"):
        NVAEAdapter.load(tmp_path / "nowhere")


def test_images_are_checked(make_net: MakeNet) -> None:
    adapter = NVAEAdapter(make_net())
    with pytest.raises(ShapeError, match=r"shape \(batch, 3, 8, 8\)"):
        adapter.encode(torch.rand(2, 1, 8, 8))
    with pytest.raises(ShapeError, match="range"):
        adapter.encode(torch.rand(2, 3, 8, 8) * 255)


def test_lora_adapts_what_decodes_in_one_group_and_with_flows():
    channels = {"latent_channels": 2, "encoder_channels": 4, "decoder_channels": 4}
    cells = {"preprocess_cells": 1, "postprocess_cells": 1, "encoder_cells": 1, "decoder_cells": 1}
    options = {"image_size": 8, "likelihood": "bernoulli", "ops": "res_mbconv", **channels, **cells}
    single = adapt(NVAE(NVAEConfig(num_scales=1, groups_per_scale=1, **options)))
    assert "net.stem_decoder" in decoder_layers(single)
    flows = adapt(NVAE(NVAEConfig(num_scales=2, groups_per_scale=1, num_flows=1, **options)).eval())
    names = decoder_layers(flows)
    assert any(name.startswith("net.nf_cells.1.") for name in names)
    assert not any(name.startswith("net.nf_cells.0.") for name in names)
    model = wrap_decoder(flows, ["a"], noise_width=4, concept_width=3).add_lora()
    for name, parameter in model.base.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    # masks outlast LoRA: no value of the latent at a pixel depends on a later pixel
    z = torch.randn(1, 2, 4, 4, requires_grad=True)
    model.base.net.nf_cells[1].cell1(z)[0, :, 1, 1].sum().backward()
    assert (z.grad[0, :, 2:] == 0).all()
    assert (z.grad[0, :, 0] != 0).any()
