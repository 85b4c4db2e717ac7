"""Pipelines as most of them come: unconditional, with learned variances, in peft models; and those not understood."""

import copy

import numpy as np
import pytest
import torch
from denoiser_models import some_latents
from torch import nn

from context_module import ContextualDecoder, adapt, wrap_decoder
from context_module.adapters.denoiser import DenoiserAdapter
from context_module.base.lora import foreign_lora
from context_module.errors import ShapeError
from helpers.draws import seeded
from helpers.models import wrapped_at_random


@pytest.fixture
def unconditional(diffusers, unet):
    """Builds a pipeline as diffusers makes them, of a denoiser that takes noisy data alone."""

    def build(kind="DDIMPipeline", scheduler="DDIMScheduler", net=None, **config):
        scheduler = getattr(diffusers, scheduler)(**config)
        pipeline = getattr(diffusers, kind)(net or unet(class_embed_type=None), scheduler)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return build


# -- unconditional


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "scheduler", "options"),
    [("DDIMPipeline", "DDIMScheduler", {"eta": 0.0}), ("DDPMPipeline", "DDPMScheduler", {})],
)
def test_without_decoder_input_images_are_those_of_the_pipeline(kind, scheduler, options, unconditional, monkeypatch):
    base = adapt(unconditional(kind, scheduler), num_inference_steps=3)
    assert base.latent.shape == (16,)
    noise = torch.randn(2, 3, 8, 8, generator=seeded())
    decoding = base.decode(base.sample_latent(2), residuals=(noise,))
    monkeypatch.setattr(
        f"diffusers.pipelines.{kind[:4].lower()}.pipeline_{kind[:4].lower()}.randn_tensor", first(noise)
    )
    if kind == "DDPMPipeline":  # noise of its steps is its generator's, ours that of the images: without either
        for module in (base.scheduler, base.pipeline.scheduler):
            monkeypatch.setattr(module, "_get_variance", lambda *_, **__: torch.zeros(()))
    drawn = base.pipeline(2, num_inference_steps=3, output_type="np", **options).images
    torch.testing.assert_close(decoding.mean, torch.from_numpy(drawn).permute(0, 3, 1, 2), atol=1e-5, rtol=1e-4)
    assert not np.allclose(base.decode(some_latents(base, 2), residuals=(noise,)).mean, decoding.mean, atol=1e-3)
    again = base.pipeline(2, num_inference_steps=3, output_type="np", **options).images  # as ever, afterwards
    assert np.array_equal(again, drawn)


def first(noise):
    return lambda *_, **__: noise.clone()


def test_the_decoder_input_is_added_to_the_timesteps_embedding(unet, unconditional):
    """Bit for bit what a denoiser of the same weights with an identity class embedding makes of it."""
    plain, identity = (adapt(unconditional(net=unet(class_embed_type=kind))) for kind in (None, "identity"))
    z, timestep = torch.randn(4, 3, 8, 8, generator=seeded()), torch.full((4,), 501)
    latent = some_latents(plain).requires_grad_()
    made = plain.denoise(z, timestep, latent)
    assert torch.equal(made, identity.denoise(z, timestep, latent))
    made.sum().backward()
    assert (latent.grad.abs().sum(1) > 0).all()
    assert not plain.net.time_embedding._forward_hooks


def test_it_is_saved_and_comes_back_from_its_folder(unconditional, tmp_path, x):
    unconditional().save_pretrained(tmp_path / "base")
    model = wrapped_at_random(DenoiserAdapter.load(tmp_path / "base", num_inference_steps=2))
    model(x, "a").loss.mean().backward()
    assert model.module.inversion.linear.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path / "module")
    again = ContextualDecoder.from_pretrained(tmp_path / "module")
    assert torch.equal(*(m.generate(2, do="a", generator=seeded()) for m in (model, again)))


# -- learned variances


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of DPM-Solver, before numpy 2
@pytest.mark.parametrize("learned", ["learned", "learned_range"])
@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_learned_variances_are_left_out(scheduler, learned, unet, unconditional, x):
    net = unet(class_embed_type=None, out_channels=6)
    halved = copy.deepcopy(net)
    halved.register_to_config(out_channels=3)
    halved.conv_out = nn.Conv2d(4, 3, 3, padding=1)
    halved.conv_out.weight.copy_(net.conv_out.weight[:3])
    halved.conv_out.bias.copy_(net.conv_out.bias[:3])
    kinds = {"variance_type": learned}, {}
    bases = [
        adapt(unconditional("DDPMPipeline", scheduler, net, **kind), num_inference_steps=3)
        for net, kind in zip((net, halved), kinds, strict=True)
    ]
    latent = some_latents(bases[0])
    decodings = [base.decode(latent, generator=seeded()) for base in bases]
    for one, other in (
        [decoding.mean for decoding in decodings],
        [decoding.log_prob(x) for decoding in decodings],
    ):
        torch.testing.assert_close(one, other)
    assert bases[0].pipeline.scheduler.config.variance_type == learned


# -- in a model of peft


def test_a_denoiser_in_a_peft_model(unet, unconditional, x):
    peft = pytest.importorskip("peft")
    net = unet(class_embed_type=None, down_block_types=("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",))
    tuned = peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["to_q", "to_k"]))
    pipeline = unconditional(net=net)
    pipeline.unet = tuned
    model = wrap_decoder(pipeline, ["a"], num_inference_steps=2)
    assert foreign_lora(model.base)
    assert model(x, "a").loss.isfinite().all()


# -- gradient checkpoints


@pytest.mark.parametrize("kind", ["unconditional", "identity", "text"])
def test_gradients_are_the_same_with_checkpoints(kind, unet, unconditional, text_pipeline, x):
    found = {}
    for checkpointed in (False, True):
        pipeline = text_pipeline() if kind == "text" else None
        if pipeline is None:
            pipeline = unconditional(net=unet(class_embed_type=None if kind == "unconditional" else kind))
        if checkpointed:
            pipeline.unet.enable_gradient_checkpointing()
        model = wrapped_at_random(adapt(pipeline, num_inference_steps=2)).unfreeze_base().train()
        loss = model(x, "a", generator=seeded()).loss.mean()
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found[checkpointed] = (loss.detach(), gradients)
        assert model.generate(2, do="a", generator=seeded()).isfinite().all()
    assert any(name.startswith("base.net.") or ".net." in name for name in found[True][1])
    torch.testing.assert_close(found[True], found[False], rtol=1e-4, atol=1e-5)


# -- what is not understood


def test_pipelines_that_are_not_understood_are_named(diffusers, unet, unconditional):
    plain = unet(class_embed_type=None)
    super_resolution = unet(class_embed_type=None, in_channels=6, out_channels=3)
    cases = [
        (
            diffusers.RePaintPipeline(plain, diffusers.RePaintScheduler()),
            "its RePaintScheduler asks for original_image",
        ),
        (unconditional(net=super_resolution), "the denoiser of this DDIMPipeline takes 6 channels and gives 3"),
        (
            diffusers.ConsistencyModelPipeline(plain, diffusers.CMStochasticIterativeScheduler()),
            "a ConsistencyModelPipeline is not supported: no noise levels known of a CMStochasticIterativeScheduler",
        ),
    ]
    for pipeline, message in cases:
        with pytest.raises((TypeError, ShapeError), match=message) as caught:
            wrap_decoder(pipeline, ["a"])
        assert type(pipeline).__name__ in str(caught.value)
        assert "\n" not in str(caught.value)
