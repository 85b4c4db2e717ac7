"""Tiny bases at random, of every family; heavy imports wait for the tests that need them."""

import torch
from torch import nn

from context_module.adapters.lightweight import LightweightVAE
from context_module.adapters.modules import ModulesAdapter
from context_module.adapters.nvae import NVAE, NVAEConfig


def tiny_modules():
    encoder = [nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, 2, 1)]
    decoder = [nn.ConvTranspose2d(2, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1)]
    return ModulesAdapter(nn.Sequential(*encoder), nn.Sequential(*decoder), (2, 2, 2), (1, 8, 8), scale=2.0, shift=0.1)


def tiny_nvae():
    channels = {"latent_channels": 2, "encoder_channels": 4, "decoder_channels": 4}
    cells = {"preprocess_cells": 1, "postprocess_cells": 1, "encoder_cells": 1, "decoder_cells": 1}
    config = NVAEConfig(
        image_size=8, likelihood="bernoulli", num_scales=2, groups_per_scale=1, ops="res_bnelu", **channels, **cells
    )
    return NVAE(config)


def tiny_autoencoder(name="AutoencoderKL", **config):
    """A diffusers autoencoder for 3 x 8 x 8 images, around latents of 4 x 4 (of 2 x 2: AutoencoderRAE)."""
    import diffusers  # seconds, for the tests that need it

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    widths, tiny = {"block_out_channels": (4, 8), "norm_num_groups": 2}, {"latent_channels": 2, "sample_size": 8}
    video = {"block_out_channels": (4, 8), "norm_num_groups": 2, "latent_channels": 2, "layers_per_block": 1}
    wan = {"base_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [False], "z_dim": 2}
    wan |= {"latents_mean": [0.1, -0.2], "latents_std": [0.5, 2.0]}
    both = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "latent_channels": 2}
    mine = {
        "AutoencoderKL": {**blocks, **widths, **tiny},
        "AsymmetricAutoencoderKL": {
            **blocks,
            **tiny,
            "down_block_out_channels": (4, 8),
            "up_block_out_channels": (8, 8),
            "norm_num_groups": 2,
        },
        "AutoencoderKLTemporalDecoder": {  # its decoder has groups of 32 channels
            **tiny,
            "block_out_channels": (32, 32),
            "down_block_types": blocks["down_block_types"],
            "layers_per_block": 2,  # with one, its attention would not run
        },
        "AutoencoderKLCogVideoX": {
            **video,
            "down_block_types": ("CogVideoXDownBlock3D",) * 2,
            "up_block_types": ("CogVideoXUpBlock3D",) * 2,
            "temporal_compression_ratio": 2,
            **dict.fromkeys(("sample_height", "sample_width"), 8),
        },
        "AutoencoderKLHunyuanVideo": {
            **video,
            "down_block_types": ("HunyuanVideoDownBlock3D",) * 2,
            "up_block_types": ("HunyuanVideoUpBlock3D",) * 2,
            "spatial_compression_ratio": 2,
        },
        "AutoencoderKLWan": wan,
        "AutoencoderKLQwenImage": wan,
        "AutoencoderKLFlux2": {**blocks, **widths, **tiny},
        "AutoencoderTiny": {**both, "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)},
        "AutoencoderDC": {
            **both,
            **dict.fromkeys(("encoder_layers_per_block", "decoder_layers_per_block"), (1, 1)),
            **dict.fromkeys(("encoder_qkv_multiscales", "decoder_qkv_multiscales"), ((), ())),
        },
        "AutoencoderRAE": {
            "encoder_type": "mae",
            "encoder_hidden_size": 64,  # one head's
            "encoder_num_hidden_layers": 1,
            **dict.fromkeys(("encoder_patch_size", "patch_size"), 4),
            "encoder_input_size": 8,
            **dict.fromkeys(("decoder_hidden_size", "decoder_intermediate_size"), 16),
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
        },
        "VQModel": {**blocks, **widths, **tiny, "num_vq_embeddings": 16, "vq_embed_dim": 3},
        "ConsistencyDecoderVAE": {
            "sample_size": 8,
            "encoder_block_out_channels": (4, 8),
            "encoder_down_block_types": blocks["down_block_types"],
            "encoder_layers_per_block": 1,
            "encoder_norm_num_groups": 2,
            "decoder_block_out_channels": (8, 8),
            "decoder_down_block_types": ("ResnetDownsampleBlock2D",) * 2,
            "decoder_up_block_types": ("ResnetUpsampleBlock2D",) * 2,
            "decoder_layers_per_block": 1,
            "decoder_norm_num_groups": 2,
        },
    }[name]
    return getattr(diffusers, name)(**{**mine, **config}).eval()


def tiny_diffusers(name, sample_size=None, **config):
    from context_module.adapters.diffusers import DiffusersAdapter

    return DiffusersAdapter(tiny_autoencoder(name, **config), sample_size=sample_size)


def tiny_denoiser(autoencoder=False):
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    from context_module.adapters.denoiser import DenoiserAdapter, SemanticEncoder

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "layers_per_block": 1}
    sizes = {"block_out_channels": (4,), "norm_num_groups": 2, "attention_head_dim": 4, "sample_size": 8}
    net = UNet2DModel(**blocks, **sizes, class_embed_type="identity")
    scheduler = DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    encoder = SemanticEncoder((3, 8, 8), 16) if autoencoder else None
    base = DenoiserAdapter(DDIMPipeline(unet=net, scheduler=scheduler), num_inference_steps=2, encoder=encoder)
    if autoencoder:
        base.fit_density(torch.rand(8, 3, 8, 8))
    return base


