"""What are the features good for? Learning from few labels, and from labels that come with a spurious attribute."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextDataset
from context_module.errors import DataError
from context_module.metrics.case import Case
from context_module.metrics.estimate import Estimate, bootstrap, check_samples
from context_module.metrics.heads import Head, check_options, check_widths, checked, predictions, trained
from context_module.metrics.metric import Figure, WholeMetric
from context_module.metrics.representation import codes_of
from context_module.metrics.shift import accuracy_under_shift

__all__ = ["SampleEfficiency", "sample_efficiency"]

_LABELLED = 5_000  # at most so many images that heads learn from


@dataclass(frozen=True)
class SampleEfficiency:
    """Test accuracies in [0, 1] of heads trained on few and on all labels, and their quotient."""

    few: Estimate
    full: Estimate
    efficiency: Estimate


def sample_efficiency(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    few: int = 100,
    full: int | None = None,
    seeds: int = 5,
    head: Head = "mlp",
    seed: int = 0,
) -> SampleEfficiency:
    """How much of the accuracy is left with few labels: the statistical efficiency of Shen et al. (JMLR 2022).

    A head is trained on `few` labelled items and another on `full`, drawn anew for each of `seeds` runs with the
    classes in their proportions; the features are standardised by the items drawn. All runs share the test items.
    Figures are means over runs, and their intervals add up the spread over runs (Student's t) and over resampled test
    items. The heads are scikit-learn's: "mlp" has one hidden layer of 100 units and takes 2,000 steps of Adam at
    most, whatever the number of items; "linear" is logistic regression.

    Args:
        train_features, test_features: float (N, k) and (M, k), such as means of a posterior.
        train_labels, test_labels: integer or bool (N,) and (M,), classes of any number.
        few: labelled items of the first head.
        full: of the second; by default all.
        seeds: runs, at least 2.
        head: "mlp" or "linear".
        seed: of the draws and of the heads.

    Raises:
        DataError: for more labelled items than there are, a class too rare to be among `few`, a test class that is
            not trained on, fewer than 10 test items, one class only, or features that are not finite.
        NonFiniteError: for no efficiency, as the accuracy with all labels is 0.
        ShapeError: for features and labels that do not fit together.
        ValueError: for an unknown head or fewer than 2 seeds.
        ImportError: if scikit-learn or scipy is not installed.
    """
    check_options(head, seeds)
    train_features, (train_labels,) = checked("train", train_features, train_labels)
    test_features, (test_labels,) = checked("test", test_features, test_labels)
    check_widths(train_features, test_features)
    check_samples(len(test_labels))
    n = len(train_labels)
    full = n if full is None else full
    if not 1 <= few <= full <= n:
        raise DataError(f"expected 1 <= few <= full <= {n} training items, got few={few} and full={full}")
    _check_classes(train_labels, test_labels, few)

    def hits(items: int, run: int) -> Tensor:
        rows = _stratified(train_labels, items, seed + run)
        model = trained(head, train_features[rows], train_labels[rows], seed + run)
        return predictions(model, test_features) == test_labels

    few_hits = torch.stack([hits(few, run) for run in range(seeds)], dim=1).double()
    full_hits = torch.stack([hits(full, run) for run in range(seeds)], dim=1).double()

    def efficiencies(both: Tensor) -> Tensor:
        few_accuracies, full_accuracies = both.mean(dim=0)
        return few_accuracies / full_accuracies

    return SampleEfficiency(
        few=_over_runs(lambda correct: correct.mean(dim=0), few_hits, seed),
        full=_over_runs(lambda correct: correct.mean(dim=0), full_hits, seed),
        efficiency=_over_runs(efficiencies, torch.stack([few_hits, full_hits], dim=1), seed),
    )


def _check_classes(train_labels: Tensor, test_labels: Tensor, few: int) -> None:
    classes, counts = train_labels.unique(return_counts=True)
    if len(classes) < 2:
        raise DataError(f"all training labels are {classes.tolist()}: there is nothing to tell apart")
    unknown = set(test_labels.tolist()) - set(classes.tolist())
    if unknown:
        raise DataError(f"test labels {sorted(unknown)} are not among the training labels {classes.tolist()}")
    rarest = int(counts.argmin())
    needed = math.ceil(len(train_labels) / int(counts[rarest]))
    if few < needed:
        raise DataError(
            f"class {int(classes[rarest])} has {int(counts[rarest])} of {len(train_labels)} training items, too rare "
            f"to be among {few} labelled ones; set few to {needed} or more"
        )


def _stratified(labels: Tensor, items: int, seed: int) -> Tensor:
    """Rows of so many items, the classes in proportion: evenly spaced among the rows sorted by class."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    ordered = shuffled[labels[shuffled].argsort(stable=True)]
    start = int(torch.randint(len(labels), (1,), generator=generator))
    return ordered[(torch.arange(items) * len(labels) + start) // items]


def _over_runs(statistic: Any, hits: Tensor, seed: int) -> Estimate:
    """The mean over runs of a statistic (runs,) of test items (M, ..., runs), each run's own."""
    from scipy.stats import t

    runs = statistic(hits)
    over_items = bootstrap(lambda items: statistic(items).mean(), hits, seed=seed)
    over_runs = t.ppf(0.975, len(runs) - 1) * runs.std().item() / math.sqrt(len(runs))
    half_width = math.hypot(over_items.high - over_items.value, over_runs)
    value = over_items.value
    return Estimate(value, value - half_width, value + half_width, over_items.samples)


def _score(case: Case) -> dict[str, Any]:
    """What heads on the frozen codes achieve: with few labels, and where a correlation is gone."""
    data, simulator = case.data, case.data.simulator
    assert data.test is not None
    assert data.target is not None
    images = data.train.only([OBSERVATIONAL]), data.test.only([OBSERVATIONAL])
    drawn = simulator and simulator.shifted(min(len(images[0]), _LABELLED), len(images[1]), seed=case.seed)
    asked = (data.target, data.spurious or data.target)

    def columns(images: ContextDataset) -> list[Tensor]:
        assert images.factors is not None
        labels = [images.factors[:, images.factor_names.index(name)].long() for name in asked]
        return [codes_of(case.subject, images), *labels]

    own = [columns(part) for part in images]
    shifted = [columns(part) for part in drawn] if drawn else own
    if len(own[0][1].unique()) < 2:  # there is nothing to predict but where the task has its own images
        own = shifted

    def of_codes(kept: slice) -> dict[str, Any]:
        """Of these columns of the codes."""
        (train, train_target, _), (test, test_target, _) = own
        efficiency = sample_efficiency(train[:, kept], train_target, test[:, kept], test_target, seed=case.seed)
        found: dict[str, Any] = {
            "sample_efficiency": {"few": efficiency.few, "full": efficiency.full, "efficiency": efficiency.efficiency}
        }
        if data.spurious:
            (codes, *labels), (test_codes, *test_labels) = shifted
            parts = (codes[:, kept], *labels, test_codes[:, kept], *test_labels)
            shift = accuracy_under_shift(*parts, seed=case.seed)
            found["under_shift"] = {"average": shift.average, "worst_group": shift.worst}
        return found

    scores = of_codes(slice(None))
    if case.subject.labelled:
        scores["labelled_codes"] = of_codes(slice(case.subject.labelled))
    return scores


def _reason(case: Case) -> str | None:
    if case.data.test is None:
        return "the data has no images of the training contexts that were not trained on"
    if case.data.target is None:
        return "the data has no factor to predict"
    return None


METRIC = WholeMetric(
    name="downstream",
    figure=Figure(
        "Downstream prediction",
        "higher",
        "What a small classifier on the frozen posterior means achieves: with few labels relative to many, and where "
        "a correlation of the training images is gone; of a method that learns from labels also on their codes alone.",
    ),
    asks=("codes",),
    reason=_reason,
    score=_score,
)
