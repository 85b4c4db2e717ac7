"""Pipelines of diffusers as bases: where the decoder input goes, training, files, and what is refused.

The tests of every family run on a pixel one, too (tests/helpers/bases.py).
"""

import copy
import json
import sys

import pytest
import torch
from denoiser_models import some_latents

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters.denoiser import DenoiserAdapter
from context_module.adapters.registry import adapt
from context_module.base.fingerprint import fingerprint
from context_module.errors import CheckpointError, LoraError, ShapeError
from helpers.draws import seeded
from helpers.files import edit_json, edit_tensors
from helpers.models import wrapped_at_random
from helpers.tensors import same

WEIGHTS = "diffusion_pytorch_model.safetensors"
TEXT = {"prompt": "a cat", "tokens": 2, "num_inference_steps": 2}


# where the decoder input goes


@torch.no_grad()
def test_zero_leaves_an_unconditional_denoiser_as_it_is(unet, pixels, diffusers):
    plain, net = unet(class_embed_type=None), unet()
    assert same(plain.state_dict(), net.state_dict())
    base = pixels(net)
    assert base.latent.shape == (16,)
    assert not base.sample_latent(2).any()
    made = base.decode(base.sample_latent(2), generator=seeded()).mean
    pipeline = diffusers.DDIMPipeline(plain, base.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(batch_size=2, generator=seeded(), num_inference_steps=3, output_type="np").images
    torch.testing.assert_close(made, torch.from_numpy(expected).permute(0, 3, 1, 2))
    assert not torch.allclose(made, base.decode(some_latents(base, 2), generator=seeded()).mean, atol=1e-3)


@torch.no_grad()
def test_tokens_follow_those_of_the_prompt(text_pipeline, x):
    base = DenoiserAdapter(text_pipeline(), **TEXT)
    assert base.latent.shape == (2, 8)
    assert base.image_shape == (3, 8, 8)
    assert base.num_features == 2 * 4 * 4
    read = []
    base.net.register_forward_pre_hook(
        lambda net, args, options: read.append(options["encoder_hidden_states"]), with_kwargs=True
    )
    base.decode(some_latents(base), generator=seeded()).log_prob(x)
    (tokens,) = read
    tokenizer, text_encoder = base.pipeline.tokenizer, base.pipeline.text_encoder

    def embedded(prompt):
        return text_encoder(torch.tensor([tokenizer(prompt, padding="max_length").input_ids]))[0][0]

    torch.testing.assert_close(tokens[:, :8], embedded("a cat").expand(4, -1, -1))
    torch.testing.assert_close(tokens[:, 8:], some_latents(base) + embedded("")[-2:])
    assert not torch.allclose(embedded("a cat"), embedded(""))


@torch.no_grad()
def test_concepts_compose_on_top_of_another_prompt(text_pipeline):
    model = wrapped_at_random(DenoiserAdapter(text_pipeline(), **TEXT))
    made = {}
    for prompt in ("a cat", "a dog", "a cat"):
        model.base.set_prompt(prompt)
        for do in ("obs", "a", "a+b"):
            images = model.generate(2, do=do, generator=seeded())
            assert torch.equal(images, made.setdefault((prompt, do), images))
    for first, one in made.items():
        assert all(not torch.allclose(one, other, atol=1e-4) for second, other in made.items() if first != second)
    assert model.base.options["prompt"] == "a cat"


def test_tokens_alone_without_a_text_encoder(text_pipeline, x):
    base = DenoiserAdapter(text_pipeline(text_encoder=None, tokenizer=None), tokens=3)
    assert base.latent.shape == (3, 8)
    assert torch.equal(base.conditioning.neutral, torch.zeros(3, 8))
    latents = some_latents(base).requires_grad_()
    base.decode(latents).log_prob(x).sum().backward()
    assert latents.grad.abs().sum() > 0
    with pytest.raises(
        ValueError, match=r"StableDiffusionPipeline has no text encoder: leave out the prompt \('a cat'"
    ):
        base.set_prompt("a cat")


@torch.no_grad()
def test_guidance_goes_away_from_the_neutral_input_and_the_empty_prompt(text_pipeline):
    base = DenoiserAdapter(text_pipeline(), prompt="a cat", tokens=2, num_inference_steps=1)
    latents, made = some_latents(base), {}
    z, timestep = torch.randn(4, 2, 4, 4, generator=seeded()), torch.full((4,), 501)
    output = base.denoise(z, timestep, latents)
    neutral = base.denoise(z, timestep, 0 * latents, prompted=False)
    base.set_prompt("")
    torch.testing.assert_close(neutral, base.denoise(z, timestep, 0 * latents))
    base.set_prompt("a cat")
    for base.guidance_scale in (1.0, 3.0):
        decoding = base.decode(latents, generator=seeded())
        expected = neutral + base.guidance_scale * (output - neutral)
        torch.testing.assert_close(decoding._guided(z, timestep[0]), expected)
        made[base.guidance_scale] = decoding.mean
    assert not torch.allclose(made[1.0], made[3.0], atol=1e-4)


def flow_base(diffusers, vae):
    sizes = {"num_layers": 1, "attention_head_dim": 4, "num_attention_heads": 2, "pooled_projection_dim": 6}
    channels = {"in_channels": 2, "out_channels": 2, "joint_attention_dim": 8, "caption_projection_dim": 8}
    net = diffusers.SD3Transformer2DModel(sample_size=4, patch_size=1, **sizes, **channels)
    text = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.StableDiffusion3Pipeline(transformer=net, scheduler=scheduler, vae=vae, **text)


def caption_base(diffusers, vae):
    sizes = {"num_layers": 1, "attention_head_dim": 4, "num_attention_heads": 2, "cross_attention_dim": 8}
    channels = {"in_channels": 2, "out_channels": 4, "caption_channels": 8}  # it gives variances, too
    norm = {"norm_type": "ada_norm_single", "num_embeds_ada_norm": 1000}
    net = diffusers.PixArtTransformer2DModel(sample_size=4, patch_size=1, **sizes, **channels, **norm)
    scheduler = diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)
    return diffusers.PixArtAlphaPipeline(None, None, vae, net, scheduler)


