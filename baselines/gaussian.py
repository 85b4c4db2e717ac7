"""What losses of VAEs are made of, as functions of tensors: in nats, summed over pixels or dimensions, per item."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.normal import draw_normal, standard_normal_kls

__all__ = ["bernoulli_error", "kl_per_dimension", "linear_capacity", "log_normal", "reparameterised"]


def bernoulli_error(logits: Tensor, x: Tensor) -> Tensor:
    """The reconstruction error of images (B, ...) in [0, 1] under decoder outputs before the sigmoid: (B,).

    It is the cross-entropy, summed over channels and pixels.
    """
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def kl_per_dimension(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) of every dimension, (B, D)."""
    return standard_normal_kls(mean, log_var.exp(), log_var)


def log_normal(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log-densities of N(mean, exp(log_var)) at z, of every entry."""
    return -0.5 * ((z - mean).square() * (-log_var).exp() + log_var + math.log(2 * math.pi))


def reparameterised(mean: Tensor, log_var: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A draw from N(mean, exp(log_var)) that gradients go through."""
    return mean + (0.5 * log_var).exp() * draw_normal(mean, generator)


def linear_capacity(done: float, start: float, end: float) -> float:
    """A capacity in nats that goes from `start` to `end` as `done` goes from 0 to 1, and stays there.

    >>> linear_capacity(0.5, 0.0, 5.0), linear_capacity(3.0, 0.0, 5.0)
    (2.5, 5.0)
    """
    return start + (end - start) * min(done, 1.0)