def tiny_image_encoder(**config):
    """CLIP's image encoder, for images of 12 x 12."""
    import transformers

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {**sizes, "image_size": 12, "patch_size": 4, "projection_dim": 6, **config}
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**config)).eval()


def tiny_image_variation(**parts):
    """A pipeline of image variation, for 3 x 8 x 8 images whose latents are 2 x 4 x 4."""
    import transformers
    from diffusers import DDIMScheduler, StableDiffusionImageVariationPipeline, UNet2DConditionModel

    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    sizes = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 2, "attention_head_dim": 4}
    config = {**blocks, **sizes, "sample_size": 4, "in_channels": 2, "out_channels": 2, "cross_attention_dim": 6}
    mine = {
        "unet": UNet2DConditionModel(**config).eval(),
        "vae": tiny_autoencoder("AutoencoderKL", scaling_factor=0.5),
        "image_encoder": tiny_image_encoder(),
        "feature_extractor": transformers.CLIPImageProcessor(size={"shortest_edge": 12}, image_mean=[0.4, 0.5, 0.6]),
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1, timestep_spacing="trailing"),
    }
    unused = {"safety_checker": None, "requires_safety_checker": False}
    return StableDiffusionImageVariationPipeline(**{**mine, **parts}, **unused)


def tiny_image_variation_adapter():
    from context_module.adapters.denoiser import DenoiserAdapter

    return DenoiserAdapter(tiny_image_variation(), num_inference_steps=2)


