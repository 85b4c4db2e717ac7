"""Two ways to the values of a linear structural equation model: they agree, and one of them is fast."""

import pytest
import torch

from context_module.nn import ContextModule, ContextModuleConfig, equations
from context_module.nn.equations import iterated, solved

BLOCKS, WIDTH, ROWS = 12, 3, 64


def problem(cyclic: bool, strengths: str):
    """Exogenous values, bias, strengths and effects; an acyclic model's are in another order than its blocks."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    allowed = torch.ones(BLOCKS, BLOCKS).triu(1)
    order = torch.randperm(BLOCKS, generator=generator)
    allowed = 1 - torch.eye(BLOCKS) if cyclic else allowed[order][:, order]
    spread = 0.05 if cyclic else 0.3
    effects = spread * draw(BLOCKS * WIDTH, BLOCKS * WIDTH) * allowed.kron(torch.ones(WIDTH, WIDTH))
    some = torch.rand(ROWS, BLOCKS, generator=generator)
    few = some < 0.5
    beyond = torch.where(some < 0.25, -some, 1 + some)
    mask = {"none": 0.0 * some, "several": (some < 0.3).float(), "shares": some * few, "beyond": beyond * few}
    return draw(ROWS, BLOCKS * WIDTH), draw(BLOCKS * WIDTH), mask[strengths], effects.requires_grad_()


@pytest.mark.parametrize("strengths", ["none", "several", "shares", "beyond"])
@pytest.mark.parametrize("cyclic", [False, True])
def test_solved_is_what_iterations_come_to(cyclic, strengths):
    exogenous, bias, mask, effects = problem(cyclic, strengths)
    found, expected = (way(exogenous, bias, mask, effects) for way in (solved, iterated))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(values.square().sum(), effects)[0] for values in (found, expected)]
    among = effects != 0  # of an edge that would close a cycle, iterations see a part of the effect only
    torch.testing.assert_close(*(gradient[among] for gradient in gradients), rtol=1e-4, atol=1e-3)


def test_each_row_solves_the_equations():
    exogenous, bias, mask, effects = problem(True, "shares")
    values = solved(exogenous, bias, mask, effects)
    uncut = 1 - mask.repeat_interleave(WIDTH, dim=1)
    torch.testing.assert_close(values, exogenous + bias + uncut * (values @ effects), rtol=1e-4, atol=1e-4)


def test_rows_in_parts_are_rows(monkeypatch):
    problem_ = problem(False, "several")
    whole = solved(*problem_)
    monkeypatch.setattr(equations, "_CELLS", 1)
    torch.testing.assert_close(solved(*problem_), whole)


def test_no_rows():
    exogenous, bias, mask, effects = problem(False, "several")
    assert solved(exogenous[:0], bias, mask[:0], effects).shape == (0, BLOCKS * WIDTH)


def test_half_precision():
    exogenous, bias, mask, effects = problem(False, "several")
    expected = solved(exogenous, bias, mask, effects)
    with torch.autocast("cpu", torch.bfloat16):
        found = solved(exogenous.bfloat16(), bias, mask, effects)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


def test_an_equilibrium_that_is_not_there_is_not_finite():
    exogenous, bias, mask = torch.ones(1, 2), torch.zeros(2), torch.zeros(1, 2)
    assert not solved(exogenous, bias, mask, torch.tensor([[0.0, 1.0], [1.0, 0.0]])).isfinite().all()


def test_a_module_of_many_concepts_cuts_causes_off(monkeypatch):
    """The same weights, on both ways; what is set keeps its value whatever its causes are."""
    names = tuple(f"c{k}" for k in range(30))
    torch.manual_seed(0)
    config = ContextModuleConfig(
        concepts=names, latent_shape=(8,), num_features=8, noise_width=4, concept_width=2, form="structural"
    )
    module = ContextModule(config)
    noise, mask = module.sample_noise(5), torch.zeros(5, 30, dtype=torch.bool)
    mask[:, 3] = True
    calls = []
    monkeypatch.setattr("context_module.nn.layers.solved", lambda *a: calls.append(1) or solved(*a))
    concepts = module.concepts(noise, mask)
    assert calls
    own = module.exogenous(noise, mask) + module.intervention.bias.unflatten(0, (-1, 2))
    torch.testing.assert_close(concepts[:, 3], own[:, 3], rtol=1e-4, atol=1e-5)
    assert (concepts[:, 4] - own[:, 4]).abs().max() > 1e-4
