"""Generating under interventions, and the noise behind given images: methods of `ContextualDecoder`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from context_module.base import Abduction, base_samples
from context_module.contexts import OBSERVATIONAL, ContextsLike
from context_module.interventions import Do, parse_interventions
from context_module.nn import evaluating
from context_module.normal import draw_normal

if TYPE_CHECKING:
    from context_module.adapters import DecoderAdapter
    from context_module.model.decoder import ContextualDecoder

__all__ = ["abduct", "generate"]

_AT_ONCE = 128  # decoded: more take more memory, and are slower where they leave a CPU's caches
_HOTTEST = 1e6  # beyond it numbers overflow


@torch.no_grad()
def generate(
    self: ContextualDecoder,
    n: int | None = None,
    *,
    noise: Tensor | Abduction | None = None,
    do: Do = None,
    temperature: float = 1.0,
    sample: bool | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    num_inference_steps: int | None = None,
    output_type: Literal["pt", "np", "pil"] = "pt",
) -> Any:
    """Generate images, or texts, under an intervention.

    Args:
        n: number of images, with fresh noise; or give `noise`.
        noise: the noise itself (n, (K+F) w_z), or what `abduct` returned: the same images under another `do`.
        do: the concepts to intervene on, jointly: ``"size"``, ``"quad1+size"``, ``("quad1", "size")``; None for
            the observational context. Or a list of n contexts, one per image. Or, by name,
            ``{"quad1": 0.5, "size": Value(0.7)}``: a strength from 0, the concept's observational
            mechanism, to 1, its interventional one (of edits anything from -2 to 3); or the value to set the concept
            to, for models whose training data carried its values (`fit_values`). Either may be a sequence, one per
            image. Or a mask with a row per image, (n, K) or (n, K+P), bool or of strengths.
        temperature: standard deviation of fresh noise, and factor on that of the base's deeper latents; of the
            tokens drawn, for a language model.
        sample: draw from the likelihood instead of returning its mean (a language model: the likeliest tokens,
            one by one). Default: of vectors, whose noise is a part of them.
        generator: makes the result reproducible;
        seed: so does this, a number in its place.
        num_inference_steps: of a diffusion model's scheduler, for this call. Default: the base's own.
        output_type: of images: ``"pt"``, a tensor; ``"np"``, an array; ``"pil"``, a list of pictures.

    Returns:
        (n, C, H, W), float, in [0, 1], or as an array (n, H, W, C), float32; of a language model a list of n strings;
        of vectors (n, G), float.

    Raises:
        ValueError: unless exactly one of `n` and `noise` is given; for a negative temperature, a generator beside a
            seed, steps for a base that takes none, or an unknown `output_type`, or one for texts.
        ConceptError, ShapeError: for unknown concepts; for a strength out of range; for a value outside the
            range of the training data, or of a concept without values; for noise or a mask that does not fit.
    """
    if (n is None) == (noise is None):
        raise ValueError("generate needs either n, the number of images, or noise=..., not both")
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0 <= temperature <= _HOTTEST:
        raise ValueError(f"temperature must be a number from 0 to {_HOTTEST:g}, got {temperature}")
    if generator is not None and seed is not None:
        raise ValueError("generate takes a generator or a seed, not both")
    _check_output(self.base.kind, output_type)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
    with _inference_steps(self.base, num_inference_steps), evaluating(self):
        samples = _samples(self, n, noise, do, temperature, sample, generator)
    return _presented(samples, output_type)


def _samples(
    self: ContextualDecoder,
    n: int | None,
    noise: Tensor | Abduction | None,
    do: Do,
    temperature: float,
    sample: bool | None,
    generator: torch.Generator | None,
) -> Any:
    if self.disabled:
        if n is None or do not in (None, OBSERVATIONAL):
            self.check_enabled("an intervention, or given noise,")
        return base_samples(self.base, n or 0, temperature=temperature, sample=sample, generator=generator)
    abduction = noise if isinstance(noise, Abduction) else Abduction(noise) if noise is not None else None
    n = len(abduction.noise) if abduction else n or 0
    interventions = parse_interventions(self.packs.widen(do), self.concepts, n)
    fixed, pack_noise = self.value_maps(interventions.values), self.packs.sample_noise(n, temperature, generator)
    if abduction is None:
        abduction = Abduction(self.module.sample_noise(n, temperature, generator))
    strengths = interventions.strengths.to(self.slot.device)
    strengths, of_packs = strengths.split([len(self.config.concepts), len(self.packs)], dim=1)
    latent = self.slot.latent_mean(abduction.noise, strengths, fixed)
    if abduction.latent is None:
        latent = self.slot.draw_latent(latent, temperature, generator)
    else:
        latent = latent + self.module.scale * abduction.latent
    latent = self.packs(latent, of_packs, pack_noise)
    drawn = self.base.draws if sample is None else sample
    parts = []
    for rows in torch.arange(n).split(_AT_ONCE):
        residuals = tuple(residual[rows] for residual in abduction.residuals)
        decoding = self.held.decode(latent[rows], residuals=residuals, temperature=temperature, generator=generator)
        parts.append(self.base.present(decoding.sample(generator) if drawn else decoding.mean))
    if of_packs.any():
        draw_normal(latent.new_empty(1), generator)  # other noise for the packs in the next call
    return torch.cat(parts) if isinstance(parts[0], Tensor) else [text for part in parts for text in part]


def _check_output(kind: str, output_type: str) -> None:
    if output_type not in ("pt", "np", "pil"):
        raise ValueError(f"unknown output_type {output_type!r}: expected 'pt', 'np' or 'pil'")
    if kind != "images" and output_type != "pt":
        raise ValueError(f"output_type={output_type!r} is for images, the model makes {kind}: leave it out")


def _presented(samples: Any, output_type: str) -> Any:
    if output_type == "pt":
        return samples
    pixels = samples.float().cpu().permute(0, 2, 3, 1)
    if output_type == "np":
        return pixels.numpy()
    from PIL import Image

    pictures = (pixels.clamp(0, 1) * 255).round().byte().numpy()
    return [Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture) for picture in pictures]


@contextmanager
def _inference_steps(base: DecoderAdapter, steps: int | None) -> Iterator[None]:
    """A diffusion model with so many steps for a block of code."""
    if steps is None:
        yield
        return
    usual = getattr(base, "num_inference_steps", None)
    if usual is None:
        raise ValueError(f"a {base.name!r} base takes no num_inference_steps: it generates in one pass")
    if steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1, got {steps}")
    base.num_inference_steps = steps  # type: ignore[assignment]
    try:
        yield
    finally:
        base.num_inference_steps = usual


@torch.no_grad()
def abduct(
    self: ContextualDecoder,
    x: Any,
    contexts: ContextsLike = OBSERVATIONAL,
    *,
    sample: bool = False,
    generator: torch.Generator | None = None,
) -> Abduction:
    """The noise behind images seen in a context: posterior means, and what they leave of every later latent.

    ``generate(noise=abduct(x, c), do=c)`` is the reconstruction of x; with another `do` it is the counterfactual.
    With ``latent_noise=True`` the reconstruction is the base's own. Of a language model it is the text itself.

    Args:
        x: images (B, C, H, W) in [0, 1]; for a language model texts, or token ids (B, T).
        contexts: the contexts they were seen in.
        sample: a draw from the posterior, in place of its mean: where a posterior tells little of a concept, its
            mean moves less under an intervention than the concept does.
        generator: for the draw.
    """
    self.check_enabled("abduct")
    x = self.base.check_inputs(x)
    mask = self._mask(contexts, len(x))
    with evaluating(self):
        encoding = self.held.encode(x)
        posterior = self.slot.posterior(encoding, mask)
        noise = posterior.mean
        if sample:
            noise = noise + posterior.stddev * draw_normal(noise, generator)
        latent, residual = self.slot.latent_mean(noise, mask), None
        if self.config.latent_noise:
            residual = (encoding.mean.float() - latent) / self.module.scale
            latent = encoding.mean
        decoding = self.held.decode(latent, encoding, temperature=0.0, generator=generator)
    return Abduction(noise, residual, decoding.residuals)
