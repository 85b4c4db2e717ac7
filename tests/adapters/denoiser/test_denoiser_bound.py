"""The bound on the likelihood of a diffusion model, and its noise levels."""

import math
from functools import partial

import pytest
import torch
from denoiser_models import some_latents

from context_module.adapters.contract import Encoding
from context_module.adapters.denoiser import DenoisingObjective
from context_module.adapters.denoiser.schedule import NoiseSchedule
from helpers.draws import seeded


def schedules(diffusers):
    for prediction in ("epsilon", "sample", "v_prediction"):
        yield NoiseSchedule(diffusers.DDIMScheduler(prediction_type=prediction))
    yield NoiseSchedule(diffusers.DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True))
    yield NoiseSchedule(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))


def test_estimates_of_every_prediction_type(diffusers):
    data, noise = torch.randn(2, 900, 1, 2, 2, generator=seeded())
    for schedule in schedules(diffusers):
        level = torch.arange(900)
        z = schedule.add_noise(data, noise, level)
        estimate = schedule.estimate(z, schedule.target(data, noise, level), level)
        torch.testing.assert_close(estimate, data, atol=1e-3, rtol=1e-3)


def test_levels_run_from_data_to_noise(diffusers):
    for schedule in schedules(diffusers):
        assert len(schedule.timesteps) == 1000
        assert schedule.alphas[0] > 0.99
        assert schedule.sigmas[-1] > 0.99
        assert (schedule.sigmas.diff() >= 0).all()
        assert schedule.weights.isfinite().all()
        levels = schedule.draw(torch.linspace(0, 1, 50001))
        assert levels.min() == 0
        assert levels.max() == 999


def test_the_bound_is_tight_for_a_denoiser_that_knows_the_distribution(diffusers, pixels):
    """Gaussian data, whose likelihood is known: in nats, and for every prediction type."""
    spread, n = 0.5, 1024
    base = pixels()
    base.vae = object()  # density instead of 256 values
    data = spread * torch.randn(n, 3, 8, 8, generator=seeded())
    encoding = Encoding(data.flatten(1), data, states=(torch.zeros(n), data))
    expected = -0.5 * 192 * (1 + math.log(2 * math.pi * spread**2))
    for schedule in schedules(diffusers):

        def know(z, timestep, latent, schedule=schedule):
            level = (timestep[:, None] - schedule.timesteps).abs().argmin(1)
            alpha, sigma = (values[level].reshape(-1, 1, 1, 1) for values in (schedule.alphas, schedule.sigmas))
            best = alpha * spread**2 * z / ((alpha * spread) ** 2 + sigma**2)
            return schedule.target(best, (z - alpha * best) / sigma, level)

        base.schedule, base.denoise = schedule, know
        found = base.decode(torch.zeros(n, 16), encoding, generator=seeded(4)).log_prob(torch.zeros(n)).mean().item()
        assert found == pytest.approx(expected, abs=0.02 * 192), schedule.prediction
    # without the levels of little noise it is looser by what they would tell, which here is known, too
    base.schedule = schedule = NoiseSchedule(diffusers.FlowMatchEulerDiscreteScheduler(), max_snr=1.0)
    levels = schedule.draw(torch.linspace(0, 1, 1001))
    assert levels.min() == schedule.first
    assert (schedule.alphas / schedule.sigmas)[levels].max() <= 1
    base.denoise = partial(know, schedule=schedule)
    found = base.decode(torch.zeros(n, 16), encoding, generator=seeded(4)).log_prob(torch.zeros(n)).mean().item()
    told = 0.5 * math.log1p(1 / spread**2)  # per dimension: noise as strong as one, around data of this spread
    assert found == pytest.approx(expected - 192 * told, abs=0.02 * 192)
    with pytest.raises(ValueError, match="max_snr 0.0 leaves no two noise levels"):
        NoiseSchedule(diffusers.DDIMScheduler(), max_snr=0.0)


@torch.no_grad()
def test_the_bound_is_of_images_and_the_same_at_every_call(pixels, x):
    base = pixels()
    decoding = base.decode(some_latents(base), base.encode(x), generator=seeded())
    found = decoding.log_prob(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, decoding.log_prob(x))
    assert torch.equal(found, base.decode(some_latents(base), generator=seeded()).log_prob(x))
    assert not torch.equal(found, base.decode(some_latents(base), generator=seeded(1)).log_prob(x))
    assert not torch.equal(found, decoding.log_prob(1 - x))  # others than were encoded
    # one level per image: none of them twice, as they are spread
    levels = base.schedule.draw(decoding.uniform)
    assert len(levels.unique()) == 4


def test_the_objective_trains_without_contexts(pixels, x):
    base = pixels()
    objective = DenoisingObjective(base).train()
    optimizer = torch.optim.Adam(objective.parameters(), 1e-3)
    losses = []
    for _ in range(10):
        torch.manual_seed(1)
        losses.append(objective({"x": x})["loss"].mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_the_objective_is_of_all_levels_alike(pixels, x):
    base, asked = pixels(), []

    def silent(z, timestep, latent):
        asked.append(timestep)
        return torch.zeros_like(z)

    base.denoise, x = silent, x[:1].expand(1000, -1, -1, -1)
    torch.manual_seed(0)
    loss = DenoisingObjective(base)({"x": x})["loss"]
    assert asked[0].sort().values.tolist() == list(range(1000))
    # the velocity that it is to say: the data at much noise, the noise, of variance one, at little
    data = (2 * x[:1] - 1).square().sum().item()
    torch.testing.assert_close(loss[asked[0] > 990].mean().item(), 0.5 * data, atol=10, rtol=0)
    torch.testing.assert_close(loss[asked[0] < 10].mean().item(), 0.5 * 192, atol=10, rtol=0)
