"""The noise levels that a denoiser was trained on, and the bound on the log-likelihood that they make."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NoiseSchedule"]

_FLOOR = -10.0  # log signal-to-noise ratio below which levels are hardly drawn: they tell nothing of the data


class NoiseSchedule(nn.Module):
    """Levels z_t = alpha_t x + sigma_t noise of a diffusers scheduler, from the least noise to the most.

    The T levels make up the variational bound of diffusion models (Ho et al. 2020, Kingma et al. 2021):

        -log p(x) <= sum_t (SNR_{t-1} - SNR_t) / 2 E|x - x_t(z_t)|^2 + E[-log p(x | z_0)] + KL(q(z_T | x) || N(0, I))

    with x_t the denoiser's estimate and SNR = alpha^2 / sigma^2. The sum is estimated at one level per sample, drawn
    evenly in the logarithm of the SNR, where the errors of the noise have nearly equal weights: with these draws the
    bound is what is otherwise trained as a surrogate, but for the share that each level gets.

    Args:
        scheduler: one with ``alphas_cumprod`` (DDPM, DDIM, DPM-Solver, Euler, ...), of the prediction types
            ``epsilon``, ``sample`` or ``v_prediction``; or one of flow matching (``FlowMatchEulerDiscreteScheduler``).

    Raises:
        TypeError: for any other.
        ValueError: for another prediction type, or a shift that depends on the images' size.
    """

    timesteps: Tensor
    alphas: Tensor
    sigmas: Tensor
    weights: Tensor
    shares: Tensor

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        name, config = type(scheduler).__name__, scheduler.config
        if name.startswith("FlowMatch"):
            if config.use_dynamic_shifting:
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
        ratios = (alphas / sigmas).square()
        spacing = -(ratios + torch.tensor(_FLOOR).exp()).log().diff()
        shares = spacing / spacing.sum()
        levels = {"timesteps": timesteps, "alphas": alphas, "sigmas": sigmas}
        for key, values in {**levels, "weights": -ratios.diff() / (2 * shares), "shares": shares.cumsum(0)}.items():
            self.register_buffer(key, values.float(), persistent=False)

    def draw(self, uniform: Tensor) -> Tensor:
        """Numbers (B,) of levels from 1 to T - 1 for values (B,) uniform in [0, 1]."""
        return 1 + torch.searchsorted(self.shares, uniform).clamp_max(len(self.shares) - 1)

    def weight(self, level: Tensor) -> Tensor:
        """Weights (B,) of |x - x_t|^2 at levels that were drawn."""
        return self.weights[level - 1]

    def nearest(self, timestep: Tensor) -> Tensor:
        """The number () of the level that is nearest to a timestep ()."""
        return (self.timesteps - timestep).abs().argmin()

    def add_noise(self, x: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """z (B, C, H, W) at levels (B,) or ()."""
        return _wide(self.alphas[level]) * x + _wide(self.sigmas[level]) * noise

    def estimate(self, z: Tensor, output: Tensor, level: Tensor) -> Tensor:
        """The data x (B, C, H, W) that a denoiser's output for z at these levels stands for."""
        alpha, sigma = _wide(self.alphas[level]), _wide(self.sigmas[level])
        if self.prediction == "sample":
            return output
        if self.prediction == "epsilon":
            return (z - sigma * output) / alpha
        return alpha * z - sigma * output if self.prediction == "v_prediction" else z - sigma * output

    def prior_kl(self, x: Tensor) -> Tensor:
        """KL (B,) of q(z | x) at the last level from N(0, I), in nats."""
        alpha, variance = self.alphas[-1], self.sigmas[-1].square()
        return 0.5 * ((alpha * x).square() + variance - variance.log() - 1).flatten(1).sum(1)


def _wide(values: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1); () as it is."""
    return values.reshape(-1, 1, 1, 1) if values.ndim else values