@pytest.mark.parametrize("build", [flow_base, caption_base])
def test_transformers(build, diffusers, text_parts, x):
    torch.manual_seed(0)
    base = DenoiserAdapter(build(diffusers, copy.deepcopy(text_parts["vae"])), tokens=3, num_inference_steps=2)
    assert base.latent.shape == (3, 8)
    model = wrapped_at_random(base)
    with torch.no_grad():  # such transformers start from zero modulation, and say nothing of their tokens
        for parameter in base.net.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=seeded()))
    out = model(x, ["obs", "a", "b", "a+b"], generator=seeded())
    out.loss.mean().backward()
    assert out.loss.isfinite().all()
    assert model.module.inversion.linear.weight.grad.abs().sum() > 0
    one, other = (model.generate(2, do=do, generator=seeded()) for do in ("a", "b"))
    assert one.shape == (2, 3, 8, 8)
    assert not torch.allclose(one, other, atol=1e-4)
    assert model.generate(noise=model.abduct(x), do="a").isfinite().all()


# training


def test_a_frozen_pipeline_stays_and_the_loss_falls(text_pipeline, x):
    model = wrapped_at_random(DenoiserAdapter(text_pipeline(), **TEXT)).train()
    pipeline = model.base.pipeline
    before = {name: copy.deepcopy(getattr(pipeline, name)) for name in ("unet", "vae", "text_encoder")}
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], 3e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(x, ["obs", "a", "b", "a"], generator=seeded()).loss.mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(same(getattr(pipeline, name).state_dict(), copied.state_dict()) for name, copied in before.items())


def test_lora_adapts_the_denoiser_alone(text_pipeline, x):
    pytest.importorskip("peft")
    model = wrapped_at_random(DenoiserAdapter(text_pipeline(), **TEXT)).add_lora(rank=2)
    assert all(name.startswith("net.") for name in model.lora.target_modules)
    assert any("attn2.to_k" in name for name in model.lora.target_modules)
    model(x, "a").loss.mean().backward()
    trained = [name for name, parameter in model.base.named_parameters() if parameter.grad is not None]
    assert trained
    assert all(".lora_" in name for name in trained)
    with pytest.raises(LoraError, match="LoRA already"):
        wrapped_at_random(adapt(model.base.pipeline))


# files


@pytest.fixture
def folder(pixels, tmp_path):
    pixels(steps=2).save(tmp_path / "base")
    return tmp_path / "base"


@torch.no_grad()
def test_saves_and_loads_bit_for_bit(folder, pixels):
    base = DenoiserAdapter.load(folder, num_inference_steps=2)
    assert base.source == str(folder)
    assert not base.net.training
    assert fingerprint(base) == fingerprint(pixels())
    expected = pixels(steps=2).decode(some_latents(base), generator=seeded()).mean
    assert torch.equal(base.decode(some_latents(base), generator=seeded()).mean, expected)
    torch.nn.init.normal_(base.net.conv_in.bias)
    base.save(folder)  # over the old one
    assert sorted(path.name for path in folder.iterdir()) == ["model_index.json", "scheduler", "unet"]
    assert same(DenoiserAdapter.load(folder).net.state_dict(), base.net.state_dict())


def test_a_text_pipeline_and_its_options_come_back_with_the_module(text_pipeline, tmp_path, x):
    DenoiserAdapter(text_pipeline(), **TEXT).save(tmp_path / "base")
    model = wrapped_at_random(DenoiserAdapter.load(tmp_path / "base", **TEXT))
    model.save_pretrained(tmp_path / "module")
    config = json.loads((tmp_path / "module" / "adapter_config.json").read_text())
    assert config["base_options"] == {**TEXT, "guidance_scale": 1.0}
    again = ContextualDecoder.from_pretrained(tmp_path / "module")
    for do in ("obs", "a+b"):
        assert torch.equal(model.generate(2, do=do, generator=seeded()), again.generate(2, do=do, generator=seeded()))


