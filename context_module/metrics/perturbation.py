"""How near vectors under a perturbation come to real ones: distances, and what changed on the columns that matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextDataset
from context_module.errors import ShapeError
from context_module.metrics.case import Case
from context_module.metrics.estimate import Estimate, bootstrap, mean_estimate
from context_module.metrics.kernel import mmd
from context_module.metrics.metric import ContextMetric, Figure, Table, WholeMetric
from context_module.metrics.pairs import flat_pair
from context_module.metrics.responses import Responses, expression

__all__ = [
    "ANSWERS",
    "DISCRIMINATION",
    "PERTURBATION",
    "delta_scores",
    "discrimination_score",
    "e_distance",
    "responses_of",
    "scaled_score",
]

#: What stands beside a model, by column, as tables call it.
ANSWERS = {"additive": "additive", "linear": "linear", "mean_response": "mean response"}
TOP = 20  # columns that differ most from the control
_FLAT = 1e-8


def e_distance(a: Tensor, b: Tensor, *, seed: int = 0) -> Estimate:
    """The E-distance ``2 E|x - y|^2 - E|x - x'|^2 - E|y - y'|^2`` of rows (n, G), by unbiased estimates.

    With squared Euclidean distances, as perturbation studies have it (Peidli et al. 2024), it is twice the squared
    distance of the means: it sees no change of spread or shape, for which there is `mmd`. For two samples of one
    distribution it is about zero, possibly below.

    Raises:
        ShapeError, DataError: as `mmd`.

    >>> x = torch.arange(20.0)[:, None]
    >>> round(e_distance(x, x + 3.0).value, 3)  # 2 * 3^2, and the variances of two means taken off
    11.0
    """
    a, b = flat_pair(a, b)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        noise = x.var(0).sum() / len(x) + y.var(0).sum() / len(y)
        return 2 * ((x.mean(0) - y.mean(0)).square().sum() - noise)

    return bootstrap(distance, a, b, seed=seed)


def delta_scores(
    samples: Tensor, real: Tensor, control: Tensor, *, top: int = TOP, seed: int = 0
) -> dict[str, Estimate]:
    """How well mean changes from a control are met, on the columns that a perturbation really changes most.

    These are the `top` columns by the t statistic (Welch's) of real rows against the control's.

    Args:
        samples, real: rows (n, G) and (m, G) under the perturbation.
        control: rows (k, G) without it.
        top: number of columns.
        seed: of the intervals' resamples.

    Returns:
        ``delta_error``, the mean absolute error of the changes, and ``delta_correlation``, Pearson's, in [-1, 1];
        the latter 0 for samples that change nothing.

    Raises:
        ShapeError: for rows of other widths.
        DataError: for fewer rows than an interval takes.
    """
    if not samples.shape[1:] == real.shape[1:] == control.shape[1:]:
        raise ShapeError(
            f"rows must be of one width, got {tuple(samples.shape)}, {tuple(real.shape)} and {tuple(control.shape)}"
        )
    center = control.mean(0)
    deviation = (real.var(0) / len(real) + control.var(0) / len(control)).sqrt()
    telling = ((real.mean(0) - center).abs() / deviation.clamp_min(_FLAT)).topk(min(top, real.shape[1])).indices
    rows = samples[:, telling] - center[telling], real[:, telling] - center[telling]

    def error(a: Tensor, b: Tensor) -> Tensor:
        return (a.mean(0) - b.mean(0)).abs().mean()

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        x, y = a.mean(0) - a.mean(), b.mean(0) - b.mean()
        return (x * y).sum() / (x.norm() * y.norm()).clamp_min(_FLAT)

    return {
        "delta_error": bootstrap(error, *rows, seed=seed),
        "delta_correlation": bootstrap(correlation, *rows, seed=seed),
    }


def discrimination_score(predicted: Tensor, real: Tensor) -> Estimate:
    """The perturbation discrimination score of mean profiles (P, G): from 0 to 1, about a half for profiles at random.

    Of every predicted profile, 1 - (the number of other perturbations whose real profile is nearer to it, by the sum
    of absolute differences, than its own) / (P - 1).

    Raises:
        ShapeError: for other shapes.
        DataError: for fewer than ten perturbations.
    """
    if predicted.shape != real.shape or predicted.ndim != 2:
        raise ShapeError(f"profiles must be two tables (P, G), got {tuple(predicted.shape)} and {tuple(real.shape)}")
    apart = torch.cdist(predicted.double(), real.double(), p=1)
    nearer = (apart < apart.diagonal()[:, None]).double().sum(1)
    return mean_estimate(1 - nearer / max(len(real) - 1, 1))


def scaled_score(figures: Mapping[str, float], column: str = "model") -> float:
    """A figure between that of the mean response, 0, and that of real rows, 1; NaN where these are the same.

    >>> scaled_score({"model": 0.3, "mean_response": 0.5, "floor": 0.1})
    0.5
    """
    none, all_ = figures["mean_response"], figures["floor"]
    return (figures[column] - none) / (all_ - none) if abs(all_ - none) > _FLAT else float("nan")


def responses_of(case: Case) -> Responses:
    """What takes no training on the data of a case; made once."""

    found: Responses = case.trained(_responses)
    return found


def _responses(data: ContextDataset, *, seed: int, **_: Any) -> Responses:
    return Responses(data, seed)


def _score(samples: Tensor, real: Tensor, context: str, case: Case) -> dict[str, Estimate]:
    found = {"e_distance": e_distance(samples, real, seed=case.seed)}
    found["vector_mmd"] = mmd(samples, real, bandwidth=_bandwidth(real), seed=case.seed)
    if context != OBSERVATIONAL:
        found |= delta_scores(samples, real, responses_of(case).control, seed=case.seed)
    return found


def _bandwidth(real: Tensor) -> float:
    """The same for all that is compared with these real rows: the median of their own distances."""
    apart = torch.pdist(real)
    return max(apart.median().item(), _FLAT)


def _without_control(case: Case) -> str | None:
    if OBSERVATIONAL in case.data.train.context_names:
        return None
    return f"the data has no {OBSERVATIONAL!r} rows, the control, to compare perturbations with"


def _discrimination(case: Case) -> dict[str, Estimate]:
    part = case.data.held_out
    assert part is not None
    generator = torch.Generator().manual_seed(case.seed)
    means: dict[str, list[Tensor]] = {}
    for context in part.context_names:
        rows = expression(part.select(context), part)
        count = min(case.samples, len(rows) // 2)
        columns = {"real": rows[:count], "floor": rows[count : 2 * count]}
        columns["model"] = expression(case.subject.sample(count, context, generator), part)
        for name, found in (columns | responses_of(case).columns(context, count)).items():
            means.setdefault(name, []).append(found.mean(0))
    real = torch.stack(means.pop("real"))
    ordered = ("model", "floor", *ANSWERS)
    return {name: discrimination_score(torch.stack(means[name]), real) for name in ordered}


def _few_combinations(case: Case) -> str | None:
    if case.data.held_out is None:
        return "the data holds no combination out"
    return _without_control(case)


def _discrimination_table(found: Mapping[str, Estimate]) -> list[Table]:
    titles = {"model": "the model", "floor": "other real rows", **ANSWERS}
    rows = [(titles[name], {"value": figure}) for name, figure in found.items()]
    return [Table(rows, [("value", "with interval")], first="answer")]


PERTURBATION = ContextMetric(
    name="perturbation",
    kind="vectors",
    figure=Figure("Perturbation"),
    figures={
        "e_distance": Figure(
            "E-distance",
            "lower",
            "With squared Euclidean distances: twice the squared distance of the means, of counts after normalisation "
            "to 10,000 and log1p. Unbiased: about zero, possibly below, for two samples of one distribution.",
        ),
        "vector_mmd": Figure(
            "Squared MMD",
            "lower",
            "Maximum mean discrepancy with a Gaussian kernel as wide as the median distance of the real rows. It sees "
            "spreads and shapes as well as means.",
        ),
        "delta_error": Figure(
            "Error of the changes",
            "lower",
            f"Mean absolute error of mean changes from the control, on the {TOP} columns that really change most.",
        ),
        "delta_correlation": Figure(
            "Correlation of the changes", "higher", f"Pearson's, of the mean changes of the same {TOP} columns."
        ),
    },
    columns=("model", "base", "floor", *ANSWERS),
    reason=_without_control,
    score=_score,
)
DISCRIMINATION = WholeMetric(
    name="discrimination",
    kind="vectors",
    figure=Figure(
        "Perturbation discrimination",
        "higher",
        "Of how many other combinations the real mean profile is farther from the predicted one than the right one "
        "is: 1 is all of them, a half what profiles at random have.",
    ),
    reason=_few_combinations,
    score=_discrimination,
    tables=_discrimination_table,
)
