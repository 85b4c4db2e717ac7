"""The base alone, as if there were no module in front of it: its own samples, and its own losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from context_module.adapters import DecoderAdapter, Encoding
from context_module.base.lora import without_lora
from context_module.base.outputs import ContextualOutput
from context_module.normal import draw_normal, standard_normal_kl

__all__ = ["base_output", "base_samples"]


def base_samples(
    base: DecoderAdapter,
    n: int,
    *,
    temperature: float = 1.0,
    sample: bool | None = None,
    generator: torch.Generator | None = None,
) -> Any:
    """n images, or texts, from the base's own prior, without a module's LoRA.

    Arguments and result are those of `ContextualDecoder.generate`.
    """
    with without_lora(base):
        latent = temperature * base.sample_latent(n, generator)
        decoding = base.decode(latent.to(base.dtype), temperature=temperature, generator=generator)
        drawn = base.draws if sample is None else sample
        return base.present(decoding.sample(generator) if drawn else decoding.mean)


def base_output(
    base: DecoderAdapter, x: Tensor, encoding: Encoding, generator: torch.Generator | None = None
) -> ContextualOutput:
    """The losses of images by the base's own ELBO, one draw of its latents each; without noise of a module.

    Args:
        base: the base.
        x: images (B, C, H, W) in [0, 1].
        encoding: what the base's encoder says of them. A deterministic one gives no KL of the decoder input.
        generator: for the draws.
    """
    latent = encoding.mean.float()
    kl = latent.new_zeros(len(latent))
    if encoding.log_var is not None:
        log_var = encoding.log_var.float()
        deviation = (0.5 * log_var).exp()
        # the prior N(0, I) is on the base's raw latents, encodings are normalised
        raw_deviation = (0.5 * base.latent.denormalise_log_var(log_var)).exp()
        raw = Normal(base.latent.denormalise(latent).flatten(1), raw_deviation.flatten(1))
        kl = standard_normal_kl(raw.mean, raw.variance)
        latent = latent + deviation * draw_normal(latent, generator)
    decoding = base.decode(latent.to(base.dtype), encoding, generator=generator)
    kl, neg_log_likelihood = kl + decoding.kl, -decoding.log_prob(x)
    return ContextualOutput(neg_log_likelihood + kl, neg_log_likelihood, torch.zeros_like(kl), kl, decoding)
