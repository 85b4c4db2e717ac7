"""FluxPipeline and DiTPipeline as bases, held against what the pipelines themselves make of the same.

The tests of every family run on both, too (tests/helpers/bases.py).
"""

import copy

import pytest
import torch
from denoiser_models import some_latents

from context_module.adapters.denoiser import DenoiserAdapter
from context_module.errors import ShapeError
from helpers.draws import seeded
from helpers.models import wrapped_at_random

LOADED_AS = {
    "transformer": {"guidance_embeds": True},
    "scheduler": {"shift": 3.0, "use_dynamic_shifting": True},
}  # dev


def drawn(pipeline, noise, tokens, pooled, **options):
    """What a FluxPipeline makes of starting noise (B, 2, H, W)."""
    n, _, height, width = noise.shape
    return pipeline(
        prompt_embeds=tokens.expand(n, -1, -1),
        pooled_prompt_embeds=pooled.expand(n, -1),
        latents=pipeline._pack_latents(noise, n, 2, height, width),
        height=2 * height,
        width=2 * width,
        output_type="pt",
        **options,
    ).images


# Flux


@torch.no_grad()
@pytest.mark.parametrize("configs", [{}, {"scheduler": {"shift": 3.0}}, LOADED_AS], ids=["schnell", "shifted", "dev"])
def test_zero_is_the_pipeline_as_it_is(configs, flux):
    pipeline = flux(**configs)
    base = DenoiserAdapter(pipeline, tokens=3, num_inference_steps=3, sample_size=(8, 12))
    assert base.latent.shape == (3, 8)
    assert (base.image_shape, base.data_shape) == ((3, 8, 12), (2, 4, 6))
    scales = (1.0, 3.5) if pipeline.transformer.config.guidance_embeds else (1.0,)
    for base.guidance_scale in scales:
        decoding = base.decode(base.sample_latent(2), generator=seeded())
        options = {"num_inference_steps": 3, "guidance_scale": base.guidance_scale}
        expected = drawn(pipeline, decoding.residuals[0], torch.zeros(1, 3, 8), torch.zeros(1, 8), **options)
        torch.testing.assert_close(decoding.mean, expected)
    assert not torch.allclose(decoding.mean, base.decode(some_latents(base, 2), generator=seeded()).mean, atol=1e-3)


@pytest.fixture(scope="module")
def t5():
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("\u2581", -1.0), *((c, -2.0) for c in "acdegot")]
    sizes = {"vocab_size": len(vocabulary), "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    encoder = transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval()
    reader = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    reader.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    reader.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=reader, pad_token="<pad>", eos_token="</s>")
    return {"text_encoder_2": encoder, "tokenizer_2": tokenizer}


@pytest.fixture
def with_text(flux, text_parts, t5):
    """A FluxPipeline with CLIP's and T5's encoders."""
    clip = {name: copy.deepcopy(text_parts[name]) for name in ("text_encoder", "tokenizer")}
    return flux(**clip, **copy.deepcopy(t5))


@torch.no_grad()
def test_tokens_follow_those_of_t5(with_text):
    pipeline = with_text
    base = DenoiserAdapter(pipeline, prompt="a cat", tokens=2, num_inference_steps=2, sample_size=8)
    for prompt in ("a cat", "a dog"):
        base.set_prompt(prompt)
        (tokens, pooled, _), (empty, _, _) = (pipeline.encode_prompt(words) for words in (prompt, ""))
        decoding = base.decode(base.sample_latent(2), generator=seeded())
        read = torch.cat([tokens, empty[:, -2:]], dim=1)
        expected = drawn(pipeline, decoding.residuals[0], read, pooled, num_inference_steps=2)
        torch.testing.assert_close(decoding.mean, expected)
        other = drawn(pipeline, decoding.residuals[0], read, torch.zeros_like(pooled), num_inference_steps=2)
        assert not torch.allclose(other, expected, atol=1e-4)  # CLIP's embedding is read, too
    assert tokens.shape == (1, 512, 8)
    # and guidance goes away from the empty prompt
    base.guidance_scale = 3.0
    (_, pooled_empty, _), neutral = (
        pipeline.encode_prompt(""),
        torch.cat([empty, empty[:, -2:]], dim=1).expand(2, -1, -1),
    )
    negative = {"negative_prompt_embeds": neutral, "negative_pooled_prompt_embeds": pooled_empty.expand(2, -1)}
    made = base.decode(base.sample_latent(2), generator=seeded()).mean
    options = {"num_inference_steps": 2, "true_cfg_scale": 3.0, **negative}
    torch.testing.assert_close(made, drawn(pipeline, decoding.residuals[0], read, pooled, **options))
    assert not torch.allclose(made, expected, atol=1e-4)


