"""Do the categories of a representation stand for the values of a factor? Accuracy without labels."""

from __future__ import annotations

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.errors import DataError, ShapeError
from context_module.metrics.case import Case
from context_module.metrics.estimate import Estimate, share_estimate
from context_module.metrics.metric import Figure, WholeMetric
from context_module.metrics.representation import codes_of

__all__ = ["METRIC", "category_accuracy"]

_MOST_VALUES = 20  # of a factor that categories could stand for


def category_accuracy(categories: Tensor, values: Tensor) -> Estimate:
    """The share of items whose category is that of their value, under the best one-to-one match of the two.

    The unsupervised accuracy of clustering (as of JointVAE and CascadeVAE on the shapes of dSprites), with Wilson's
    interval; the match is found on the same items.

    Args:
        categories: numbers (n,).
        values: of the factor, (n,).

    Raises:
        ShapeError: for other shapes.
        ImportError: if scipy is not installed.
    """
    if categories.ndim != 1 or categories.shape != values.shape:
        raise ShapeError(
            f"categories and values must be one number per item each, got {tuple(categories.shape)} and "
            f"{tuple(values.shape)}"
        )
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("the match needs scipy: pip install context-module[evaluate]") from error
    found, of_category = categories.unique(return_inverse=True)
    known, of_value = values.unique(return_inverse=True)
    table = torch.bincount(of_category * len(known) + of_value, minlength=len(found) * len(known))
    rows, columns = linear_sum_assignment(table.view(len(found), len(known)).numpy(), maximize=True)
    match = torch.full((len(found),), -1)
    match[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return share_estimate(match[of_category] == of_value)


def _score(case: Case) -> dict[str, dict[str, Estimate]]:
    """Of every discrete code, by its number, and every factor of few values, on observational images."""
    assert case.data.test is not None
    images = case.data.test.only([OBSERVATIONAL])
    assert images.factors is not None
    codes = codes_of(case.subject, images)
    values = dict(zip(images.factor_names, images.factors.T, strict=True))
    few = {name: column for name, column in values.items() if 2 <= len(column.unique()) <= _MOST_VALUES}
    if not few:
        raise DataError(f"no factor has 2 to {_MOST_VALUES} values for categories to stand for")
    return {
        f"code {number}": {name: category_accuracy(codes[:, place], column) for name, column in few.items()}
        for number, place in enumerate(case.subject.categorical, start=1)
    }


def _reason(case: Case) -> str | None:
    if not case.subject.categorical:
        return "the representation has no categories"
    if case.data.test is None or case.data.test.factors is None:
        return "the true factors of images that were not trained on are not known"
    return None


METRIC = WholeMetric(
    name="categories",
    figure=Figure(
        "Categories",
        "higher",
        "Share of observational images whose category is that of their factor's value, under the best one-to-one "
        "match of the two.",
    ),
    asks=("codes",),
    reason=_reason,
    score=_score,
)
