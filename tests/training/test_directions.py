"""Directions of the latent space: as pictures show them, and its own."""

import pytest
import torch
from torch import nn

from context_module.adapters.modules import ModulesAdapter
from context_module.data import ArrayContextDataset
from context_module.training.encodings import encode_dataset
from context_module.training.objectives.directions import Directions, decoder_sketch
from helpers.draws import seeded

SIZE = 12


def linear_base(weight):
    """Embeddings are the pixels; logits are a linear map of them, small enough for a straight sigmoid."""
    decoder = nn.Linear(SIZE, SIZE, bias=False)
    with torch.no_grad():
        decoder.weight.copy_(weight)
    decoder = nn.Sequential(nn.Flatten(), decoder, nn.Unflatten(1, (1, 3, 4)))
    return ModulesAdapter(nn.Flatten(), decoder, (SIZE,), (1, 3, 4))


def encoded(base, n=400):
    generator = seeded(0)
    images = torch.randint(0, 256, (n, *base.image_shape), dtype=torch.uint8, generator=generator)
    return encode_dataset(base, ArrayContextDataset(images, torch.zeros(n), ["obs"], ["a"]), progress=False)


def test_they_span_what_a_linear_decoder_shows():
    weight = torch.zeros(SIZE, SIZE)
    weight[:, :3] = 0.1 * torch.randn(SIZE, 3, generator=seeded(1))
    base = linear_base(weight)
    directions, explained = decoder_sketch(base, encoded(base))
    assert explained > 0.99
    assert directions.shape[0] == SIZE
    assert directions[3:].norm() < 0.02 * directions[:3].norm()
    found, true = directions @ directions.T, weight.T @ weight  # random combinations have this covariance
    torch.testing.assert_close(found / found.norm(), true / true.norm(), atol=0.15, rtol=0)


def test_random_combinations_have_unit_variance_on_the_encodings(make_base, family):
    from context_module import adapt

    base = adapt(make_base(family))
    encodings = encoded(base, n=40)
    directions, explained = decoder_sketch(base, encodings)
    mean = encodings.batch(torch.arange(len(encodings)))["mean"].flatten(1)
    mixed = directions @ torch.randn(directions.shape[1], 2000, generator=seeded(0))
    assert (mean @ mixed).var(0).mean().item() == pytest.approx(1, rel=0.2)
    again, same = decoder_sketch(base, encodings)
    assert torch.equal(directions, again)
    assert 0 <= explained == same <= 1
    assert not torch.equal(directions, decoder_sketch(base, encodings, seed=1)[0])


def test_they_leave_the_random_state_alone(make_base):
    from context_module import adapt

    base = adapt(make_base("lightweight"))
    encodings = encoded(base, n=40)
    state = torch.get_rng_state()
    decoder_sketch(base, encodings)
    assert torch.equal(state, torch.get_rng_state())


def test_a_decoder_that_shows_nothing_is_no_division_by_zero():
    base = linear_base(torch.zeros(SIZE, SIZE))
    directions, explained = decoder_sketch(base, encoded(base))
    assert directions.isfinite().all()
    assert explained == 0


def test_a_decoder_that_is_not_linear_is_not_explained():
    class Folded(nn.Module):
        def forward(self, latent):
            return 9 * (latent - 0.5).abs().view(-1, 1, 3, 4)

    base = ModulesAdapter(nn.Flatten(), Folded(), (SIZE,), (1, 3, 4))
    assert decoder_sketch(base, encoded(base, n=2000))[1] < 0.05


@pytest.mark.parametrize("matrix", [torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.0, -1.0]]), torch.tensor([1.0, 0.3])])
def test_random_directions_combine_the_columns_of_a_matrix_or_a_diagonal(matrix):
    generator = seeded(0)
    directions, latents = Directions(matrix), torch.randn(5, 2, generator=generator)
    columns = matrix if matrix.ndim == 2 else torch.diag(matrix)
    covariance = columns @ columns.T
    torch.testing.assert_close(directions.energy(latents), torch.einsum("bi,ij,bj->b", latents, covariance, latents))
    drawn = directions.random(200_000, generator)
    torch.testing.assert_close(drawn @ drawn.T / 200_000, covariance, atol=0.05, rtol=0.05)
    assert torch.equal(*(directions.random(2, seeded(1)) for _ in range(2)))
