"""Does each dimension of a code stand for one true factor? The usual scores, all with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.errors import DataError, ShapeError
from context_module.metrics.case import Case
from context_module.metrics.disentanglement_scores import (
    BINS,
    FactorTable,
    dci_scores,
    factor_vae_score,
    mean_correlation,
    mutual_information_gap,
    sap_score,
    weak_mean_correlation,
)
from context_module.metrics.estimate import MIN_SAMPLES, Estimate
from context_module.metrics.metric import Figure, WholeMetric
from context_module.metrics.representation import codes_of, leading_codes

__all__ = ["METRIC", "MIN_ITEMS", "SCORES", "disentanglement", "factor_table"]

MIN_ITEMS = 10 * BINS  # so that a bin of a continuous factor has ten items to share its value
SCORES = ("factor_vae", "mig", "sap", "dci", "mcc", "mcc_spearman", "weak_mcc")


def disentanglement(
    codes: Tensor,
    factors: Tensor,
    factor_names: Iterable[str],
    *,
    discrete: Sequence[bool] | None = None,
    categorical: Sequence[int] = (),
    scores: Iterable[str] = SCORES,
    train_items: int = 10_000,
    test_items: int = 5_000,
    group_items: int = 64,
    min_std: float = 0.05,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Scores how well single dimensions of the codes stand for single true factors.

    All scores but ``dci_informativeness`` (no lower limit for a continuous factor) are in [0, 1], 1 being best:
    `factor_vae` (Kim & Mnih 2018), `mig` (Chen et al. 2018), `sap` (Kumar et al. 2018), ``dci_disentanglement``,
    ``dci_completeness`` and ``dci_informativeness`` (Eastwood & Williams 2018), and correlations of matched dimensions
    and factors, `mcc`, `mcc_spearman` and `weak_mcc` (Hyvarinen & Morioka 2016; Khemakhem et al. 2020). The functions
    of `disentanglement_scores` say how each is computed and where its interval comes from. The correlations take the
    values of a discrete factor as numbers.

    Args:
        codes: float (N, d), one code an item: means of the posterior, on the scale of a prior of variance 1.
        factors: float (N, D), the true factors. Those in which fewer than 10 items differ from the commonest value
            are skipped as constant.
        factor_names: the D names.
        discrete: which factors are discrete; by default those of at most 20 distinct values. Others are cut into 20
            bins where a score counts values, and regressed instead of classified. On the whole grid of dSprites,
            where three factors have more, the literature takes all for discrete; so does `dsprites_grid`.
        categorical: columns of `codes` that hold numbers of categories. `factor_vae` takes the Gini variance of these
            (Jeong & Song 2019); other scores take the numbers as they are.
        scores: those of `SCORES` to compute; "dci", by far the slowest, is three of them. It fits a tree per class,
            so that discrete factors of many values cost the most.
        train_items, test_items: items that predictors are fitted and tested on, drawn at random; of fewer items, the
            same shares. Scores that fit nothing use both.
        group_items: items sharing a factor's value in a vote of `factor_vae` (published: 64 to 200).
        min_std: dimensions of a lower standard deviation have no votes in `factor_vae`: they are collapsed.
        seed: of every draw.

    Returns:
        Scores by name, in the order of `SCORES`.

    Raises:
        DataError: for fewer than `MIN_ITEMS` items, values that are not finite, no varying factor, an unknown score,
            or a discrete factor with hardly an item of equal value.
        ShapeError: for codes, factors, names or `discrete` that do not fit together.
        ImportError: if scikit-learn or scipy is not installed.
    """
    chosen = set(scores)
    if unknown := chosen - set(SCORES):
        raise DataError(f"unknown scores: {', '.join(sorted(unknown))}; expected some of {', '.join(SCORES)}")
    _check_installed()
    table = factor_table(
        codes,
        factors,
        factor_names,
        discrete=discrete,
        categorical=categorical,
        train_items=train_items,
        test_items=test_items,
        seed=seed,
    )
    functions: dict[str, Callable[[], Estimate | dict[str, Estimate]]] = {
        "factor_vae": lambda: factor_vae_score(table, group_items=group_items, min_std=min_std, seed=seed),
        "mig": lambda: mutual_information_gap(table, seed=seed),
        "sap": lambda: sap_score(table, seed=seed),
        "dci": lambda: {f"dci_{name}": score for name, score in dci_scores(table, seed=seed).items()},
        "mcc": lambda: mean_correlation(table, seed=seed),
        "mcc_spearman": lambda: mean_correlation(table, ranks=True, seed=seed),
        "weak_mcc": lambda: weak_mean_correlation(table, seed=seed),
    }
    estimates: dict[str, Estimate] = {}
    for name in SCORES:
        if name in chosen:
            result = functions[name]()
            estimates.update({name: result} if isinstance(result, Estimate) else result)
    return estimates


