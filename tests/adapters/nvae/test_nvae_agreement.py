"""Checkpoints in the public format give the numbers the public code gives."""

from pathlib import Path

import pytest
import torch

from context_module.adapters.nvae import NVAE

NAMES = ("cifar10-one_group-5bit", "cifar10-res_mbconv", "mnist-res_bnelu-nf2", "mnist-res_mbconv")


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_reference(name: str, checkpoints: Path) -> None:
    expected = torch.load(checkpoints / f"{name}.expected.pt", weights_only=True)
    step = expected.pop("channel_step")  # of the logits, every step-th channel is kept in the file
    x = expected.pop("x")
    net = NVAE.from_checkpoint(checkpoints / f"{name}.checkpoint.pt")
    assert not net.training
    with torch.no_grad():
        out = net(x, temperature=0)
        sampled = net.sample_logits(len(x), temperature=0)
    ours = {
        "logits": out.logits[:, ::step],
        "sample_logits_mean": sampled[:, ::step],
        "neg_log_likelihood": out.neg_log_likelihood,
        "kl_per_group": out.kl_per_group,
        "log_q": out.log_q,
        "log_p": out.log_p,
    }
    assert ours.keys() == expected.keys()
    for key, reference in expected.items():
        assert ours[key].shape == reference.shape
        error = (ours[key] - reference).abs().max() / reference.abs().max()
        assert error < 1e-5, f"{key}: {error:.1e}"
