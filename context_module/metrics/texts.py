"""How near texts come to real ones, by the factors that a parser reads from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.errors import ShapeError
from context_module.metrics.case import Case
from context_module.metrics.estimate import Estimate, bootstrap, check_samples, share_estimate
from context_module.metrics.metric import ContextMetric, Figure

__all__ = [
    "CONCEPT_VARIATION",
    "INTENDED",
    "PARSES",
    "TOTAL_VARIATION",
    "UNREADABLE",
    "intended_share",
    "read_factors",
    "total_variation",
]

UNREADABLE = -1.0  # every factor of a text that does not parse: a value of its own


def read_factors(texts: Sequence[str], parser: Callable[[str], Tensor | None], num_factors: int) -> Tensor:
    """The factors (n, D) that a parser reads from texts, float32; `UNREADABLE` where it reads none."""
    factors = torch.full((len(texts), num_factors), UNREADABLE)
    for row, text in zip(factors, texts, strict=True):
        if (found := parser(text)) is not None:
            row.copy_(found)
    return factors


def total_variation(a: Tensor, b: Tensor, *, joint: bool = True, seed: int = 0) -> Estimate:
    """Total variation distance between the distributions of two samples of discrete factors, 0 to 1.

    Half the sum, over all rows of values, of the difference in their shares. Between finite samples of one
    distribution it is not zero: compare it with that of two real samples of the same sizes.

    Args:
        a, b: (n, D) and (m, D).
        joint: of whole rows; otherwise of each column by itself, averaged over the columns.
        seed: of the interval's resamples.

    Raises:
        ShapeError: for tables of different widths.
        DataError: for fewer than `MIN_SAMPLES` rows.

    >>> ours, real = torch.tensor([[0.0]] * 30 + [[1.0]] * 10), torch.tensor([[0.0]] * 20 + [[1.0]] * 20)
    >>> total_variation(ours, real).value
    0.25
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(f"factors must be two tables of one width, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    columns = [list(range(a.shape[1]))] if joint else [[column] for column in range(a.shape[1])]
    codes = torch.stack([_codes(a[:, some], b[:, some]) for some in columns], dim=1)
    return bootstrap(_mean_distance, codes[: len(a)], codes[len(a) :], seed=seed)


def intended_share(generated: Tensor, context: Tensor, others: Sequence[Tensor], *, seed: int = 0) -> Estimate:
    """The share of columns distributed as in the intended context rather than another, from 0 to 1.

    Args:
        generated: factors (n, K) of generated texts.
        context: (m, K), of real texts of the intended context.
        others: per column, the table (., K) of another context, in which that column should differ.
        seed: of the interval's resamples.

    Raises:
        DataError: for fewer than `MIN_SAMPLES` rows.
    """
    check_samples(len(generated), len(context), *map(len, others))

    codes: list[Tensor] = []  # per column: the generated texts' values,
    wanted: list[Tensor] = []  # and the shares of each value as they should be
    unwanted: list[Tensor] = []  # and should not be
    for column, other in enumerate(others):
        tables = [part[:, column, None] for part in (generated, context, other)]
        ours, real, others_own = _codes(*tables).split([len(part) for part in tables])
        codes.append(ours)
        size = int(max(ours.max(), real.max(), others_own.max())) + 1
        wanted.append(_shares(real, size))
        unwanted.append(_shares(others_own, size))

    def share(rows: Tensor) -> float:
        nearer = 0
        for ours, right, wrong in zip(rows.T, wanted, unwanted, strict=True):
            found = _shares(ours, len(right))
            nearer += bool((found - right).abs().sum() < (found - wrong).abs().sum())
        return nearer / len(wanted)

    return bootstrap(share, torch.stack(codes, dim=1), seed=seed)


def _codes(*tables: Tensor) -> Tensor:
    """A number for each row of the tables, one after the other: the same for equal rows."""
    return torch.cat(tables).unique(dim=0, return_inverse=True)[1]


def _mean_distance(a: Tensor, b: Tensor) -> float:
    """Averaged over the columns of codes (n, C) and (m, C)."""
    size = int(max(a.max(), b.max())) + 1
    gaps = [_shares(one, size) - _shares(two, size) for one, two in zip(a.T, b.T, strict=True)]
    return sum(gap.abs().sum().item() / 2 for gap in gaps) / len(gaps)


def _shares(codes: Tensor, size: int) -> Tensor:
    return codes.bincount(minlength=size) / len(codes)


def _intended(samples: Tensor, real: Tensor, context: str, case: Case) -> Estimate:
    """Against the contexts that differ in one intervention: without it where it was, with it where it was not."""
    train, concepts = case.data.train, case.data.concepts
    assert train.factors is not None
    columns = [train.factor_names.index(name) for name in concepts]
    intervened = concepts.parse(context)
    others = [OBSERVATIONAL if name in intervened else name for name in concepts]
    known = [train.factors[train.labels == train.context_names.index(other)][:, columns] for other in others]
    return intended_share(samples, real, known, seed=case.seed)


def _without_contexts(case: Case) -> str | None:
    missing = [name for name in case.data.concepts.training_contexts if name not in case.data.train.context_names]
    return f"the data has no texts of {', '.join(missing)} to tell them from" if missing else None


TOTAL_VARIATION = ContextMetric(
    name="total_variation",
    kind="texts",
    figure=Figure("Total variation", "lower", "Between the joint distributions of the concepts, read by a parser."),
    score=lambda samples, real, context, case: total_variation(samples, real, seed=case.seed),
)
CONCEPT_VARIATION = ContextMetric(
    name="concept_variation",
    kind="texts",
    figure=Figure(
        "Variation of single concepts",
        "lower",
        "Total variation distance between the distributions of each concept by itself, averaged.",
    ),
    score=lambda samples, real, context, case: total_variation(samples, real, joint=False, seed=case.seed),
)
PARSES = ContextMetric(
    name="parses",
    kind="texts",
    figure=Figure("Parses", "higher", "The share of texts that the parser reads."),
    score=lambda samples, real, context, case: share_estimate((samples[:, 0] != UNREADABLE).float()),
)
INTENDED = ContextMetric(
    name="intended",
    kind="texts",
    figure=Figure(
        "Intended",
        "higher",
        "The share of concepts distributed as in the context, and not as they would be if that one concept was "
        "intervened on and should not have been, or the other way round.",
    ),
    score=_intended,
    reason=_without_contexts,
)
