"""The noise levels that a denoiser was trained on, and the bound on the log-likelihood that they make."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NoiseSchedule", "with_fixed_variance", "with_shift_of"]

_FLOOR = -10.0  # log signal-to-noise ratio below which levels are hardly drawn: they tell nothing of the data


class NoiseSchedule(nn.Module):
    """Levels z_t = alpha_t x + sigma_t noise of a diffusers scheduler, from the least noise to the most.

    They make up the variational bound in continuous time (Kingma et al. 2021, "Variational Diffusion Models"),

        -log p(x) <= 1/2 integral E|x - x_t(z_t)|^2 dSNR + E[-log p(x | z_0)] + KL(q(z_T | x) || N(0, I)),

    with x_t the denoiser's estimate, SNR = alpha^2 / sigma^2, and the integral by the trapezoidal rule over the
    levels. It is estimated at one level per sample, drawn evenly in the logarithm of the SNR. There the errors of the
    noise have equal weights, so that this is the loss that denoisers are usually trained with, the surrogate, but for
    how often each level is drawn.

    Args:
        scheduler: one with ``alphas_cumprod`` (DDPM, DDIM, DPM-Solver, Euler, ...), of the prediction types
            ``epsilon``, ``sample`` or ``v_prediction``; or one of flow matching (``FlowMatchEulerDiscreteScheduler``).
        max_snr: the bound is made of levels up to this SNR. That is a bound, too, a looser one: the first of them, z_0
            above, holds less of the data.

    Attributes:
        first: number of the first level in the bound.

    Raises:
        TypeError: for any other.
        ValueError: for another prediction type, or a shift that depends on the images' size (see `with_shift_of`).
    """

    timesteps: Tensor
    alphas: Tensor
    sigmas: Tensor
    weights: Tensor
    shares: Tensor

    def __init__(self, scheduler: Any, max_snr: float = math.inf) -> None:
        super().__init__()
        name, config = type(scheduler).__name__, scheduler.config
        if name.startswith("FlowMatch"):
            if config.get("use_dynamic_shifting"):
                raise ValueError(
                    f"the {name} shifts its noise levels with the images' size (use_dynamic_shifting), which is not "
                    "supported: set it to false, and `shift` to what suits this size"
                )
            fresh = type(scheduler).from_config(config)  # set_timesteps replaces the levels of training
            sigmas = fresh.sigmas[: config.num_train_timesteps].double().flip(0)
            timesteps, alphas, self.prediction = config.num_train_timesteps * sigmas, 1 - sigmas, "flow"
        elif hasattr(scheduler, "alphas_cumprod") and not config.get("use_flow_sigmas"):
            squares = scheduler.alphas_cumprod.double()
            timesteps, alphas, sigmas = torch.arange(len(squares)), squares.sqrt(), (1 - squares).sqrt()
            self.prediction = config.get("prediction_type", "epsilon")
        else:
            raise TypeError(
                f"no noise levels known of a {name}: supported are schedulers with alphas_cumprod, such as "
                "DDIMScheduler and DPMSolverMultistepScheduler, and FlowMatchEulerDiscreteScheduler"
            )
        if self.prediction not in ("epsilon", "sample", "v_prediction", "flow"):
            raise ValueError(
                f"the {name} has prediction_type {self.prediction!r}; supported: epsilon, sample, v_prediction"
            )
        ratios = (alphas / sigmas).square() + math.exp(_FLOOR)
        self.first = int((ratios > max_snr).sum())
        if self.first > len(ratios) - 2:
            raise ValueError(f"max_snr {max_snr} leaves no two noise levels: they have from {ratios[-2]:.2g} up")
        steps = -ratios.log().diff() / 2
        steps[: self.first] = 0
        cells = F.pad(steps, (0, 1)) + F.pad(steps, (1, 0))
        levels = {"timesteps": timesteps, "alphas": alphas, "sigmas": sigmas}
        levels |= {"weights": cells.sum() * ratios / 2, "shares": cells.cumsum(0) / cells.sum()}
        for key, values in levels.items():
            self.register_buffer(key, values.float(), persistent=False)

    def draw(self, uniform: Tensor) -> Tensor:
        """Numbers (B,) of levels from `first` on, for values (B,) uniform in [0, 1]; `weights` are of their errors."""
        return torch.searchsorted(self.shares, uniform).clamp(self.first, len(self.shares) - 1)

    def nearest(self, timestep: Tensor) -> Tensor:
        """The number () of the level that is nearest to a timestep ()."""
        return (self.timesteps - timestep).abs().argmin()

    def add_noise(self, x: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """z (B, C, H, W) at levels (B,) or ()."""
        return _wide(self.alphas[level]) * x + _wide(self.sigmas[level]) * noise

    def estimate(self, z: Tensor, output: Tensor, level: Tensor) -> Tensor:
        """The data x (B, C, H, W) that a denoiser's output for z at these levels stands for."""
        of_z, of_output = self._estimate_factors(level)
        return _wide(of_z) * z + _wide(of_output) * output

    def target(self, x: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What a denoiser's output for z of data x and noise at these levels is trained to be."""
        alpha, sigma = _wide(self.alphas[level]), _wide(self.sigmas[level])
        if self.prediction == "sample":
            return x
        if self.prediction == "epsilon":
            return noise
        return alpha * noise - sigma * x if self.prediction == "v_prediction" else noise - x

    def step_factors(self, level: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Factors on z and on the output for it that make up a DDIM step from a level () to (alpha, sigma)."""
        of_z, of_output = self._estimate_factors(level)
        ratio = sigma / self.sigmas[level]  # a step is alpha x + sigma noise, with noise the rest of z
        return alpha * of_z + ratio * (1 - self.alphas[level] * of_z), (alpha - ratio * self.alphas[level]) * of_output

    def _estimate_factors(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates are linear in z and the denoiser's output: the factors on both."""
        alpha, sigma = self.alphas[level], self.sigmas[level]
        if self.prediction == "sample":
            return torch.zeros_like(alpha), torch.ones_like(alpha)
        if self.prediction == "epsilon":
            return 1 / alpha, -sigma / alpha
        return (alpha if self.prediction == "v_prediction" else torch.ones_like(alpha)), -sigma

    def prior_kl(self, x: Tensor) -> Tensor:
        """KL (B,) of q(z | x) at the last level from N(0, I), in nats."""
        alpha, variance = self.alphas[-1], self.sigmas[-1].square()
        return 0.5 * ((alpha * x).square() + variance - variance.log() - 1).flatten(1).sum(1)


def with_shift_of(scheduler: Any, tokens: int) -> Any:
    """The scheduler with the one shift that it has at a size, if it is one that shifts by size.

    Args:
        scheduler: of flow matching, with ``use_dynamic_shifting``; any other comes back as it is.
        tokens: number of an image's tokens in the transformer, by which it shifts.
    """
    config = scheduler.config
    if not type(scheduler).__name__.startswith("FlowMatch") or not config.get("use_dynamic_shifting"):
        return scheduler
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    shift = config.base_shift + slope * (tokens - config.base_image_seq_len)  # as pipelines of diffusers do
    shift = math.exp(shift) if config.time_shift_type == "exponential" else shift
    fixed = copy.deepcopy(scheduler)  # a new one would start from sigmas that are shifted already
    fixed.register_to_config(use_dynamic_shifting=False, shift=shift)
    fixed.set_shift(shift)
    return fixed


def with_fixed_variance(scheduler: Any) -> Any:
    """The scheduler with the variance that its class has by default, if its steps are of one that the denoiser learns.

    What a denoiser says of variances (``learned`` and ``learned_range``, the second half of its output) is not read.
    """
    if not str(scheduler.config.get("variance_type")).startswith("learned"):
        return scheduler
    default = inspect.signature(type(scheduler)).parameters["variance_type"].default
    return type(scheduler).from_config(scheduler.config, variance_type=default)


def _wide(values: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1); () as it is."""
    return values.reshape(-1, 1, 1, 1) if values.ndim else values