def test_text_encoders_come_in_pairs(with_text, flux):
    parts = {name: getattr(with_text, name) for name in ("text_encoder", "tokenizer")}
    with pytest.raises(
        ValueError, match="this FluxPipeline has CLIP's text encoder without T5's .*: give both, or nei"
    ):
        DenoiserAdapter(flux(**parts), sample_size=8)
    with pytest.raises(ValueError, match=r"this FluxPipeline has no text encoder: leave out the prompt \('a cat'\)"):
        DenoiserAdapter(flux(), prompt="a cat", sample_size=8)


@torch.no_grad()
def test_guidance_is_told_to_those_distilled_from_it_and_the_bound_is_of_one(flux):
    base = DenoiserAdapter(flux(**LOADED_AS), num_inference_steps=2, guidance_scale=3.5, sample_size=8)
    told = []
    base.net.register_forward_pre_hook(lambda net, args, options: told.append(options["guidance"]), with_kwargs=True)
    decoding = base.decode(some_latents(base, 2), generator=seeded())
    decoding.log_prob(torch.rand(2, 3, 8, 8, generator=seeded()))
    assert [scale.tolist() for scale in told] == [[1.0, 1.0]]
    decoding.mean  # noqa: B018
    assert [scale.tolist() for scale in told[1:]] == [[3.5, 3.5]] * 2  # one evaluation a step


@torch.no_grad()
def test_inversion_leads_back_with_the_shift_of_the_size(flux):
    base = DenoiserAdapter(flux(**LOADED_AS), num_inference_steps=20, sample_size=8)
    assert base.pipeline.scheduler.config.use_dynamic_shifting  # as it is saved
    x = base.images(base.data(torch.rand(2, 3, 8, 8, generator=seeded(1))))
    explained = base.decode(some_latents(base, 2), base.encode(x))
    torch.testing.assert_close(explained.mean, base.images(base.data(x)), atol=5e-3, rtol=0)
    assert (base.decode(-some_latents(base, 2), residuals=explained.residuals).mean - x).abs().max() > 0.02


def test_the_size_is_an_option_and_stays_with_the_denoiser(flux, text_pipeline, unet, diffusers, tmp_path):
    base = DenoiserAdapter(flux())
    assert base.image_shape == (3, 256, 256)  # 128 latents, as the pipeline says
    base = DenoiserAdapter(flux(), sample_size=(8, 12))
    assert base.options["sample_size"] == (8, 12)
    base.save(tmp_path)
    assert DenoiserAdapter.load(tmp_path).image_shape == (3, 8, 12)
    base = DenoiserAdapter(text_pipeline(), sample_size=16)  # of a denoiser that has one
    assert (base.image_shape, base.net.config.sample_size) == ((3, 16, 16), 8)
    pixels = diffusers.DDIMPipeline(unet(sample_size=None), diffusers.DDIMScheduler())
    assert DenoiserAdapter(pixels, sample_size=8).image_shape == (3, 8, 8)


