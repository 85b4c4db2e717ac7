"""What methods that learn from labels share: labels in the units of codes, and losses that hold codes to them.

The first dimensions of the code stand for labelled factors, in their order. Labels are in [0, 1], scaled by the range
that they have in the training images, or standardised. Where few images have labels, or some labels are missing (NaN),
what is unknown takes no part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.errors import DataError

__all__ = [
    "LabelEmbedding",
    "LabelScale",
    "annealed",
    "covariance_penalty",
    "cross_entropy",
    "mean_of_known",
    "squared_error",
]


def cross_entropy(means: Tensor, labels: Tensor) -> Tensor:
    """Of every entry (B, M), means as logits of labels in [0, 1]; of no use where the label is NaN.

    Raises:
        DataError: for labels outside [0, 1].
    """
    known = labels[labels.isfinite()]
    if known.numel() and not 0 <= known.min() <= known.max() <= 1:
        raise DataError(
            f"labels must lie in [0, 1] for a cross-entropy, got values from {known.min():g} to {known.max():g}: "
            "scale them, or take the l2 loss"
        )
    # NaN, masked later, would still spoil gradients
    return F.binary_cross_entropy_with_logits(means, labels.nan_to_num(), reduction="none")


def squared_error(means: Tensor, labels: Tensor) -> Tensor:
    """Of every entry (B, M); of no use where the label is NaN."""
    return (means - labels.nan_to_num()).square()


def covariance_penalty(codes: Tensor, labels: Tensor) -> Tensor:
    """The squared covariances of codes (B, D) and labels (B, M), but that of a code and its own label: a scalar.

    Of the items that have all labels; none without such an item (Locatello et al., ICLR 2020).
    """
    whole = labels.isfinite().all(1)
    codes, labels = codes[whole], labels[whole]
    covariance = (codes - codes.sum(0) / max(len(codes), 1)).T @ labels / max(len(codes), 1)
    return covariance.square().sum() - covariance.diagonal().square().sum()


def mean_of_known(entries: Tensor, labels: Tensor) -> Tensor:
    """The mean of the entries (B, M) whose labels are known, a scalar; 0 where none is."""
    known = labels.isfinite()
    return entries.masked_fill(~known, 0).sum() / known.sum().clamp(min=1)


class LabelEmbedding(nn.Module):
    """A place on the line of a code for each value of its factor: a value is told by which place is the nearest.

    Args:
        values: of each of the M factors, how many there are; labels in [0, 1] are evenly spaced ones.
    """

    def __init__(self, values: list[int]) -> None:
        super().__init__()
        self.places = nn.ParameterList(nn.Parameter(torch.linspace(-1, 1, number)) for number in values)

    def forward(self, means: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropies (B, M) of softmax(-(mean - place)^2); of no use where the label is NaN."""
        columns = []
        for mean, label, places in zip(means.T, labels.T, self.places, strict=True):
            number = (label.nan_to_num() * (len(places) - 1)).round().long()
            columns.append(F.cross_entropy(-(mean[:, None] - places).square(), number, reduction="none"))
        return torch.stack(columns, dim=1)


def annealed(kind: str, progress: float, share: float) -> float:
    """A factor on the weight of labels: ``fixed`` is 1, ``anneal`` rises to 1 over a share of the training.

    ``fine_tune`` is none before that share, and 1 after it.

    >>> annealed("anneal", 0.25, 0.5), annealed("fine_tune", 0.25, 0.5), annealed("fixed", 0.25, 0.5)
    (0.5, 0.0, 1.0)
    """
    if kind == "anneal":
        return min(1.0, progress / share)
    return float(progress > share) if kind == "fine_tune" else 1.0


class LabelScale(nn.Module):
    """The units of M labels: their least and largest value, mean and deviation in the training images.

    They are fitted once, and saved with the model.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        for name, value in (("low", 0.0), ("high", 1.0), ("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((len(names),), value))

    def fit(self, labels: Tensor) -> None:
        """To labels (N, M).

        Raises:
            DataError: for a factor without any label, or with one value alone.
        """
        for name, column in zip(self.names, labels.T, strict=True):
            known = column[column.isfinite()]
            if not len(known):
                raise DataError(f"no image has a label of {name!r}: leave it out of the factors, or give labels")
            if known.min() == known.max():
                raise DataError(
                    f"all labels of {name!r} are {known[0]:g}: nothing can be learned of it. Leave it out of the "
                    "factors, or take images that differ in it"
                )
        known = labels.isfinite()
        count = known.sum(0)
        mean = labels.nan_to_num().sum(0) / count
        deviation = ((labels - mean).nan_to_num().square().sum(0) / count).sqrt()
        lowest, highest = (labels.nan_to_num(end).aminmax(dim=0) for end in (torch.inf, -torch.inf))
        for buffer, value in (
            (self.low, lowest.min),
            (self.high, highest.max),
            (self.mean, mean),
            (self.std, deviation),
        ):
            buffer.copy_(value)

    def unit(self, labels: Tensor) -> Tensor:
        """Labels (B, M) in [0, 1], 0 at the least and 1 at the largest."""
        return (labels - self.low) / (self.high - self.low)

    def standard(self, labels: Tensor) -> Tensor:
        """Labels (B, M) with mean 0 and deviation 1."""
        return (labels - self.mean) / self.std