def factor_table(
    codes: Tensor,
    factors: Tensor,
    factor_names: Iterable[str],
    *,
    discrete: Sequence[bool] | None = None,
    categorical: Sequence[int] = (),
    train_items: int = 10_000,
    test_items: int = 5_000,
    seed: int = 0,
) -> FactorTable:
    """Checks codes and factors, draws items and leaves out constant factors; see `disentanglement`."""
    names = tuple(factor_names)
    n = len(codes)
    if codes.ndim != 2 or not codes.shape[1] or tuple(factors.shape) != (n, len(names)):
        raise ShapeError(
            f"codes must be (N, d) and factors (N, {len(names)}), a column for each name, "
            f"got {tuple(codes.shape)} and {tuple(factors.shape)}"
        )
    if discrete is not None and len(discrete) != len(names):
        raise ShapeError(f"discrete must say yes or no for each of {len(names)} factors, got {len(discrete)} values")
    if train_items < 1 or test_items < 1:
        raise DataError(f"train_items and test_items must be positive, got {train_items} and {test_items}")
    total = min(n, train_items + test_items)
    if total < MIN_ITEMS:
        raise DataError(f"scores of disentanglement need at least {MIN_ITEMS} items, got {total}")
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:total]
    code_values, values = (given.detach().cpu().double()[rows].numpy() for given in (codes, factors))
    for what, array in (("codes", torch.from_numpy(code_values)), ("factors", torch.from_numpy(values))):
        if not array.isfinite().all():
            raise DataError(f"{what} hold values that are not finite; leave those items out")
    counts = [torch.from_numpy(column).unique(return_counts=True)[1] for column in values.T]
    varying = [k for k, count in enumerate(counts) if total - int(count.max()) >= MIN_SAMPLES]
    if not varying:
        raise DataError(f"no factor varies among: {', '.join(names) or 'none given'}; there is nothing to score")
    return FactorTable(
        codes=code_values,
        factors=values[:, varying],
        names=tuple(names[k] for k in varying),
        discrete=tuple(bool(discrete[k]) if discrete is not None else len(counts[k]) <= BINS for k in varying),
        train=round(total * train_items / (train_items + test_items)),
        categorical=tuple(categorical),
    )


def _check_installed() -> None:
    try:
        import scipy  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "scores of disentanglement need scikit-learn and scipy: pip install context-module[evaluate]"
        ) from error


def _score(case: Case) -> dict[str, Estimate]:
    assert case.data.test is not None
    images = case.data.test.only([OBSERVATIONAL])
    assert images.factors is not None
    codes = leading_codes(codes_of(case.subject, images), case.subject.code_width)
    simulator, names = case.data.simulator, images.factor_names
    said = None if simulator is None else simulator.discrete
    discrete = None if said is None else [name in said for name in names]
    options: dict[str, Any] = {"discrete": discrete, "categorical": case.subject.categorical, "seed": case.seed}
    # the trees of "dci", one per class, would take hours
    many = discrete is not None and any(
        whole and len(column.unique()) > BINS for whole, column in zip(discrete, images.factors.T, strict=True)
    )
    scores = [name for name in SCORES if name != "dci" or not many]
    return dict(disentanglement(codes, images.factors, names, scores=scores, **options))


def _reason(case: Case) -> str | None:
    if case.data.test is None:
        return "the data has no images of the training contexts that were not trained on"
    return "the true factors of the images are not known" if case.data.test.factors is None else None


METRIC = WholeMetric(
    name="disentanglement",
    figure=Figure(
        "Disentanglement",
        "higher",
        "How well single codes stand for single true factors, on observational images. A code is the leading "
        "direction of a noise block's posterior means; of a base alone, an entry of its encoding that varies most. "
        "DCI is left out of data with a discrete factor of more than 20 values, which would take a tree for each.",
    ),
    asks=("codes",),
    reason=_reason,
    score=_score,
)
