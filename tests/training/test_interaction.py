"""The interaction term: zero where blocks add up, and only there."""

import pytest
import torch
from torch import nn

from context_module.training.objectives.directions import Directions
from context_module.training.objectives.interaction import interaction
from helpers.models import small_module


def make_module(concepts=("a", "b", "c"), **options):
    module = small_module(concepts, **options)
    if module.inversion.residual is not None:  # it starts as the identity
        nn.init.normal_(module.inversion.residual[-1].weight)
    with torch.no_grad():
        module.embedding.interventional.bias.normal_()
    return module


def measured(module, own=(1.0,) * 5, seed=0, n=256):
    torch.manual_seed(seed)
    return interaction(module, n, Directions(torch.tensor(own)))


@pytest.mark.parametrize("free_blocks", [0, 2])
def test_it_is_zero_for_a_linear_inversion_and_not_for_a_curved_one(free_blocks):
    assert measured(make_module(free_blocks=free_blocks)) < 1e-10
    assert measured(make_module(free_blocks=free_blocks, inversion_width=8)) > 1e-5


def test_concepts_that_veto_one_another_count():
    module = make_module(("a", "b"))
    module.inversion.forward = lambda values: (values[:, :1] * values[:, 2:3]).expand(-1, 5)
    assert measured(module) > 1e-6
    module.inversion.forward = lambda values: (values[:, :1].exp() + values[:, 2:3].square()).expand(-1, 5)
    assert measured(module) < 1e-10


def test_a_concept_that_vetoes_the_free_blocks_counts():
    module = make_module(("a",), free_blocks=1)
    module.inversion.forward = lambda values: (values[:, :1] * values[:, 2:3]).expand(-1, 5)
    assert measured(module) > 1e-6


@pytest.mark.parametrize("module", [make_module(("a",)), make_module((), free_blocks=2)])
def test_with_a_single_part_there_is_no_interaction(module):
    assert measured(module) == 0


def test_only_what_the_directions_show_counts():
    module = make_module(inversion_width=8)
    with torch.no_grad():  # all curvature goes to the last two elements
        module.inversion.residual[-1].weight[:3], module.inversion.residual[-1].bias[:3] = 0, 0
    assert measured(module, (1.0, 1.0, 1.0, 0.0, 0.0)) < 1e-10 < measured(module)


def test_it_trains_the_inversion():
    module = make_module(inversion_width=8)
    measured(module).backward()
    assert module.inversion.residual[-1].weight.grad.abs().sum() > 0


def test_a_seed_repeats_it():
    module = make_module(free_blocks=1, inversion_width=8)
    assert measured(module, seed=1) == measured(module, seed=1) != measured(module, seed=2)