SPOILED = {
    "nothing": (lambda d: (d / "model_index.json").unlink(), "base is neither a folder written by .* nor a Hub id"),
    "no weights": (lambda d: (d / "unet" / WEIGHTS).unlink(), f"base is neither a folder written by .*{WEIGHTS}"),
    "truncated": (lambda d: (d / "unet" / WEIGHTS).write_bytes(b"123"), "base is neither a folder written by"),
    "no scheduler": (lambda d: (d / "scheduler" / "scheduler_config.json").unlink(), "base is neither a folder"),
    "another class": (
        lambda d: edit_json(d / "model_index.json", unet=["diffusers", "AuraFlowTransformer2DModel"]),
        "base holds a denoiser AuraFlowTransformer2DModel; supported: UNet2DModel, UNet2DConditionModel, PixArt",
    ),
    "missing tensor": (
        lambda d: edit_tensors(d / "unet" / WEIGHTS, lambda t: t.pop("conv_in.bias")),
        "unet of .*base does not fit .*missing.*conv_in.bias",
    ),
    "unexpected tensor": (
        lambda d: edit_tensors(d / "unet" / WEIGHTS, lambda t: t.update(wings=torch.ones(2))),
        "unet of .*base does not fit .*unexpected.*wings",
    ),
    "a pickle": (
        lambda d: torch.save((d / "unet" / WEIGHTS).unlink(), d / "unet" / "diffusion_pytorch_model.bin"),
        "base is neither a folder written by",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_refuses_a_spoiled_folder(case, folder):
    spoil, message = SPOILED[case]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        DenoiserAdapter.load(folder)


def test_every_autoencoder_that_is_a_base_serves(diffusers, text_pipeline):
    base = adapt(text_pipeline(vae=diffusers.AutoencoderTiny(latent_channels=2)))
    assert (base.data_shape, base.image_shape) == ((2, 4, 4), (3, 32, 32))
    latent = some_latents(base, 1)
    assert base.decode(latent, generator=seeded()).mean.shape == (1, 3, 32, 32)
    assert base.decode(latent, generator=seeded()).log_prob(torch.rand(1, 3, 32, 32)).isfinite().all()


# what is refused


def test_denoisers_it_does_not_take(diffusers, unet, text_pipeline):
    scheduler = diffusers.DDIMScheduler()
    blocks = {"num_mmdit_layers": 1, "num_single_dit_layers": 0, "num_attention_heads": 1, "attention_head_dim": 4}
    transformer = diffusers.AuraFlowTransformer2DModel(**blocks, caption_projection_dim=4, joint_attention_dim=4)
    cases = [
        (
            diffusers.AuraFlowPipeline(None, None, None, transformer, scheduler),
            TypeError,
            "of the class AuraFlowTransformer2DModel; supported",
        ),
        (diffusers.DDIMPipeline(unet(class_embed_type=None, num_class_embeds=5), scheduler), ValueError, "embeds 5"),
        (diffusers.DDIMPipeline(unet(sample_size=None), scheduler), ShapeError, "does not say the size of its images"),
        (text_pipeline({"in_channels": 3}), ShapeError, "takes 3 channels, the autoencoder's latents have 2"),
        (
            text_pipeline({"class_embed_type": "timestep"}),
            ValueError,
            "asks for more than tokens .*class_embed_type.*timestep",
        ),
        (
            text_pipeline({"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}),
            ValueError,
            "no place for a decoder input: none of its blocks has cross-attention",
        ),
        (
            text_pipeline({"cross_attention_dim": 16}),
            ShapeError,
            "4 virtual tokens of width 16 do not go with a prompt",
        ),
        (unet(), TypeError, "a UNet2DModel alone does not say how noisy its data is: give the pipeline"),
    ]
    for pipeline, error, message in cases:
        with pytest.raises(error, match=message):
            wrap_decoder(pipeline, ["a"])


def test_a_prompt_where_there_is_no_text(pixels):
    with pytest.raises(ValueError, match="the denoiser of this DDPMPipeline reads no text, so it takes no prompt"):
        pixels().set_prompt("a cat")


def test_fresh_refuses_sizes_it_cannot_halve():
    with pytest.raises(ValueError, match="sides that divide by 4, got 30x32: set --resolution"):
        DenoiserAdapter.fresh((3, 30, 32))


def test_without_diffusers(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for use in (lambda: DenoiserAdapter.load(tmp_path), lambda: DenoiserAdapter.fresh((3, 8, 8))):
        with pytest.raises(ImportError, match=r"needs diffusers: pip install context-module\[diffusers\]"):
            use()