def test_sizes_that_do_not_divide(flux):
    with pytest.raises(ShapeError, match="FluxTransformer2DModel takes images with sides that divide by 4, got 10x10"):
        DenoiserAdapter(flux(), sample_size=10)
    pipeline = flux()
    pipeline.default_sample_size = 5
    with pytest.raises(ShapeError, match="divide by 4, got 10x10: give another sample_size"):
        DenoiserAdapter(pipeline)
    edits = flux(transformer={"in_channels": 12})  # reads another image's latents, too
    with pytest.raises(ShapeError, match="takes 3 channels, the autoencoder's latents have 2"):
        DenoiserAdapter(edits, sample_size=8)


# what transformers share


@torch.no_grad()
@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_shift_by_size_is_that_of_the_pipeline(kind, diffusers, autoencoder):
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "attention_head_dim": 4, "num_attention_heads": 2, "pooled_projection_dim": 6}
    channels = {"in_channels": 2, "out_channels": 2, "joint_attention_dim": 8, "caption_projection_dim": 8}
    net = diffusers.SD3Transformer2DModel(sample_size=4, patch_size=2, **sizes, **channels)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    vae = autoencoder(scaling_factor=0.5, shift_factor=0.1)
    pipeline = diffusers.StableDiffusion3Pipeline(net, scheduler, vae, *[None] * 6)
    pipeline.set_progress_bar_config(disable=True)
    base = DenoiserAdapter(pipeline, tokens=3, num_inference_steps=3)
    decoding = base.decode(base.sample_latent(2), generator=seeded())
    read = {"prompt_embeds": torch.zeros(2, 3, 8), "pooled_prompt_embeds": torch.zeros(2, 6)}
    sampling = {"num_inference_steps": 3, "guidance_scale": 1.0, "height": 8, "width": 8, "output_type": "pt"}
    expected = pipeline(latents=decoding.residuals[0], **read, **sampling).images
    torch.testing.assert_close(decoding.mean, expected)


# DiT


@torch.no_grad()
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_offsets_between_classes_are_classes(guidance_scale, dit):
    pipeline = dit(num_layers=1)
    base = DenoiserAdapter(pipeline, num_inference_steps=3, guidance_scale=guidance_scale)
    assert base.latent.shape == (8,)
    (embedder,) = (block.norm1.emb.class_embedder for block in base.net.transformer_blocks)
    table = embedder.embedding_table.weight
    for labels in ([1000, 1000], [4, 7]):  # the first is the null class: a decoder input of zero
        made = base.decode(table[labels] - table[1000], generator=seeded()).mean
        options = {"num_inference_steps": 3, "guidance_scale": guidance_scale, "output_type": "np"}
        expected = torch.from_numpy(pipeline(labels, generator=seeded(), **options).images)
        torch.testing.assert_close(made.movedim(1, -1), expected)


def test_every_block_reads_the_decoder_input_and_none_of_it_is_dropped(dit):
    """In training diffusers' denoiser drops labels at random."""
    model = wrapped_at_random(DenoiserAdapter(dit(), num_inference_steps=2))
    base = model.base
    z, timestep = torch.randn(64, 2, 4, 4, generator=seeded()), torch.full((64,), 500)
    latents = some_latents(base, 64)
    base.train()
    output = base.denoise(z, timestep, latents)
    torch.testing.assert_close(output, base.denoise(z, timestep, latents))
    read = []
    for block in base.net.transformer_blocks:
        block.norm1.emb.class_embedder.register_forward_hook(lambda embedder, _, output: read.append(output))
    again = copy.deepcopy(base)  # and a copy has embedders of its own
    base.denoise(z, timestep, latents)
    nulls = [block.norm1.emb.class_embedder.embedding_table.weight[1000] for block in base.net.transformer_blocks]
    for found, null in zip(read, [*nulls, nulls[0]], strict=True):  # its last layer asks the first block's
        torch.testing.assert_close(found, null + latents)
    with torch.no_grad():
        for block in again.net.transformer_blocks:
            block.norm1.emb.class_embedder.embedding_table.weight.add_(1)
    torch.testing.assert_close(base.denoise(z, timestep, latents), output)
    assert not torch.allclose(again.denoise(z, timestep, latents), output, atol=1e-3)
