"""The overlap term: what interventional values are to observational ones."""

import functools

import pytest
import torch

from context_module.training.objectives.overlap import overlap
from helpers.models import small_module

make_module = functools.partial(small_module, ("a", "b"))


def measured(module, samples=4096, seed=0):
    torch.manual_seed(seed)
    return overlap(module, samples)


def test_an_intervention_without_an_effect_on_the_concept_costs_nothing():
    module = make_module(free_blocks=1)
    torch.nn.init.zeros_(module.intervention.effects)
    assert measured(module).abs() < 0.01  # interventional weights start as copies
    with torch.no_grad():
        module.embedding.interventional.bias[1] += 2
    assert measured(module) > 0.5


def gaussian(module, mean, deviation):
    """A module of two concepts, of two standard normal values each, and interventional ones of these moments."""

    def exogenous(noise, mask):
        values = noise.unflatten(1, (2, 3))[..., :2]
        return torch.where(mask[..., None], mean + deviation * values, values)

    module.exogenous = exogenous
    torch.nn.init.zeros_(module.intervention.effects)
    return module


def test_it_is_the_log_of_the_divergence_of_gaussians_summed_over_the_concepts():
    mean, deviation = torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.tensor([[1.0, 2.0], [0.5, 1.0]])
    expected = (0.5 * (deviation.square() + mean.square() - 1).sum(1) - deviation.log().sum(1)).log1p().sum()
    found = measured(gaussian(make_module(), mean, deviation), 100_000)
    assert found.item() == pytest.approx(expected.item(), rel=0.02)


def test_what_causes_add_counts_as_observational():
    """Values that a concept takes from its causes are values that it takes."""
    module = gaussian(make_module(), torch.tensor([[0.0, 0.0], [3.0, 3.0]]), torch.ones(2, 2))
    alone = measured(module)
    with torch.no_grad():
        module.intervention.effects[:2, 2:] = 2 * torch.eye(2)  # a -> b spreads b
    assert measured(module).expm1() < 0.5 * alone.expm1()


def test_it_does_not_depend_on_the_coordinates_of_values():
    module = make_module()
    with torch.no_grad():
        module.embedding.interventional.bias.normal_()
        before = measured(module)
        turned = torch.tensor([[3.0, 1.0], [-1.0, 0.5]])
        both = torch.block_diag(turned, turned)
        module.embedding.register_forward_hook(lambda _, args, out: out @ turned)
        module.intervention.effects.copy_(torch.linalg.solve(both, module.intervention.effects) @ both)
        module.intervention.bias.copy_(module.intervention.bias @ both)
    assert measured(module).item() == pytest.approx(before.item(), rel=0.01)


def test_a_concept_that_never_varies_and_none_at_all():
    module = make_module()
    torch.nn.init.zeros_(module.embedding.observational.weight)
    torch.nn.init.zeros_(module.intervention.effects)
    assert measured(module).isfinite()
    assert measured(small_module((), free_blocks=1)) == 0


def test_it_trains_both_mechanisms_and_stays_in_single_precision():
    module = make_module()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = measured(module, 64)
    assert loss.dtype == torch.float32
    loss.backward()
    for weight in (module.embedding.interventional.weight, module.embedding.observational.weight):
        assert weight.grad.abs().sum() > 0
    assert module.inversion.linear.weight.grad is None
