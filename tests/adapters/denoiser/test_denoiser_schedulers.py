"""Generation and inversion with the schedulers of diffusers."""

import pytest
import torch
from denoiser_models import some_latents

from context_module.adapters.contract import Encoding
from context_module.adapters.denoiser.schedule import NoiseSchedule
from helpers.draws import seeded
from helpers.models import wrapped_at_random


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers, numpy 2
@pytest.mark.parametrize(
    ("scheduler", "deterministic"),
    [
        ("DDIMScheduler", True),
        ("DPMSolverMultistepScheduler", True),
        ("EulerDiscreteScheduler", True),
        ("DDPMScheduler", False),
        ("EulerAncestralDiscreteScheduler", False),
    ],
)
@torch.no_grad()
def test_any_scheduler_and_its_noise_is_replayed(scheduler, deterministic, pixels, x):
    base = pixels(scheduler=scheduler)
    latents = some_latents(base)
    decoding = base.decode(latents, generator=seeded())
    assert decoding.mean.isfinite().all()
    assert 0 <= decoding.mean.min() <= decoding.mean.max() <= 1
    assert torch.equal(decoding.mean, base.decode(latents, generator=seeded()).mean)
    assert torch.equal(decoding.mean, base.decode(latents, residuals=decoding.residuals).mean)
    assert not torch.equal(decoding.mean, base.decode(latents, generator=seeded(1)).mean)
    explained = base.decode(latents, base.encode(x))
    if deterministic:
        assert explained.residuals[0].shape == (4, 3, 8, 8)
    else:
        with pytest.raises(ValueError, match=f"a {scheduler} adds noise at every step.*DDIMScheduler.from_config"):
            explained.residuals  # noqa: B018


@torch.no_grad()
def test_more_steps_run_the_denoiser_more_often(pixels):
    base, calls = pixels(), []
    base.net.register_forward_hook(lambda *_: calls.append(1))
    for base.num_inference_steps in (2, 5):
        calls.clear()
        decoding = base.decode(some_latents(base))
        assert not calls  # nothing runs before it is asked for
        assert decoding.mean is decoding.mean
        assert len(calls) == base.num_inference_steps


@torch.no_grad()
def test_inversion_leads_back_to_the_images(pixels, unet, diffusers, x):
    net = unet()
    net.conv_out.weight.mul_(0.3)  # a denoiser at random changes faster than one that denoises
    for spacing in ("leading", "trailing"):
        base = pixels(net, steps=10, timestep_spacing=spacing)
        latents = some_latents(base)
        decoding = base.decode(latents, base.encode(x))
        torch.testing.assert_close(decoding.mean, x, atol=2e-3, rtol=0)
        # and to others for another decoder input
        other = base.decode(-latents, residuals=decoding.residuals).mean
        assert (other - x).abs().max() > 0.05


@torch.no_grad()
def test_inversion_of_every_prediction_type(diffusers, pixels):
    """With the denoiser of Gaussian data it is the linear map that it should be."""
    spread, data = 0.5, 0.5 * torch.randn(4, 3, 8, 8, generator=seeded())
    for prediction in ("epsilon", "v_prediction", "sample"):
        base = pixels(steps=50, prediction_type=prediction, timestep_spacing="trailing")
        schedule = base.schedule

        def know(z, timestep, latent, schedule=schedule):
            level = timestep.long()
            alpha, sigma = (values[level].reshape(-1, 1, 1, 1) for values in (schedule.alphas, schedule.sigmas))
            best = alpha * spread**2 * z / ((alpha * spread) ** 2 + sigma**2)
            return schedule.target(best, (z - alpha * best) / sigma, level)

        base.denoise, base.images = know, lambda data: data
        encoding = Encoding(data.flatten(1), data, states=(data, data))
        decoding = base.decode(torch.zeros(4, 16), encoding)
        assert decoding.residuals[0].std().item() == pytest.approx(1, abs=0.15), prediction
        torch.testing.assert_close(decoding.mean, data, atol=0.1 if prediction == "sample" else 0.01, rtol=0)


@torch.no_grad()
def test_counterfactuals_keep_the_noise(pixels, unet, x):
    net = unet()
    net.conv_out.weight.mul_(0.3)
    model = wrapped_at_random(pixels(net, steps=10))
    behind = model.abduct(x, "a")
    torch.testing.assert_close(model.generate(noise=behind, do="a"), x, atol=5e-3, rtol=0)
    changed = model.generate(noise=behind, do="b")
    assert torch.equal(changed, model.generate(noise=behind, do="b"))
    assert not torch.allclose(changed, x, atol=0.02)


def test_schedulers_it_does_not_take(diffusers, pixels):
    with pytest.raises(TypeError, match="no noise levels known of a EDMEulerScheduler: supported are schedulers with"):
        NoiseSchedule(diffusers.EDMEulerScheduler())
    with pytest.raises(ValueError, match="shifts its noise levels with the images' size"):
        NoiseSchedule(diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    with pytest.raises(ValueError, match="prediction_type 'velocity'; supported: epsilon, sample, v_prediction"):
        NoiseSchedule(diffusers.DDIMScheduler(prediction_type="velocity"))
