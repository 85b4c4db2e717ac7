"""Likelihoods that more than one base uses."""

import math

import pytest
import torch

from context_module.adapters.likelihoods import DiscretisedLogistic, DiscretisedLogisticLikelihood
from helpers.draws import seeded


@pytest.mark.parametrize("scale", [1e-3, 0.03, 2.0])
@pytest.mark.parametrize("mean", [-0.4, 0.0, 0.3137, 1.0, 1.7])
def test_probabilities_of_the_256_values_sum_to_one(mean, scale):
    values = (torch.arange(256) / 255).reshape(256, 1, 1, 1)
    likelihood = DiscretisedLogisticLikelihood(torch.full_like(values, mean), torch.tensor(scale))
    log_prob = likelihood.log_prob(values)
    assert log_prob.isfinite().all()
    torch.testing.assert_close(log_prob.double().exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-4)


def test_log_prob_is_the_mass_of_the_bin():
    mean, scale, x = 0.2, 0.05, 60 / 255

    def below(value):
        return 1 / (1 + math.exp(-(value - mean) / scale))

    expected = math.log(below(x + 0.5 / 255) - below(x - 0.5 / 255))
    likelihood = DiscretisedLogisticLikelihood(torch.full((2, 3, 4, 5), mean), torch.tensor(scale))
    found = likelihood.log_prob(torch.full((2, 3, 4, 5), x))
    torch.testing.assert_close(found, torch.full((2,), 60 * expected), rtol=1e-5, atol=1e-3)


def test_draws_are_of_the_256_values():
    likelihood = DiscretisedLogistic(0.05)(torch.full((20, 1, 30, 30), 0.4))
    draws = [likelihood.sample(seeded(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal((draws[0] * 255).round() / 255, draws[0])
    assert abs(draws[0].mean().item() - 0.4) < 5e-3
    assert abs(draws[0].std().item() - 0.05 * math.pi / math.sqrt(3)) < 5e-3
    likelihood = DiscretisedLogistic(0.5)(torch.tensor([[[[-3.0, 0.5, 3.0]]]]))
    assert likelihood.mean.flatten().tolist() == [0, 0.5, 1]
    assert likelihood.sample().aminmax().min >= 0
