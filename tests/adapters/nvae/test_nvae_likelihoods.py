"""The distributions against plain arithmetic."""

import math
from itertools import product

import pytest
import torch

from context_module.adapters.likelihoods import BernoulliLikelihood
from context_module.adapters.nvae.distributions import Normal
from context_module.adapters.nvae.likelihoods import (
    LogisticMixtureLikelihood,
    NormalLikelihood,
    QuantisedLikelihood,
    quantise,
)
from helpers.draws import seeded


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _mixture_log_prob(logits: list[float], pixel: list[float], mixtures: int, bits: int) -> float:
    """Log-probability of one pixel by the definition."""
    steps = 2**bits - 1
    v = [2 * value - 1 for value in pixel]
    weights = [math.exp(value) for value in logits[:mixtures]]
    total = 0.0
    for k in range(mixtures):

        def parameter(colour: int, kind: int, k: int = k) -> float:
            return logits[mixtures + colour * 3 * mixtures + kind * mixtures + k]

        c = [math.tanh(parameter(colour, 2)) for colour in range(3)]
        shift = [0, c[0] * v[0], c[1] * v[0] + c[2] * v[1]]
        probability = weights[k] / sum(weights)
        for colour in range(3):
            mean = parameter(colour, 0) + shift[colour]
            scale = math.exp(max(parameter(colour, 1), -7))
            upper = 1.0 if v[colour] > 0.99 else _sigmoid((v[colour] - mean + 1 / steps) / scale)
            lower = 0.0 if v[colour] < -0.999 else _sigmoid((v[colour] - mean - 1 / steps) / scale)
            probability *= upper - lower
        total += probability
    return math.log(total)


@pytest.mark.parametrize("bits", [8, 5])
def test_mixture_matches_definition(bits: int) -> None:
    torch.manual_seed(0)
    steps = 2**bits - 1
    logits = torch.randn(1, 30, 1, 1)
    likelihood = LogisticMixtureLikelihood(logits, 3, bits)
    for levels in ([0, steps, 1], [steps // 2, steps - 1, 3], [steps, 0, 0]):
        pixel = [level / steps for level in levels]
        ours = likelihood.log_prob(torch.tensor(pixel)[None, :, None, None]).item()
        assert ours == pytest.approx(_mixture_log_prob(logits.flatten().tolist(), pixel, 3, bits), abs=1e-3)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_mixture_sums_to_one(bits: int) -> None:
    torch.manual_seed(0)
    pixels = torch.tensor(list(product(range(2**bits), repeat=3))) / (2**bits - 1)
    logits = torch.randn(1, 30, 1, 1).expand(len(pixels), -1, -1, -1)
    total = LogisticMixtureLikelihood(logits, 3, bits).log_prob(pixels[:, :, None, None]).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_mixture_sums_to_one_over_256_values() -> None:
    # red alone varies; the others are certain to float precision, and red is away from the two brightest bins
    logits = torch.zeros(256, 10, 1, 1)
    logits[:, [1, 2, 4, 5, 7, 8]] = torch.tensor([-0.3, -2.5, -3.0, -7.0, -3.0, -7.0])[:, None, None]
    pixels = torch.zeros(256, 3, 1, 1)
    pixels[:, 0, 0, 0] = torch.arange(256) / 255
    total = LogisticMixtureLikelihood(logits, 1).log_prob(pixels).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_mixture_is_finite_far_from_its_means() -> None:
    logits = torch.zeros(1, 10, 2, 2, requires_grad=True)
    extreme = logits + torch.tensor([0, 50, -20, 0, -50, -20, 0, 50, -20, 0])[None, :, None, None]
    log_prob = LogisticMixtureLikelihood(extreme, 1).log_prob(torch.rand(1, 3, 2, 2))
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_mixture_samples_follow_the_mean() -> None:
    logits = torch.zeros(4000, 10, 1, 1)
    logits[:, [1, 4, 7]] = torch.tensor([0.3, -0.1, 0.2])[:, None, None]
    logits[:, [2, 5, 8]] = -5.0
    logits[:, [3, 6, 9]] = torch.tensor([0.5, -0.5, 0.4])[:, None, None]
    likelihood = LogisticMixtureLikelihood(logits, 1)
    draws = likelihood.sample(seeded(0))
    assert torch.allclose(draws.mean(0), likelihood.mean[0], atol=2e-3)
    c = [math.tanh(value) for value in (0.5, -0.5, 0.4)]
    green = -0.1 + c[0] * 0.3
    blue = 0.2 + c[1] * 0.3 + c[2] * green
    assert torch.allclose(likelihood.mean[0].flatten() * 2 - 1, torch.tensor([0.3, green, blue]), atol=1e-6)


def test_bernoulli() -> None:
    torch.manual_seed(0)
    logits, x = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    likelihood = BernoulliLikelihood(logits.bfloat16())
    p = logits.bfloat16().float().sigmoid()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2, 3))
    assert torch.allclose(likelihood.log_prob(x), expected, atol=1e-4)
    draws = BernoulliLikelihood(torch.tensor([-1.0, 2.0])[None, :, None, None].expand(9000, -1, -1, -1)).sample()
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(draws.mean(0).flatten(), torch.tensor([-1.0, 2.0]).sigmoid(), atol=0.03)


def test_normal_likelihood_is_a_density_of_signed_images() -> None:
    torch.manual_seed(0)
    logits, x = torch.randn(2, 6, 4, 4), torch.rand(2, 3, 4, 4)
    mean = 5 * torch.tanh(logits[:, :3] / 5)
    sigma = torch.exp(5 * torch.tanh(logits[:, 3:] / 5)) + 1e-2
    likelihood = NormalLikelihood(logits)
    expected = torch.distributions.Normal(mean, sigma).log_prob(2 * x - 1).sum((1, 2, 3))
    assert torch.allclose(likelihood.log_prob(x), expected, rtol=1e-5)
    assert torch.allclose(likelihood.mean, (mean.clamp(-1, 1) + 1) / 2)
    assert likelihood.sample().aminmax().min >= 0


def test_normal_kl_and_log_prob() -> None:
    torch.manual_seed(0)
    q, p = Normal.from_raw(4 * torch.randn(2, 6, 3, 3)), Normal.from_raw(4 * torch.randn(2, 6, 3, 3))
    theirs_q, theirs_p = torch.distributions.Normal(q.mean, q.sigma), torch.distributions.Normal(p.mean, p.sigma)
    assert torch.allclose(q.kl(p), torch.distributions.kl_divergence(theirs_q, theirs_p), rtol=1e-4, atol=1e-4)
    value = torch.randn(2, 3, 3, 3)
    assert torch.allclose(q.log_prob(value), theirs_q.log_prob(value), rtol=1e-4)
    assert torch.equal(q.kl(q), torch.zeros(2, 3, 3, 3))
    assert Normal.from_raw(torch.full((1, 2, 1, 1), 1e6)).mean.item() == 5


@pytest.mark.parametrize("bits", range(1, 8))
def test_quantise(bits: int) -> None:
    x = torch.arange(256) / 255
    floored = quantise(x, bits)
    assert torch.equal(floored, torch.arange(256).div(2 ** (8 - bits), rounding_mode="floor") / (2**bits - 1))
    assert torch.equal(quantise(floored, bits), floored)
    assert torch.equal(quantise(x, 8), x)
    logits = torch.randn(256, 1, 1, 1)
    inner = BernoulliLikelihood(logits)
    outer = QuantisedLikelihood(inner, bits)
    assert torch.equal(outer.log_prob(x[:, None, None, None]), inner.log_prob(floored[:, None, None, None]))
