"""The training loss: annealing, balancing, regularisers, and the plain bound."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from context_module.adapters.nvae import NVAE, NVAEObjective
from context_module.adapters.nvae.layers import WeightNormConv2d
from context_module.adapters.nvae.objective import SpectralNorms

MakeNet = Callable[..., NVAE]


def test_eval_is_the_plain_bound(make_net: MakeNet) -> None:
    objective = NVAEObjective(make_net()).eval()
    out = objective({"x": torch.rand(2, 3, 8, 8)}, progress=0.0)
    assert list(out) == ["loss", "neg_log_likelihood", "kl", "kl_group_0", "kl_group_1", "kl_group_2"]
    assert all(value.shape == (2,) for value in out.values())
    assert torch.allclose(out["loss"], out["neg_log_likelihood"] + out["kl"])
    assert torch.allclose(out["kl"], out["kl_group_0"] + out["kl_group_1"] + out["kl_group_2"])


@pytest.mark.parametrize(("progress", "coefficient"), [(0.0, 1e-4), (0.15, 0.5), (0.3, 1.0), (1.0, 1.0)])
def test_annealing_and_balance(progress: float, coefficient: float, make_net: MakeNet) -> None:
    objective = NVAEObjective(make_net(), spectral_weight=0.0).train()
    out = objective({"x": torch.rand(4, 3, 8, 8)}, progress)
    kl = torch.stack([out[f"kl_group_{group}"] for group in range(3)])
    weights = torch.ones(3)
    if coefficient < 1:
        # one group of 2 x 2 latents, then two of 4 x 4
        weights = (kl.abs().mean(1) + 0.01) / torch.tensor([4 / 1, 16 / 2, 16 / 2])
        weights = weights / weights.mean()
    expected = out["neg_log_likelihood"] + coefficient * (weights[:, None] * kl).sum(0)
    assert torch.allclose(out["loss"], expected)


def test_regularisers(make_net: MakeNet) -> None:
    net = make_net(ops="res_mbconv", num_flows=1)
    expected = torch.zeros(())
    for layer in net.modules():
        if isinstance(layer, WeightNormConv2d):
            expected += torch.linalg.matrix_norm(layer.effective_weight().flatten(1), ord=2)
        elif isinstance(layer, nn.Conv2d):
            expected += torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
    norms = SpectralNorms(net)
    total = torch.stack([norms() for _ in range(10)])[-1]
    assert total.item() == pytest.approx(expected.item(), rel=0.01)

    scales = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    with torch.no_grad():
        scales[0].weight[1] = -3.0
    objective = NVAEObjective(net, spectral_weight=0.5).train()
    with torch.no_grad():
        out = objective({"x": torch.rand(2, 3, 8, 8)}, progress=1.0)
    penalty = out["loss"] - out["neg_log_likelihood"] - out["kl"]
    assert penalty.mean().item() == pytest.approx(0.5 * (expected.item() + len(scales) - 1 + 3), rel=0.02)


def test_spectral_norm_has_the_gradient_of_a_norm() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3)
    norms = SpectralNorms(nn.ModuleList([conv]))
    for _ in range(20):
        norms()
    norms().backward()
    assert conv.weight.grad is not None
    u, _, v = torch.linalg.svd(conv.weight.detach().flatten(1), full_matrices=False)
    assert torch.allclose(conv.weight.grad.flatten(1), u[:, :1] @ v[:1], atol=1e-3)


def test_what_is_saved_is_the_network_and_the_power_iterations(make_net: MakeNet) -> None:
    net = make_net()
    others = set(NVAEObjective(net).state_dict()) - {f"net.{key}" for key in net.state_dict()}
    assert others
    assert all(key.startswith("spectral_norms.u_") for key in others)


def test_training_lowers_the_loss(make_net: MakeNet) -> None:
    objective = NVAEObjective(make_net()).train()
    optimizer = torch.optim.Adamax(objective.parameters(), lr=1e-2)
    x = torch.rand(8, 3, 1, 1).expand(-1, -1, 8, 8)
    losses = []
    for _ in range(30):
        loss = objective({"x": x}, progress=1.0)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 10
