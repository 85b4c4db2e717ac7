"""Tiny diffusion models, of pixels and of latents with text."""

import copy
import json

import pytest
import torch

from context_module.adapters.denoiser import DenoiserAdapter


@pytest.fixture
def unet(diffusers):
    """Builds a tiny UNet2DModel for 3 x 8 x 8 images."""

    def build(**config):
        torch.manual_seed(0)
        blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "layers_per_block": 1}
        sizes = {"block_out_channels": (4,), "norm_num_groups": 2, "attention_head_dim": 4, "sample_size": 8}
        return diffusers.UNet2DModel(**{**blocks, **sizes, "class_embed_type": "identity", **config}).eval()

    return build


@pytest.fixture
def pixels(diffusers, unet):
    """Builds the adapter around a pipeline of it."""

    def build(net=None, steps=3, scheduler="DDIMScheduler", **config):
        config = {"clip_sample": False, "prediction_type": "v_prediction", **config}
        scheduler = getattr(diffusers, scheduler).from_config(config)
        return DenoiserAdapter(diffusers.DDPMPipeline(net or unet(), scheduler), num_inference_steps=steps)

    return build


@pytest.fixture(scope="module")
def text_parts(diffusers, tmp_path_factory):
    """A tiny CLIP text encoder with its tokenizer, and an autoencoder: those of a text-to-image pipeline."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = [chr(code) for code in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = transformers.CLIPTextConfig(vocab_size=len(words), max_position_embeddings=8, **sizes, **ids)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = {"block_out_channels": (4, 8), "norm_num_groups": 2, "latent_channels": 2, "sample_size": 8}
    return {
        "text_encoder": transformers.CLIPTextModel(text).eval(),
        "tokenizer": transformers.CLIPTokenizer(
            str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8
        ),
        "vae": diffusers.AutoencoderKL(**blocks, **vae, scaling_factor=0.5).eval(),
    }


@pytest.fixture
def text_pipeline(diffusers, text_parts):
    """Builds a tiny latent diffusion pipeline with text, for 3 x 8 x 8 images."""

    def build(net=None, **parts):
        torch.manual_seed(1)
        blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
        sizes = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 2, "attention_head_dim": 4}
        config = {**blocks, **sizes, "sample_size": 4, "in_channels": 2, "out_channels": 2, "cross_attention_dim": 8}
        config |= net or {}
        scheduler = diffusers.DDIMScheduler(clip_sample=False, steps_offset=1, set_alpha_to_one=False)
        unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        parts = {**copy.deepcopy(text_parts), "scheduler": scheduler, **parts}
        return diffusers.StableDiffusionPipeline(
            unet=diffusers.UNet2DConditionModel(**config).eval(), **parts, **unused
        )

    return build
