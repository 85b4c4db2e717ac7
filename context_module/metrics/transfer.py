"""How well rows of perturbations are explained that were not trained on, once their own parameters are fitted."""

from __future__ import annotations

from context_module.contexts import OBSERVATIONAL, SEPARATOR
from context_module.data import ContextData
from context_module.metrics.case import Case
from context_module.metrics.estimate import Estimate, mean_estimate
from context_module.metrics.metric import Figure, WholeMetric

__all__ = ["METRIC", "TRANSFER_DRAWS"]

TRANSFER_DRAWS = 100  # of the importance-weighted bound


def _data(case: Case) -> ContextData:
    return case.data if case.whole is None else case.whole


def _new(case: Case) -> list[str]:
    """Single perturbations that the subject was not trained on."""
    learned = getattr(case.subject, "learned", case.data.train.context_names)
    names = [name for name in _data(case).train.context_names if SEPARATOR not in name and name != OBSERVATIONAL]
    return [name for name in names if name not in learned]


def _reason(case: Case) -> str | None:
    if not _new(case):
        return "the model was trained on all perturbations: leave some out, --contexts"
    return None if case.data.test is not None else "the data has no rows that were not trained on"


def _score(case: Case) -> dict[str, Estimate]:
    contexts = _new(case)
    data = _data(case)
    assert data.test is not None
    elbo, weighted = case.subject.transfer(  # type: ignore[attr-defined]
        data.train, data.test.only(contexts), contexts, seed=case.seed
    )
    return {"nll_elbo": mean_estimate(-elbo), "nll_iwelbo": mean_estimate(-weighted)}


METRIC = WholeMetric(
    name="transfer",
    kind="vectors",
    figure=Figure(
        "Transfer",
        "lower",
        "Nats per row of perturbations that were not trained on: their own parameters are fitted to training rows of "
        "them, all else stands still, and other rows are explained. By the ELBO, and by an importance-weighted bound "
        f"of {TRANSFER_DRAWS} draws.",
    ),
    asks=("transfer",),
    reason=_reason,
    score=_score,
    in_summary=True,
)
