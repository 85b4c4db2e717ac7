"""Figures with their intervals: no metric reports a number without saying how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from context_module.errors import DataError, NonFiniteError

__all__ = [
    "MIN_SAMPLES",
    "Estimate",
    "average",
    "bootstrap",
    "bootstrap_indices",
    "check_samples",
    "mean_estimate",
    "share_estimate",
]

MIN_SAMPLES = 10  # fewer items say too little of their own spread


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; prints as ``0.057 [0.051, 0.063]``, ``f"{estimate:.1%}"`` formats all three.

    Attributes:
        value: the figure.
        low, high: ends of its interval, 95% unless asked otherwise; not clipped to the figure's range.
        samples: the number of items it rests on, the smallest if it rests on several sets.
    """

    value: float
    low: float
    high: float
    samples: int

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self)

    def to_dict(self) -> dict[str, float | int]:
        """For JSON; ``Estimate(**fields)`` reads it back."""
        return asdict(self)


def check_samples(*sizes: int) -> None:
    """Raise a DataError unless each set holds enough items for an interval."""
    if min(sizes) < MIN_SAMPLES:
        raise DataError(f"an estimate with an interval needs at least {MIN_SAMPLES} items, got {min(sizes)}")


def bootstrap(
    statistic: Callable[..., float | Tensor],
    *samples: Tensor,
    resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """A statistic of one or more independent samples, with its bootstrap interval (Efron & Tibshirani 1993).

    The interval is value +- z * the standard deviation over the resamples. Percentiles of the resamples are not used:
    resampled sets hold duplicates, which biases distances between samples upward.

    Args:
        statistic: of as many tensors as there are samples.
        samples: (n, ...) each, its items along dimension 0; resampled independently of each other, with replacement.
            Paired data go in as one tensor.
        resamples: at least 2.
        level: of the interval, in (0, 1).
        seed: of the resamples.

    Raises:
        DataError: for fewer than `MIN_SAMPLES` items in a sample.
        NonFiniteError: for a statistic that is NaN or infinite.
        ValueError: for fewer than two resamples, a level outside (0, 1), or no sample.
    """

    def on_rows(*indices: Tensor) -> float | Tensor:
        return statistic(*(sample[rows.to(sample.device)] for sample, rows in zip(samples, indices, strict=True)))

    return bootstrap_indices(on_rows, [len(sample) for sample in samples], resamples=resamples, level=level, seed=seed)


def bootstrap_indices(
    statistic: Callable[..., float | Tensor],
    sizes: Sequence[int],
    *,
    value: float | Tensor | None = None,
    resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """`bootstrap` for a statistic of row numbers, so that what does not change is computed once.

    Args:
        statistic: of one int64 tensor (n,) of rows per size; ``rows.bincount(minlength=n)`` are the rows' weights.
        sizes: number of items in each sample.
        value: the figure, where the statistic is a cheaper stand-in for it; by default the statistic of all rows.
        resamples, level, seed: as for `bootstrap`, and so are the errors.
    """
    if resamples < 2:
        raise ValueError(f"an interval needs at least 2 resamples, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if not sizes:
        raise ValueError("an estimate needs at least one sample")
    check_samples(*sizes)
    figure = float(statistic(*map(torch.arange, sizes)) if value is None else value)
    generator = torch.Generator().manual_seed(seed)
    draws = [float(statistic(*(torch.randint(n, (n,), generator=generator) for n in sizes))) for _ in range(resamples)]
    return _normal_interval(figure, torch.tensor(draws, dtype=torch.float64).std().item(), min(sizes), level)


def mean_estimate(values: Tensor | Sequence[float], *, level: float = 0.95) -> Estimate:
    """The mean of one value per item, with the normal interval from its standard error.

    Args:
        values: (n,), any real dtype.
        level: of the interval, in (0, 1).

    Raises:
        DataError: for fewer than `MIN_SAMPLES` values.
        NonFiniteError: for values that are NaN or infinite.
        ValueError: for values that are not one number per item, or a level outside (0, 1).
    """
    items = torch.as_tensor(values).detach().double()
    if items.ndim != 1:
        raise ValueError(f"values must be one number per item, shape (n,), got {tuple(items.shape)}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    check_samples(len(items))
    return _normal_interval(items.mean().item(), items.std().item() / math.sqrt(len(items)), len(items), level)


def share_estimate(hits: Tensor, *, level: float = 0.95) -> Estimate:
    """The share of items that are hits, with Wilson's interval: it has a width even where all or none are.

    Args:
        hits: bool or 0 and 1 (n,); few of them make a wide interval.
        level: of the interval, in (0, 1).

    Raises:
        DataError: for no items.
        ValueError: for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if not len(hits):
        raise DataError("the share of no items is not defined: give at least one")
    n, share, z = len(hits), hits.double().mean().item(), NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # the limits are within [0, 1] but for rounding
    return Estimate(share, max(centre - half_width, 0.0), min(centre + half_width, 1.0), n)


def average(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates of one level, such as those of several contexts.

    Its interval's half-width is the root of the sum of their squared half-widths, over their number.

    Raises:
        ValueError: for no estimates.
    """
    if not estimates:
        raise ValueError("the average of no estimates is not defined")
    n = len(estimates)
    value = sum(each.value for each in estimates) / n
    below = math.sqrt(sum((each.value - each.low) ** 2 for each in estimates)) / n
    above = math.sqrt(sum((each.high - each.value) ** 2 for each in estimates)) / n
    return Estimate(value, value - below, value + above, min(each.samples for each in estimates))


def _normal_interval(value: float, standard_error: float, samples: int, level: float) -> Estimate:
    if not (math.isfinite(value) and math.isfinite(standard_error)):
        raise NonFiniteError(f"the statistic is not finite: value {value}, standard error {standard_error}")
    half_width = NormalDist().inv_cdf((1 + level) / 2) * standard_error
    return Estimate(value, value - half_width, value + half_width, samples)
