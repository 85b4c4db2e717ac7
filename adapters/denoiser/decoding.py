"""What a denoiser makes of decoder inputs: a bound on the likelihood, images from noise, and noise from images."""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from context_module.adapters.contract import Decoding, Encoding
from context_module.adapters.likelihoods import DiscretisedLogisticLikelihood
from context_module.normal import draw_normal, draw_uniform
from context_module.rows import spread_over_rows

if TYPE_CHECKING:
    from context_module.adapters.denoiser.adapter import DenoiserAdapter

__all__ = ["DenoisingDecoding"]

_REFINEMENTS = 3  # evaluations per step of the inversion, each closer to where generation comes from


class DenoisingDecoding(Decoding):
    """p(x | decoder input) of a diffusion model. Nothing runs before it is asked for.

    - `log_prob` is the variational bound (`NoiseSchedule`) at one noise level per image, and the same at every call.
    - `mean` runs the scheduler, without gradients, from `residuals`: an image of the distribution, not its average.
    - `residuals` is the starting noise, (B, C, H, W) of the data that is diffused: drawn; or that of the images to
      explain, by DDIM inversion (Song et al. 2021), where generation, run backwards, takes them.

    Args:
        base: the adapter.
        latent: decoder inputs (B, *latent_shape), raw.
        encoding, residuals, temperature, generator: as for `DecoderAdapter.decode`.
    """

    def __init__(
        self,
        base: DenoiserAdapter,
        latent: Tensor,
        encoding: Encoding | None,
        residuals: tuple[Tensor, ...],
        temperature: float,
        generator: torch.Generator | None,
    ) -> None:
        self.base, self.latent, self.encoding = base, latent, encoding
        self.kl = latent.new_zeros(len(latent), dtype=torch.float32)
        self.temperature = temperature
        empty = latent.new_empty(len(latent), *base.data_shape, dtype=torch.float32)
        self.given = bool(residuals)
        self.noise = residuals[0].to(empty) if residuals else draw_normal(empty, generator)
        # one draw, spread evenly over the batch: levels vary less than independent draws would (Kingma et al. 2021)
        offset = draw_uniform(empty[:1, 0, 0, 0], generator)
        self.uniform = spread_over_rows(offset, len(latent))

    def log_prob(self, x: Tensor) -> Tensor:
        """The bound on log p(x | decoder input): (B,), float32, in nats.

        For pixels it is of the 256 values of each; for a pipeline with an autoencoder, the density of its latents.
        """
        data = self.base.data(x, self.encoding)
        schedule = self.base.schedule
        level = schedule.draw(self.uniform)
        z = schedule.add_noise(data, self.noise, level)
        output = self.base.denoise(z, schedule.timesteps[level], self.latent)
        errors = (data - schedule.estimate(z, output, level)).square().flatten(1).sum(1)
        first = schedule.add_noise(data, self.noise, torch.full_like(level, schedule.first))
        return self._log_prob_at_first(x, data, first) - schedule.weights[level] * errors - schedule.prior_kl(data)

    def _log_prob_at_first(self, x: Tensor, data: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) (B,) in nats, of data around the noisy data of the first level in the bound."""
        schedule = self.base.schedule
        alpha, sigma = schedule.alphas[schedule.first], schedule.sigmas[schedule.first]
        if self.base.vae is None:
            scale = sigma / alpha / 2 * math.sqrt(3) / math.pi  # a logistic of the same variance, in units of images
            return DiscretisedLogisticLikelihood((z / alpha + 1) / 2, scale).log_prob(x)
        return torch.distributions.Normal(z / alpha, sigma / alpha).log_prob(data).flatten(1).sum(1)

    @cached_property
    @torch.no_grad()
    def mean(self) -> Tensor:
        """(B, C, H, W) in [0, 1]."""
        return self._generate(self.residuals[0])

    @cached_property
    @torch.no_grad()
    def residuals(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        if self.given:
            return (self.noise,)
        if self.encoding is None:
            return (self.temperature * self.noise,)
        return (self._invert(self.encoding.states[1]),)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """An image from other noise, (B, C, H, W), of the 256 values."""
        return (self._generate(draw_normal(self.noise, generator)) * 255).round() / 255

    def _generate(self, noise: Tensor) -> Tensor:
        """Images from starting noise, by the scheduler. Noise of its steps is a function of the starting noise."""
        generators = [_generator_for(image) for image in noise]
        return self.base.images(_run(self._scheduler(noise), noise, self._guided, generators))

    def _invert(self, data: Tensor) -> Tensor:
        """Starting noise from which deterministic generation leads to the data.

        A step of generation takes z' to z, a sum of z' and the denoiser's output for z'. Backwards that is an equation
        for z', solved by fixed-point iteration (Pan et al. 2023, "Effective Real Image Editing with AIDI").
        """
        schedule, scheduler = self.base.schedule, self._scheduler(data)
        if not self._is_deterministic():
            raise ValueError(
                f"a {type(scheduler).__name__} adds noise at every step, so no starting noise leads back to given "
                "images: for counterfactuals and reconstructions set base.scheduler = "
                "diffusers.DDIMScheduler.from_config(base.scheduler.config)"
            )
        levels = torch.stack([schedule.nearest(timestep) for timestep in scheduler.timesteps]).unique()
        z, alpha, sigma = data, data.new_ones(()), data.new_zeros(())
        for level in levels:
            of_z, of_output = schedule.step_factors(level, alpha, sigma)
            reached = z
            for _ in range(_REFINEMENTS):
                if of_z == 0:  # the last step of those that predict the data keeps nothing of z'
                    reached = schedule.alphas[level] * z
                    break
                reached = (z - of_output * self._guided(reached, schedule.timesteps[level])) / of_z
            z, alpha, sigma = reached, schedule.alphas[level], schedule.sigmas[level]
        return z

    def _is_deterministic(self) -> bool:
        """Whether the scheduler's images are a function of the starting noise; found by a trial on nothing."""
        nothing = torch.zeros(1, 1, 8, 8)
        one, other = (
            _run(self._scheduler(nothing), nothing, lambda z, _: nothing, [torch.Generator().manual_seed(seed)])
            for seed in (0, 1)
        )
        return torch.equal(one, other)

    def _scheduler(self, like: Tensor) -> Any:
        """The base's scheduler, set to its steps: a copy, as schedulers count them."""
        scheduler = copy.deepcopy(self.base.scheduler)
        self.base.conditioning.set_timesteps(scheduler, self.base.num_inference_steps, like.device)
        return scheduler

    def _guided(self, z: Tensor, timestep: Tensor) -> Tensor:
        """The denoiser's output with classifier-free guidance (Ho and Salimans 2022), away from the neutral input.

        Denoisers that were distilled from guidance are told its scale.
        """
        base, timesteps = self.base, timestep.to(z.device).expand(len(z))
        if base.conditioning.distilled:
            return base.denoise(z, timesteps, self.latent, guidance=base.guidance_scale)
        output = base.denoise(z, timesteps, self.latent)
        if base.guidance_scale == 1:
            return output
        neutral = base.denoise(z, timesteps, torch.zeros_like(self.latent), prompted=False)
        return neutral + base.guidance_scale * (output - neutral)


def _run(
    scheduler: Any,
    noise: Tensor,
    predict: Callable[[Tensor, Tensor], Tensor],
    generators: list[torch.Generator],
) -> Tensor:
    """Data (B, C, H, W) from starting noise; `predict` is the denoiser, of noisy data and a timestep ()."""
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {"generator": generators} if takes_generator else {}
    z = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(z, timestep) if hasattr(scheduler, "scale_model_input") else z
        z = scheduler.step(predict(scaled, timestep), timestep, z, **options).prev_sample
    return z


def _generator_for(image: Tensor) -> torch.Generator:
    """A generator on the CPU that is a function of starting noise (C, H, W)."""
    digest = hashlib.sha256(image.float().cpu().numpy().tobytes()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
