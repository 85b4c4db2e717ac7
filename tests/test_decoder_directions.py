"""Directions of the latent space as pictures show them."""

import pytest
import torch
from torch import nn

from context_module.adapters.modules import ModulesAdapter
from context_module.data import ArrayContextDataset
from context_module.decoder_directions import decoder_directions
from context_module.encodings import encode_dataset

SIZE = 12


def linear_base(weight):
    """Embeddings are the pixels; logits are a linear map of them, small enough for a straight sigmoid."""
    decoder = nn.Linear(SIZE, SIZE, bias=False)
    with torch.no_grad():
        decoder.weight.copy_(weight)
    decoder = nn.Sequential(nn.Flatten(), decoder, nn.Unflatten(1, (1, 3, 4)))
    return ModulesAdapter(nn.Flatten(), decoder, (SIZE,), (1, 3, 4))


def encoded(base, n=400):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, *base.image_shape), dtype=torch.uint8, generator=generator)
    return encode_dataset(base, ArrayContextDataset(images, torch.zeros(n), ["obs"], ["a"]), progress=False)


def test_they_span_what_a_linear_decoder_shows():
    weight = torch.zeros(SIZE, SIZE)
    weight[:, :3] = 0.1 * torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(1))
    base = linear_base(weight)
    directions = decoder_directions(base, encoded(base))
    assert directions.shape[0] == SIZE
    assert directions[3:].norm() < 0.02 * directions[:3].norm()
    found, true = directions @ directions.T, weight.T @ weight  # random combinations have this covariance
    torch.testing.assert_close(found / found.norm(), true / true.norm(), atol=0.15, rtol=0)


@pytest.mark.parametrize("family", ["diffusers", "lightweight", "modules", "nvae"])  # a denoiser has no embeddings
def test_random_combinations_have_unit_variance_on_the_encodings(make_base, family):
    from context_module import adapt

    base = adapt(make_base(family))
    encodings = encoded(base, n=40)
    directions = decoder_directions(base, encodings)
    mean = encodings.batch(torch.arange(len(encodings)))["mean"].flatten(1)
    mixed = directions @ torch.randn(directions.shape[1], 2000, generator=torch.Generator().manual_seed(0))
    assert (mean @ mixed).var(0).mean().item() == pytest.approx(1, rel=0.2)
    assert torch.equal(directions, decoder_directions(base, encodings))
    assert not torch.equal(directions, decoder_directions(base, encodings, seed=1))


def test_they_leave_the_random_state_alone(make_base):
    from context_module import adapt

    base = adapt(make_base("lightweight"))
    encodings = encoded(base, n=40)
    state = torch.get_rng_state()
    decoder_directions(base, encodings)
    assert torch.equal(state, torch.get_rng_state())


def test_a_decoder_that_shows_nothing_is_no_division_by_zero():
    base = linear_base(torch.zeros(SIZE, SIZE))
    assert decoder_directions(base, encoded(base)).isfinite().all()
