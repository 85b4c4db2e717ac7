"""Any encoder and decoder as a base."""

import pytest
import torch
from torch import nn

from context_module.adapters.modules import ModulesAdapter
from context_module.errors import ShapeError
from helpers.draws import seeded

IMAGE = (1, 4, 4)


def toy(latent=3, image=IMAGE, **options):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, latent))
    decoder = nn.Sequential(nn.Linear(latent, 16), nn.Unflatten(1, image))
    return ModulesAdapter(encoder, decoder, (3,), IMAGE, **options)


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(
        ShapeError,
        match=r"encoder gives embeddings of shape \(2,\) for images of shape \(1, 4, 4\), not latent_shape=\(3,\)",
    ):
        toy(latent=2)
    with pytest.raises(ShapeError, match=r"decoder gives images of shape \(1, 2, 8\), not \(1, 4, 4\)"):
        toy(image=(1, 2, 8))


def test_networks_of_different_types_are_refused():
    decoder = nn.Sequential(nn.Linear(16, 16), nn.Unflatten(1, IMAGE)).bfloat16()
    with pytest.raises(
        ShapeError, match="mix parameters of torch.bfloat16 and torch.float32: convert them to one type"
    ):
        ModulesAdapter(nn.Sequential(nn.Flatten(), nn.Linear(16, 16)), decoder, (16,), IMAGE)


def test_building_leaves_no_trace():
    encoder = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten())
    decoder = nn.Unflatten(1, IMAGE)
    ModulesAdapter(encoder, decoder, (16,), IMAGE)
    assert encoder[0].num_batches_tracked == 0
    assert not encoder.training


@torch.no_grad()
def test_scale_and_shift():
    plain, scaled = toy(), toy(scale=4.0, shift=0.5)
    x = torch.rand(2, *IMAGE)
    raw = plain.encode(x).mean
    encoding = scaled.encode(x)
    assert torch.allclose(encoding.mean, (raw - 0.5) * 4)
    assert torch.equal(encoding.features, encoding.mean)
    assert encoding.log_var is None
    assert torch.allclose(scaled.latent.denormalise(encoding.mean), raw, atol=1e-6)
    decoding = scaled.decode(encoding.mean)
    assert torch.allclose(decoding.mean, plain.decode(raw).mean, atol=1e-6)
    assert torch.allclose(decoding.mean, scaled.decoder(raw).sigmoid(), atol=1e-6)
    assert torch.equal(decoding.kl, torch.zeros(2))


def test_features_of_an_embedding_with_axes_are_flat():
    adapter = ModulesAdapter(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), (1, 2, 2), IMAGE)
    encoding = adapter.encode(torch.rand(3, *IMAGE))
    assert encoding.mean.shape == (3, 1, 2, 2)
    assert encoding.features.shape == (3, adapter.num_features) == (3, 4)


def test_prior_draws():
    draws = toy(scale=4.0).sample_latent(2000, seeded(0))
    assert draws.shape == (2000, 3)
    assert draws.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(draws, toy().sample_latent(2000, seeded(0)))