def tiny_flux(transformer=None, scheduler=None, **parts):
    """A FluxPipeline without text, for 3 x 8 x 8 images whose 2 x 4 x 4 latents are packed to 4 tokens of 8 values."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    layers = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
    widths = {"in_channels": 8, "joint_attention_dim": 8, "pooled_projection_dim": 8, "axes_dims_rope": (2, 2, 4)}
    text = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2")}
    pipeline = FluxPipeline(
        transformer=FluxTransformer2DModel(**{**layers, **widths, **(transformer or {})}).eval(),
        vae=tiny_autoencoder("AutoencoderKL", scaling_factor=0.5, shift_factor=0.1),
        scheduler=FlowMatchEulerDiscreteScheduler(**(scheduler or {})),
        **{**text, **parts},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_flux_adapter():
    from context_module.adapters.denoiser import DenoiserAdapter

    return DenoiserAdapter(tiny_flux(), num_inference_steps=2, sample_size=8)


def tiny_dit(**transformer):
    """A DiTPipeline for 3 x 8 x 8 images, whose denoiser gives variances, too."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    sizes = {
        "num_layers": 2,
        "attention_head_dim": 4,
        "num_attention_heads": 2,
        "sample_size": 4,
        "norm_num_groups": 2,
    }
    net = DiTTransformer2DModel(**{**sizes, "in_channels": 2, "out_channels": 4, **transformer}).eval()
    vae = tiny_autoencoder("AutoencoderKL", scaling_factor=0.5)
    pipeline = DiTPipeline(net, vae, DDIMScheduler(clip_sample=False, timestep_spacing="trailing"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_dit_adapter():
    from context_module.adapters.denoiser import DenoiserAdapter

    return DenoiserAdapter(tiny_dit(), num_inference_steps=2)


def tiny_encoder(seed=0, kind="BertModel"):
    """An encoder of transformers that reads letters, and its tokenizer."""
    import tokenizers
    import transformers

    torch.manual_seed(seed)
    letters = "abcdefghijklmnopqrstuvwxyz."
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    reader = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    reader.normalizer = tokenizers.normalizers.BertNormalizer()
    reader.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    reader.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=reader, pad_token="[PAD]", unk_token="[UNK]")
    sizes = {"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)
    return getattr(transformers, kind)(config).eval(), tokenizer


# the base of every adapter -> what a user passes as the base; a new one gets all generic tests by a row here
TINY_BASES = {
    "denoiser": tiny_denoiser,
    "denoiser of a diffusion autoencoder": lambda: tiny_denoiser(autoencoder=True),
    "denoiser of image variation": tiny_image_variation_adapter,
    "denoiser of classes, DiT": tiny_dit_adapter,
    "denoiser of packed latents, Flux": tiny_flux_adapter,
    "diffusers": lambda: tiny_autoencoder("AutoencoderKL", scaling_factor=0.5, shift_factor=0.1),
    "diffusers AsymmetricAutoencoderKL": lambda: tiny_diffusers("AsymmetricAutoencoderKL"),
    "diffusers AutoencoderKLTemporalDecoder": lambda: tiny_diffusers("AutoencoderKLTemporalDecoder"),
    "diffusers AutoencoderKLCogVideoX": lambda: tiny_diffusers("AutoencoderKLCogVideoX"),
    "diffusers AutoencoderKLHunyuanVideo": lambda: tiny_diffusers("AutoencoderKLHunyuanVideo", 8),
    "diffusers AutoencoderKLWan": lambda: tiny_diffusers("AutoencoderKLWan", 8),
    "diffusers AutoencoderKLQwenImage": lambda: tiny_diffusers("AutoencoderKLQwenImage", 8),
    "diffusers AutoencoderKLFlux2": lambda: tiny_autoencoder("AutoencoderKLFlux2"),
    "diffusers AutoencoderTiny": lambda: tiny_diffusers("AutoencoderTiny", 8),
    "diffusers AutoencoderDC": lambda: tiny_diffusers("AutoencoderDC", 8, scaling_factor=0.4),
    # its encoder comes frozen
    "diffusers AutoencoderRAE": lambda: tiny_autoencoder("AutoencoderRAE").requires_grad_(),
    "diffusers VQModel": lambda: tiny_diffusers("VQModel"),
    "diffusers ConsistencyDecoderVAE": lambda: tiny_diffusers("ConsistencyDecoderVAE"),
    "lightweight": lambda: LightweightVAE("conv3"),
    "modules": tiny_modules,
    "nvae": tiny_nvae,
}
# one base per family with embeddings of images, for what does not depend on the class within it
FAMILIES = ("diffusers", "lightweight", "modules", "nvae")
