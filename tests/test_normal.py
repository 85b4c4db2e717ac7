"""Random draws."""

import pytest
import torch

from context_module.normal import derived_generator, draw_normal, draw_uniform
from helpers.draws import seeded


@pytest.mark.parametrize("draw", [draw_normal, draw_uniform])
def test_reproducible_float32_of_the_shape(draw):
    like = torch.empty(100, 50, dtype=torch.bfloat16)
    state = torch.get_rng_state()
    one, same, other = (draw(like, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.shape == like.shape
    assert one.dtype == torch.float32
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.manual_seed(0)
    assert torch.equal(draw(like), one)


def test_moments():
    generator, like = seeded(0), torch.empty(100_000)
    normal, uniform = draw_normal(like, generator), draw_uniform(like, generator)
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert normal.std().item() == pytest.approx(1, abs=0.02)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)


def test_draws_where_the_generator_is():
    like = torch.empty(2, 3, device="meta")
    assert draw_normal(like, torch.Generator()).device.type == "meta"  # drawn on the CPU, then moved


def test_derived_generators_leave_theirs_alone():
    generator = seeded(0)

    def draw(name):
        return torch.randn(3, generator=derived_generator(generator, name)).tolist()

    state, first = generator.get_state(), draw("smile")
    assert torch.equal(generator.get_state(), state)
    assert draw("smile") == first != draw("age")
    assert torch.randn(3, generator=generator).tolist() != first
    assert draw("smile") != first  # it has moved on
    generator.manual_seed(0)
    assert draw("smile") == first
    torch.manual_seed(0)
    assert torch.randn(3, generator=derived_generator(None, "smile")).tolist() == first
