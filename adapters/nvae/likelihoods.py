"""The likelihoods of NVAE for colour images, and of images with fewer than 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from context_module.adapters.contract import Likelihood
from context_module.adapters.likelihoods import BernoulliLikelihood
from context_module.adapters.nvae.config import NVAEConfig
from context_module.adapters.nvae.distributions import Normal
from context_module.normal import draw_uniform

__all__ = [
    "LogisticMixtureLikelihood",
    "NormalLikelihood",
    "QuantisedLikelihood",
    "likelihood_channels",
    "make_likelihood",
    "quantise",
]


def quantise(x: Tensor, num_bits: int) -> Tensor:
    """Images in [0, 1] floored to the 2 ** num_bits values k / (2 ** num_bits - 1); 8 bits leave them as they are."""
    if num_bits == 8:
        return x
    return torch.floor(x.float() * 255 / 2 ** (8 - num_bits)) / (2**num_bits - 1)


def likelihood_channels(config: NVAEConfig) -> int:
    """Channels that `make_likelihood` needs."""
    if config.likelihood == "bernoulli":
        return config.in_channels
    return 6 if config.likelihood == "normal" else 10 * config.num_mixtures


def make_likelihood(config: NVAEConfig, logits: Tensor) -> Likelihood:
    """The likelihood a network's output (B, likelihood_channels(config), H, W) stands for."""
    likelihood: Likelihood
    if config.likelihood == "bernoulli":
        likelihood = BernoulliLikelihood(logits)
    elif config.likelihood == "normal":
        likelihood = NormalLikelihood(logits)
    else:
        likelihood = LogisticMixtureLikelihood(logits, config.num_mixtures, config.num_bits)
    return likelihood if config.num_bits == 8 else QuantisedLikelihood(likelihood, config.num_bits)


def _to_image(v: Tensor) -> Tensor:
    """From values about [-1, 1] to an image in [0, 1]."""
    return (v.clamp(-1, 1) + 1) / 2


class NormalLikelihood:
    """A normal density of v = 2 x - 1, without bins.

    Args:
        logits: (B, 6, H, W), 3 raw means and 3 raw log standard deviations (see `Normal.from_raw`).
    """

    def __init__(self, logits: Tensor) -> None:
        self.normal = Normal.from_raw(logits)

    @property
    def mean(self) -> Tensor:
        """(B, 3, H, W) in [0, 1]; values outside are clipped."""
        return _to_image(self.normal.mean)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of v summed over channels and pixels: (B,), nats."""
        return self.normal.log_prob(2 * x.float() - 1).flatten(1).sum(1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw, clipped: (B, 3, H, W) in [0, 1]."""
        return _to_image(self.normal.sample(generator=generator))


class LogisticMixtureLikelihood:
    """A mixture of discretised logistics on v = 2 x - 1 (Salimans et al. 2017, "PixelCNN++").

    The means of green and blue depend linearly on the colours before them.

    Args:
        logits: (B, 10 M, H, W): M mixture logits, then for each colour M means, M log scales (at least -7) and M
            coefficients (tanh is applied).
        num_mixtures: M.
        num_bits: the images have 2 ** num_bits values.
    """

    def __init__(self, logits: Tensor, num_mixtures: int, num_bits: int = 8) -> None:
        batch, _, height, width = logits.shape
        logits = logits.float()
        self.mixture_logits = logits[:, :num_mixtures]  # (B, M, H, W)
        colours = logits[:, num_mixtures:].reshape(batch, 3, 3 * num_mixtures, height, width)
        means, log_scales, coefficients = colours.chunk(3, dim=2)  # (B, 3, M, H, W) each
        self.means = means
        self.log_scales = log_scales.clamp(min=-7)
        self.coefficients = coefficients.tanh()
        self.num_steps = 2**num_bits - 1

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of the bins of x summed over channels and pixels: (B,), nats."""
        v = 2 * x.float()[:, :, None] - 1  # (B, 3, 1, H, W)
        red, green, _ = v.unbind(1)
        from_red, from_both, from_green = self.coefficients.unbind(1)
        shifts = torch.stack((torch.zeros_like(from_red), from_red * red, from_both * red + from_green * green), 1)
        centred = v - self.means - shifts
        inverse_scale = (-self.log_scales).exp()
        upper = (centred + 1 / self.num_steps) * inverse_scale
        lower = (centred - 1 / self.num_steps) * inverse_scale
        mid = centred * inverse_scale
        mass = upper.sigmoid() - lower.sigmoid()
        # where a bin's mass is beyond float32, its density in the middle times its width
        narrow = mid - self.log_scales - 2 * functional.softplus(mid) - torch.log(mid.new_tensor(self.num_steps / 2))
        log_mass = torch.where(mass > 1e-5, mass.clamp(min=1e-10).log(), narrow)
        # the first bin reaches to minus infinity and the last ones to infinity (0.99: with 8 bits that is two bins)
        log_mass = torch.where(v > 0.99, -functional.softplus(lower), log_mass)
        log_mass = torch.where(v < -0.999, functional.logsigmoid(upper), log_mass)
        per_mixture = log_mass.sum(1) + self.mixture_logits.log_softmax(1)
        return per_mixture.logsumexp(1).flatten(1).sum(1)

    @property
    def mean(self) -> Tensor:
        """(B, 3, H, W) in [0, 1], from the mixture's mean parameters."""
        return self._colours_in_turn(self.mixture_logits.softmax(1), self.means)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw, (B, 3, H, W) in [0, 1]."""
        gumbel = -torch.log(-torch.log(_open_uniform(self.mixture_logits, generator)))
        chosen = functional.one_hot((self.mixture_logits + gumbel).argmax(1), self.mixture_logits.shape[1])
        uniform = _open_uniform(self.means[:, :, 0], generator)[:, :, None]
        logistic = uniform.log() - (1 - uniform).log()
        draws = self.means + logistic * self.log_scales.exp()
        return self._colours_in_turn(chosen.movedim(-1, 1).float(), draws)

    def _colours_in_turn(self, weights: Tensor, values: Tensor) -> Tensor:
        """Images from `values` (B, 3, M, H, W) before the shifts, with components weighted (B, M, H, W)."""
        weights = weights[:, None]
        red, green, blue = (weights * values).sum(2).unbind(1)
        from_red, from_both, from_green = (weights * self.coefficients).sum(2).unbind(1)
        red = red.clamp(-1, 1)
        green = (green + from_red * red).clamp(-1, 1)
        blue = blue + from_both * red + from_green * green
        return _to_image(torch.stack((red, green, blue), dim=1))


def _open_uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform noise away from 0 and 1, where its logarithms end."""
    return draw_uniform(like, generator).clamp(1e-5, 1 - 1e-5)


class QuantisedLikelihood:
    """A likelihood of images that are first floored to fewer bits.

    Args:
        likelihood: of the floored images.
        num_bits: see `quantise`.
    """

    def __init__(self, likelihood: Likelihood, num_bits: int) -> None:
        self.likelihood = likelihood
        self.num_bits = num_bits

    @property
    def mean(self) -> Tensor:
        """(B, C, H, W) in [0, 1]."""
        return self.likelihood.mean

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-likelihood of the floored images: (B,), nats."""
        return self.likelihood.log_prob(quantise(x, self.num_bits))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw, (B, C, H, W) in [0, 1]."""
        return self.likelihood.sample(generator)
