"""Diffusion models as bases: the decoder input conditions a denoiser of diffusers."""

from context_module.adapters.denoiser.adapter import DenoiserAdapter
from context_module.adapters.denoiser.conditioning import SUPPORTED
from context_module.adapters.denoiser.encoders import CLIPEncoder, EmbeddingEncoder, SemanticEncoder
from context_module.adapters.denoiser.objective import DenoisingObjective

__all__ = ["SUPPORTED", "CLIPEncoder", "DenoiserAdapter", "DenoisingObjective", "EmbeddingEncoder", "SemanticEncoder"]
