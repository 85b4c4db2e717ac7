"""The scores behind `disentanglement`: functions of one table of codes and true factors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from context_module.errors import DataError
from context_module.metrics.estimate import Estimate, bootstrap_indices

__all__ = [
    "BINS",
    "FactorTable",
    "correlations",
    "dci_scores",
    "factor_vae_score",
    "mean_correlation",
    "mutual_information_gap",
    "sap_score",
    "weak_mean_correlation",
]

Array = NDArray[Any]

BINS = 20
_MIN_GROUP = 5  # items sharing a value, for their variance to mean something
_BLOCKS = 5  # disjoint parts that DCI is refitted on, for its interval
_NO_VARIANCE = 1e-12


@dataclass(frozen=True)
class FactorTable:
    """Codes and true factors of items in random order.

    Attributes:
        codes: float64 (N, d).
        factors: float64 (N, D); every factor varies.
        names, discrete: per factor.
        train: number of items to fit on, the first ones; the others are to test on.
        categorical: columns of `codes` that hold numbers of categories.
    """

    codes: Array
    factors: Array
    names: tuple[str, ...]
    discrete: tuple[bool, ...]
    train: int
    categorical: tuple[int, ...] = ()


def factor_vae_score(
    table: FactorTable,
    *,
    group_items: int = 64,
    min_std: float = 0.05,
    train_votes: int = 10_000,
    test_votes: int = 5_000,
    resamples: int = 20,
    seed: int = 0,
) -> Estimate:
    """The FactorVAE score (Kim & Mnih 2018): can the fixed factor be told from the dimension that varies least?

    A vote draws a factor, the value of a random item, and `group_items` items of that value (with replacement). Its
    dimension is that of the lowest variance relative to the variance over all items. A dimension stands for the
    factor of most of its training votes; the score is the share of test votes this gets right. A continuous factor
    is fixed to one of 20 bins of equally many items. Values of fewer than 5 items are not drawn. The variance of a
    categorical dimension is Gini's: half of what its one-hot columns have together.

    The interval is over resampled items with new votes, few times as this is slow.

    Args:
        group_items: items in a vote.
        min_std: dimensions of a lower standard deviation have no votes; the score without any dimension is 0.
        train_votes, test_votes: numbers of votes.
        resamples: of the interval.
        seed: of votes and resamples.

    Raises:
        DataError: for a discrete factor of which most items have a value of their own.
    """
    if group_items < 2 or min_std <= 0:
        raise DataError(f"group_items must be at least 2 and min_std positive, got {group_items} and {min_std}")
    rng = np.random.default_rng(seed)
    groups = [_groups(table, k) for k in range(len(table.names))]

    def votes(n: int, codes: list[Array], by_group: list[tuple[Array, Array, Array]]) -> Array:
        """(d, D): how often each of d dimensions, (columns, N) each, varied least with each factor fixed."""
        numbers = rng.multinomial(n, np.full(len(by_group), 1 / len(by_group)))
        columns = []
        for count, (order, starts, sizes) in zip(numbers, by_group, strict=True):
            chosen = rng.choice(len(sizes), size=(count, 1), p=sizes / sizes.sum())
            items = order[starts[chosen] + rng.integers(sizes[chosen], size=(count, group_items))]
            variances = np.stack([sum(_variances(column[items]) for column in dimension) for dimension in codes])
            columns.append(np.bincount(variances.argmin(0), minlength=len(codes)))
        return np.stack(columns, axis=1)

    def score(rows: Tensor) -> float:
        relative = []
        for place, column in enumerate(table.codes[rows.numpy()].T):
            dimension = column[None]
            if place in table.categorical:
                dimension = (column == np.unique(column)[:, None]).astype(float)
            std = dimension.var(axis=1).sum() ** 0.5
            if std >= min_std:
                relative.append(((dimension - dimension.mean(axis=1, keepdims=True)) / std).astype(np.float32))
        if not relative:
            return 0.0
        by_group = [_by_group(labels[rows.numpy()]) for labels in groups]
        train, test = votes(train_votes, relative, by_group), votes(test_votes, relative, by_group)
        return float(test[np.arange(len(test)), train.argmax(axis=1)].sum() / test.sum())

    return bootstrap_indices(score, [len(table.codes)], resamples=resamples, seed=seed)


def mutual_information_gap(table: FactorTable, *, seed: int = 0) -> Estimate:
    """MIG (Chen et al. 2018): how much more the best dimension tells of a factor than the second best.

    (I(1st; v) - I(2nd; v)) / H(v), averaged over factors, with plug-in mutual information of codes cut into 20 bins
    of equal width, and continuous factors too (Locatello et al. 2019). The interval is over resampled items.
    """
    from scipy.special import entr

    dims = table.codes.shape[1]
    codes = np.stack([_equal_width(column) for column in table.codes.T], axis=1) + BINS * np.arange(dims)
    levels = [
        _values(column) if discrete else _equal_width(column)
        for column, discrete in zip(table.factors.T, table.discrete, strict=True)
    ]
    sizes = [int(level.max()) + 1 for level in levels]
    cells = [codes * size + level[:, None] for level, size in zip(levels, sizes, strict=True)]

    def gap(rows: Tensor) -> float:
        gaps = []
        for cell, size in zip(cells, sizes, strict=True):
            counts = np.bincount(cell[rows.numpy()].ravel(), minlength=dims * BINS * size)
            joint = counts.reshape(dims, BINS, size) / len(rows)
            entropy = entr(joint[0].sum(axis=0)).sum()
            information = entropy + entr(joint.sum(axis=2)).sum(axis=1) - entr(joint).sum(axis=(1, 2))
            gaps.append(_gap(information) / entropy if entropy > 0 else 0.0)
        return float(np.mean(gaps))

    return bootstrap_indices(gap, [len(table.codes)], seed=seed)


def sap_score(table: FactorTable, *, seed: int = 0) -> Estimate:
    """SAP (Kumar et al. 2018): how much better the best dimension predicts a factor than the second best.

    Of a discrete factor, the accuracy of a linear support vector machine on one dimension, C = 0.01 and classes
    weighted to balance; of a continuous one, the squared correlation. Both on the test items; averaged over factors.
    The interval is over resampled test items.
    """
    from sklearn.svm import LinearSVC

    codes, factors = table.codes, table.factors
    test = codes[table.train :]
    hits = {}
    for k in np.flatnonzero(table.discrete):
        labels = _values(factors[:, k])
        predicted = [
            # the primal problem: a dimension at a time, it converges where the dual may not
            LinearSVC(C=0.01, class_weight="balanced", dual=False, random_state=seed)
            .fit(codes[: table.train, j : j + 1], labels[: table.train])
            .predict(test[:, j : j + 1])
            for j in range(codes.shape[1])
        ]
        hits[k] = np.stack(predicted, axis=1) == labels[table.train :, None]

    def score(rows: Tensor) -> float:
        squared = correlations(test[rows.numpy()], factors[table.train :][rows.numpy()]) ** 2
        for k, hit in hits.items():
            squared[:, k] = hit[rows.numpy()].mean(axis=0)
        return float(np.mean([_gap(column) for column in squared.T]))

    return bootstrap_indices(score, [len(test)], seed=seed)


def dci_scores(table: FactorTable, *, seed: int = 0) -> dict[str, Estimate]:
    """DCI (Eastwood & Williams 2018), from the importance of every dimension in predicting every factor.

    The predictors are gradient-boosted trees, classifying discrete and regressing continuous factors. With R[j, k]
    the importance of dimension j for factor k, `disentanglement` is 1 - the entropy of row j (base D), averaged over
    dimensions by their importance, `completeness` the same of columns (base d), and `informativeness` the mean over
    factors of test accuracy, or of R^2.

    The interval of informativeness is over resampled test items. Those of disentanglement and completeness are
    from refits on 5 disjoint parts of the training items: Student's t * their standard deviation / sqrt(5).
    """
    from scipy.stats import t

    # classes by number: scikit-learn takes no fractions for labels
    columns = zip(table.factors.T, table.discrete, strict=True)
    targets = np.stack([_values(column) if discrete else column for column, discrete in columns], axis=1)
    table = replace(table, factors=targets)
    train, test = np.arange(table.train), np.arange(table.train, len(table.codes))
    models = _boosted_trees(table, train, seed)
    figures = _disentanglement_completeness(_importances(table, models))
    blocks = np.stack(
        [
            _disentanglement_completeness(_importances(table, _boosted_trees(table, part, seed)))
            for part in np.array_split(train, _BLOCKS)
        ]
    )
    half_widths = t.ppf(0.975, _BLOCKS - 1) * blocks.std(axis=0, ddof=1) / np.sqrt(_BLOCKS)
    true = table.factors[test]
    predicted = np.stack([model.predict(table.codes[test]) for model in models], axis=1)

    def informativeness(rows: Tensor) -> float:
        y, guess = true[rows.numpy()], predicted[rows.numpy()]
        variance = y.var(axis=0)
        error = ((y - guess) ** 2).mean(axis=0)
        r2 = np.where(variance > _NO_VARIANCE, 1 - error / np.maximum(variance, _NO_VARIANCE), 0.0)
        return float(np.where(table.discrete, (y == guess).mean(axis=0), r2).mean())

    estimates = {
        name: Estimate(float(value), float(value - half), float(value + half), table.train)
        for name, value, half in zip(("disentanglement", "completeness"), figures, half_widths, strict=True)
    }
    return {**estimates, "informativeness": bootstrap_indices(informativeness, [len(test)], seed=seed)}


def mean_correlation(table: FactorTable, *, ranks: bool = False, seed: int = 0) -> Estimate:
    """MCC (Hyvarinen & Morioka 2016): the mean absolute correlation of factors and dimensions, matched one to one.

    The matching is that of the largest mean (Hungarian algorithm), on the items that are scored. A factor without a
    dimension, of codes with fewer dimensions than factors, counts as 0. The interval is over resampled items.

    Args:
        ranks: Spearman's correlation instead of Pearson's.
    """
    from scipy.stats import rankdata

    def score(rows: Tensor) -> float:
        codes, factors = table.codes[rows.numpy()], table.factors[rows.numpy()]
        if ranks:
            codes, factors = rankdata(codes, axis=0), rankdata(factors, axis=0)
        return _matched(correlations(codes, factors))

    return bootstrap_indices(score, [len(table.codes)], seed=seed)


def weak_mean_correlation(table: FactorTable, *, seed: int = 0) -> Estimate:
    """Weak MCC (Khemakhem et al. 2020): the MCC of what a linear map makes of the codes.

    Published code maps codes and factors both, by canonical correlation (CCA), so that factors mixed with each other
    count as found; here every factor itself has to be.

    The map from codes to factors is of least squares, fitted on one half of the items; the other half is scored, and
    resampled for the interval. It tells whether the factors are found up to a linear map.
    """
    half = len(table.codes) // 2
    inputs = np.column_stack([table.codes, np.ones(len(table.codes))])
    weights = np.linalg.lstsq(inputs[:half], table.factors[:half], rcond=None)[0]
    mapped, true = inputs[half:] @ weights, table.factors[half:]

    def score(rows: Tensor) -> float:
        return _matched(correlations(mapped[rows.numpy()], true[rows.numpy()]))

    return bootstrap_indices(score, [len(true)], seed=seed)


def _variances(items: Array) -> Array:
    """(votes,) of centred items (votes, items): many times faster than their var()."""
    return np.einsum("vi,vi->v", items, items) / items.shape[1] - items.mean(axis=1) ** 2


def _values(column: Array) -> Array:
    return np.unique(column, return_inverse=True)[1]


def _equal_width(column: Array) -> Array:
    return np.digitize(column, np.linspace(column.min(), column.max(), BINS + 1)[1:-1])


def _groups(table: FactorTable, k: int) -> Array:
    """Per item the number of its group of equal values of factor k, or -1 in too small a group."""
    column = table.factors[:, k]
    if table.discrete[k]:
        labels = _values(column)
    else:
        labels = _values(np.digitize(column, np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1])))
    labels = np.where(np.bincount(labels)[labels] >= _MIN_GROUP, labels, -1)
    if (labels < 0).mean() > 0.5:
        raise DataError(
            f"most values of factor {table.names[k]!r} are shared by fewer than {_MIN_GROUP} of {len(column)} items; "
            "treat it as continuous, or give more items"
        )
    return labels


def _by_group(labels: Array) -> tuple[Array, Array, Array]:
    """Rows sorted by group, and where in them each group starts and how many it has."""
    order = np.argsort(labels, kind="stable")
    order = order[(labels < 0).sum() :]
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    return order, starts, sizes


def _gap(scores: Array) -> float:
    """The best score less the second best; of one dimension alone, its score."""
    ordered = np.sort(scores)
    return float(ordered[-1] - (ordered[-2] if len(ordered) > 1 else 0.0))


def correlations(a: Array, b: Array) -> Array:
    """(d, D) of columns (n, d) and (n, D); 0 where one does not vary."""
    a, b = ((columns - columns.mean(axis=0)) for columns in (a, b))
    norms = np.outer((a**2).sum(axis=0), (b**2).sum(axis=0)) ** 0.5
    constant = np.logical_or.outer(a.var(axis=0) <= _NO_VARIANCE, b.var(axis=0) <= _NO_VARIANCE)
    return np.where(constant, 0.0, a.T @ b / np.where(constant, 1.0, norms))


def _matched(found: Array) -> float:
    from scipy.optimize import linear_sum_assignment

    magnitudes = np.abs(found)
    return float(magnitudes[linear_sum_assignment(magnitudes, maximize=True)].sum() / magnitudes.shape[1])


def _boosted_trees(table: FactorTable, rows: Array, seed: int) -> list[Any]:
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    models = []
    for column, discrete in zip(table.factors[rows].T, table.discrete, strict=True):
        model = (GradientBoostingClassifier if discrete else GradientBoostingRegressor)(random_state=seed)
        if (column == column[0]).all():  # in a small part of the items
            model = DummyClassifier()
        models.append(model.fit(table.codes[rows], column))
    return models


def _importances(table: FactorTable, models: list[Any]) -> Array:
    """R (d, D); a predictor that uses no dimension has a column of zeros."""
    nothing = np.zeros(table.codes.shape[1])
    return np.stack([getattr(model, "feature_importances_", nothing) for model in models], axis=1)


def _disentanglement_completeness(importances: Array) -> Array:
    from scipy.stats import entropy

    mass = importances + 1e-11
    figures = []
    for rows in (mass, mass.T):
        base = max(rows.shape[1], 2)  # a single choice has entropy 0 in any base
        figures.append(np.average(1 - entropy(rows, base=base, axis=1), weights=rows.sum(axis=1)))
    return np.array(figures)
