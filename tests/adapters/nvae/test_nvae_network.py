"""Every variant builds, trains a step and reloads; draws, temperatures and precisions behave."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from context_module.adapters.nvae import NVAE, NVAEObjective
from context_module.adapters.nvae.config import OPS_PRESETS
from context_module.errors import ShapeError
from helpers.draws import seeded

MakeNet = Callable[..., NVAE]


@pytest.mark.parametrize("num_flows", [0, 1])
@pytest.mark.parametrize("ada_groups", [False, True])
@pytest.mark.parametrize("res_dist", [False, True])
@pytest.mark.parametrize("use_se", [False, True])
@pytest.mark.parametrize("ops", OPS_PRESETS)
def test_variant_trains_and_reloads(
    ops: str, use_se: bool, res_dist: bool, ada_groups: bool, num_flows: int, make_net: MakeNet, tmp_path: Path
) -> None:
    net = make_net(ops=ops, use_se=use_se, res_dist=res_dist, ada_groups=ada_groups, num_flows=num_flows)
    x = torch.rand(2, 3, 8, 8)
    objective = NVAEObjective(net).train()
    objective({"x": x}, progress=0.1)["loss"].mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    torch.optim.Adamax(net.parameters(), lr=1e-2).step()
    net.eval().save_pretrained(tmp_path)
    again = NVAE.from_pretrained(tmp_path)
    assert again.config == net.config
    assert not again.training
    with torch.no_grad():
        assert torch.equal(net(x, temperature=0).logits, again(x, temperature=0).logits)


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "logistic_mixture"])
@pytest.mark.parametrize("num_bits", [8, 5])
def test_single_group_and_likelihoods(likelihood: str, num_bits: int, make_net: MakeNet) -> None:
    net = make_net(likelihood=likelihood, num_bits=num_bits, num_scales=1, groups_per_scale=1, num_mixtures=2)
    x = torch.rand(2, 3, 8, 8)
    out = net(x)
    out.neg_log_likelihood.sum().backward()
    assert out.kl_per_group.shape == (1, 2)
    floored = torch.floor(x * 255 / 8) / 31 if num_bits == 5 else x
    assert torch.equal(net(floored, temperature=0).neg_log_likelihood, net(x, temperature=0).neg_log_likelihood)
    images = net.sample(3)
    assert images.shape == (3, 3, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1


def test_one_channel_and_other_sizes(make_net: MakeNet) -> None:
    net = make_net(in_channels=1, image_size=24, num_scales=3, num_blocks=1, decoder_channels=8)
    assert net.latent_shape == (2, 3, 3)
    assert net(torch.rand(2, 1, 24, 24)).logits.shape == (2, 1, 24, 24)


def test_temperature_and_seeds(make_net: MakeNet) -> None:
    net = make_net(num_flows=1)
    x = torch.rand(2, 3, 8, 8)

    def logits(temperature: float, seed: int) -> torch.Tensor:
        return net(x, temperature, seeded(seed)).logits

    def sampled(temperature: float, seed: int) -> torch.Tensor:
        return net.sample_logits(2, temperature, seeded(seed))

    for draw in (logits, sampled):
        assert torch.equal(draw(0, 1), draw(0, 2))
        assert torch.equal(draw(1, 1), draw(1, 1))
        assert not torch.equal(draw(1, 1), draw(1, 2))
        near, far = draw(1e-3, 1) - draw(0, 1), draw(1, 1) - draw(0, 1)
        assert near.abs().max() < 0.1 * far.abs().max()


def test_mean_prior_is_zero_latent(make_net: MakeNet) -> None:
    net = make_net()
    zeros = torch.zeros(2, *net.latent_shape)
    assert torch.equal(net.sample_logits(2, temperature=0), net.decode(zeros, temperature=0).logits)
    prior = net.first_prior(1)
    assert torch.equal(prior.mean, torch.zeros_like(prior.mean))
    assert torch.allclose(prior.sigma, torch.tensor(1.01))


def test_densities_are_untempered(make_net: MakeNet) -> None:
    net = make_net(num_scales=1, groups_per_scale=1)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(net(x, temperature=0).kl_per_group, net(x, temperature=1).kl_per_group)


@pytest.mark.parametrize("num_flows", [0, 1])
def test_kl_matches_monte_carlo(num_flows: int, make_net: MakeNet) -> None:
    net = make_net(num_flows=num_flows)
    x = torch.rand(1, 3, 8, 8).expand(2000, -1, -1, -1)
    with torch.no_grad():
        out = net(x, generator=seeded(0))
    gaps = out.log_q - out.log_p - out.kl_per_group.sum(0)
    if num_flows:  # the KL is this very draw's
        assert gaps.abs().max() < 1e-3
    else:
        assert gaps.mean().abs() < 4 * gaps.std() / 2000**0.5
        assert (out.kl_per_group >= 0).all()


@pytest.mark.filterwarnings("default")  # the compiler's own
def test_compiles_without_graph_breaks(make_net: MakeNet) -> None:
    net = make_net(num_flows=1)
    x = torch.rand(2, 3, 8, 8)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, 0.0).logits, net(x, 0.0).logits)


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "logistic_mixture"])
def test_low_precision_is_finite(likelihood: str, make_net: MakeNet) -> None:
    net = make_net(likelihood=likelihood, num_flows=1)
    x = torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
    assert out.logits.dtype == torch.bfloat16
    for value in (out.neg_log_likelihood, out.kl_per_group, out.log_q, out.log_p):
        assert value.dtype == torch.float32
        assert value.isfinite().all()
    assert net.bfloat16()(x).neg_log_likelihood.isfinite().all()


def test_decode_names_wrong_inputs(make_net: MakeNet) -> None:
    net = make_net()
    z0 = torch.zeros(1, *net.latent_shape)
    _, states = net.encode(torch.rand(1, 3, 8, 8))
    residuals = net.decode(z0).residuals
    with pytest.raises(ShapeError, match=r"expected latents of shape \(batch, 2, 2, 2\), got \(1, 3, 2, 2\)"):
        net.decode(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ShapeError, match="all 2 deeper latents or none, got 1"):
        net.decode(z0, residuals=residuals[:1])
    with pytest.raises(ShapeError, match="do not go with an encoding"):
        net.decode(z0, states, residuals)
    with pytest.raises(ShapeError, match="each of 2 deeper latents, got 1"):
        net.decode(z0, states[:1])
