"""Whether true latents are found, and which of them every perturbation shifts: scores of identifiable models."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from context_module.data import ContextDataset
from context_module.errors import ShapeError
from context_module.metrics.case import Case, batches
from context_module.metrics.disentanglement import factor_table
from context_module.metrics.disentanglement_scores import correlations, mean_correlation
from context_module.metrics.estimate import MIN_SAMPLES, Estimate, bootstrap, bootstrap_indices
from context_module.metrics.metric import Figure, WholeMetric
from context_module.metrics.representation import leading_codes

__all__ = ["METRIC", "SHIFTED", "latent_scores", "target_scores"]

#: Deviations of observational codes: what counts as shifted, of a subject that does not learn what is.
SHIFTED = 1.0

Array = NDArray[np.float64]
_ITEMS = 4000  # that are drawn, of more


def latent_scores(codes: Tensor, factors: Tensor, *, seed: int = 0) -> dict[str, Estimate]:
    """Correlations of matched dimensions, `mcc` and `mcc_spearman`, and ``r2`` of the factors by a linear map.

    The map is of least squares, fitted on one half of the items and scored on the other.

    Args:
        codes: (n, d).
        factors: (n, D).
        seed: of the items drawn, and of the intervals.

    Raises:
        ShapeError, DataError: as `disentanglement`.
    """
    names = [f"z{k + 1}" for k in range(factors.shape[1])]
    table = factor_table(codes, factors, names, train_items=_ITEMS // 2, test_items=_ITEMS // 2, seed=seed)
    half = len(table.codes) // 2
    inputs = np.column_stack([table.codes, np.ones(len(table.codes))])
    mapped = inputs[half:] @ np.linalg.lstsq(inputs[:half], table.factors[:half], rcond=None)[0]
    errors = torch.from_numpy(np.stack([mapped, table.factors[half:]], axis=1))

    def explained(rows: Tensor) -> Tensor:
        guessed, true = rows.unbind(1)
        return (1 - (guessed - true).square().sum(0) / (true - true.mean(0)).square().sum(0).clamp_min(1e-12)).mean()

    return {
        "mcc": mean_correlation(table, seed=seed),
        "mcc_spearman": mean_correlation(table, ranks=True, seed=seed),
        "r2": bootstrap(explained, errors, seed=seed),
    }


def target_scores(
    found: Tensor, true: Tensor, codes: Tensor, factors: Tensor, *, seed: int = 0
) -> dict[str, Estimate]:
    """Precision, recall and F1 of which latents every perturbation shifts, each in [0, 1].

    Dimensions of the codes are matched to factors one to one by their correlations. What is found in a dimension that
    stands for no factor is wrong, and what a factor without a dimension has is missed.

    Args:
        found: bool (K, d).
        true: bool (K, D).
        codes, factors: (n, d) and (n, D), of the same items.
        seed: of the intervals: perturbations are resampled.

    Raises:
        ShapeError: for tables that do not fit.
        DataError: for fewer perturbations than an interval takes.
    """
    from scipy.optimize import linear_sum_assignment

    if found.shape != (len(true), codes.shape[1]) or true.shape[1] != factors.shape[1]:
        raise ShapeError(
            f"targets must be (K, {codes.shape[1]}) and (K, {factors.shape[1]}), got {tuple(found.shape)} and "
            f"{tuple(true.shape)}"
        )
    apart = np.abs(correlations(codes.double().numpy(), factors.double().numpy()))
    ours, theirs = linear_sum_assignment(-apart)
    hits = (found[:, ours] & true[:, theirs]).sum(1)
    counts = torch.stack([hits, found.sum(1), true.sum(1)], dim=1).double()

    def share(of: int, rows: Tensor) -> float:
        hit, *totals = counts[rows].sum(0).tolist()
        return hit / max(totals[of], 1)

    def f1(rows: Tensor) -> float:
        precision, recall = share(0, rows), share(1, rows)
        return 2 * precision * recall / max(precision + recall, 1e-12)

    sizes = [len(true)]
    return {
        "precision": bootstrap_indices(lambda rows: share(0, rows), sizes, seed=seed),
        "recall": bootstrap_indices(lambda rows: share(1, rows), sizes, seed=seed),
        "f1": bootstrap_indices(f1, sizes, seed=seed),
    }


@torch.no_grad()
def _codes(case: Case, test: ContextDataset) -> Tensor:
    """Codes of items; of a subject that wants to be told of their contexts, told."""
    subject = case.subject
    told = getattr(subject, "contextual_codes", None)
    if told is None:
        found = [subject.codes(x.to(subject.device)) for x in batches(test, case.batch_size)]  # type: ignore[attr-defined]
    else:
        masks = test.concepts.mask([test.context_names[label] for label in test.labels.tolist()])
        items = zip(batches(test, case.batch_size), masks.split(case.batch_size), strict=True)
        found = [told(x.to(subject.device), mask.to(subject.device)) for x, mask in items]
    return torch.cat([some.float().cpu() for some in found])


def _score(case: Case) -> dict[str, Estimate]:
    assert case.data.test is not None
    learned = [name for name in case.data.test.context_names if name in getattr(case.subject, "learned", (name,))]
    test = case.data.test.only(learned)
    assert test.factors is not None
    codes, factors, width = _codes(case, test), test.factors, case.subject.code_width
    codes = codes if width is None else leading_codes(codes, width)
    scores = latent_scores(codes, factors, seed=case.seed)
    targets = getattr(case.subject, "targets", None)
    names = [name for name in case.data.concepts if name in learned]
    if targets is not None and case.data.targets is not None and len(names) >= MIN_SAMPLES:
        known = case.subject.concepts
        assert known is not None
        found = targets()[[known.index(name) for name in names]]
        true = case.data.targets[[case.data.concepts.index(name) for name in names]]
        scores |= target_scores(found, true, codes, factors, seed=case.seed)
    return scores


def _reason(case: Case) -> str | None:
    if case.data.test is None:
        return "the data has no rows of the training contexts that were not trained on"
    return "the true latents of the rows are not known" if case.data.test.factors is None else None


METRIC = WholeMetric(
    name="latents",
    kind="vectors",
    figure=Figure(
        "Latents",
        "higher",
        "How well single dimensions of codes stand for single true latents, over all training contexts: correlations "
        "of matched ones (Pearson, Spearman), and the variance of the latents that a linear map explains. Of models "
        "that say which dimensions a perturbation shifts, precision, recall and F1 of that.",
    ),
    asks=("codes",),
    reason=_reason,
    score=_score,
    in_summary=True,
)
