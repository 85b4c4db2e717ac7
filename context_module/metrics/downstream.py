"""What are the features good for? Learning from few labels, and from labels that come with a spurious attribute."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.errors import DataError, ShapeError
from context_module.metrics.case import Case
from context_module.metrics.estimate import Estimate, bootstrap, check_samples, share_estimate
from context_module.metrics.metric import Figure, WholeMetric
from context_module.metrics.representation import codes_of

__all__ = ["Head", "SampleEfficiency", "ShiftAccuracy", "accuracy_under_shift", "resample", "sample_efficiency"]

_LABELLED = 5_000  # at most so many images that heads learn from
Head = Literal["mlp", "linear"]

_MIN_TRAINING = 20  # fewer items train nothing
_MLP_STEPS, _MLP_BATCH = 2_000, 200


@dataclass(frozen=True)
class SampleEfficiency:
    """Test accuracies in [0, 1] of heads trained on few and on all labels, and their quotient."""

    few: Estimate
    full: Estimate
    efficiency: Estimate


@dataclass(frozen=True)
class ShiftAccuracy:
    """Test accuracies in [0, 1] of a head trained where a spurious attribute mostly equals the target.

    Attributes:
        average: on all test items.
        worst: the lowest of the groups'.
        groups: by (target, spurious).
    """

    average: Estimate
    worst: Estimate
    groups: dict[tuple[int, int], Estimate]


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
    _check_options(head, seeds)
    train_features, (train_labels,) = _checked("train", train_features, train_labels)
    test_features, (test_labels,) = _checked("test", test_features, test_labels)
    _check_widths(train_features, test_features)
    check_samples(len(test_labels))
    n = len(train_labels)
    full = n if full is None else full
    if not 1 <= few <= full <= n:
        raise DataError(f"expected 1 <= few <= full <= {n} training items, got few={few} and full={full}")
    _check_classes(train_labels, test_labels, few)

    def hits(items: int, run: int) -> Tensor:
        rows = _stratified(train_labels, items, seed + run)
        model = _trained(head, train_features[rows], train_labels[rows], seed + run)
        return _predictions(model, test_features) == test_labels

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


def accuracy_under_shift(
    train_features: Tensor,
    train_target: Tensor,
    train_spurious: Tensor,
    test_features: Tensor,
    test_target: Tensor,
    test_spurious: Tensor,
    *,
    rho: float = 0.8,
    head: Head = "mlp",
    seed: int = 0,
) -> ShiftAccuracy:
    """Does a head fall for a spurious attribute? Average and worst-group accuracy as in Shen et al. (JMLR 2022).

    The head of `sample_efficiency` is trained on the target with the training items of `resample`, in which the
    spurious attribute equals the target with probability `rho`, and tested on all test items, where the two should
    be unrelated. The intervals are binomial (Wilson), over test items: few items in a group make a wide one. That of
    the worst group reaches from the lowest lower to the lowest upper limit of all groups.

    Args:
        train_features, test_features: float (N, k) and (M, k), such as means of a posterior.
        train_target, train_spurious, test_target, test_spurious: 0 or 1, integer or bool, (N,) and (M,).
        rho: P(spurious = target) in training, in [0, 1].
        head: "mlp" or "linear".
        seed: of the resampling and of the head.

    Raises:
        DataError: for a (target, spurious) group without items in training (where `rho` asks for it) or test, too
            few training items, values other than 0 and 1, or features that are not finite.
        ShapeError: for features and attributes that do not fit together.
        ValueError: for an unknown head or `rho` outside [0, 1].
        ImportError: if scikit-learn or scipy is not installed.
    """
    _check_options(head)
    train_features, (train_target, train_spurious) = _checked("train", train_features, train_target, train_spurious)
    test_features, (test_target, test_spurious) = _checked("test", test_features, test_target, test_spurious)
    _check_widths(train_features, test_features)
    members = _groups("test", test_target, test_spurious)
    for group, found in members.items():
        if not len(found):
            raise DataError(f"no test items of group {_named(group)}; the worst group needs items of all four")
    rows = resample(train_target, train_spurious, rho=rho, seed=seed)
    model = _trained(head, train_features[rows], train_target[rows], seed)
    correct = _predictions(model, test_features) == test_target
    groups = {group: share_estimate(correct[found]) for group, found in members.items()}
    each = groups.values()
    return ShiftAccuracy(
        average=share_estimate(correct),
        worst=Estimate(*(min(getattr(one, end) for one in each) for end in ("value", "low", "high", "samples"))),
        groups=groups,
    )


def resample(target: Tensor, spurious: Tensor, *, rho: float, seed: int = 0) -> Tensor:
    """Items among which the spurious attribute equals the target with probability `rho`.

    As many as there are without repeating one; the target's classes keep their shares.

    Args:
        target, spurious: 0 or 1, integer or bool (N,).
        rho: in [0, 1].
        seed: of the draw.

    Returns:
        int64 (n,), the numbers of the items, in random order.

    Raises:
        DataError: for a group without items, fewer than 20 items left, or values other than 0 and 1.
        ValueError: for `rho` outside [0, 1].
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho is a probability, got {rho}")
    members = _groups("training", target, spurious)
    if len(target.unique()) < 2:
        raise DataError(f"all training targets are {target.unique().tolist()}: there is nothing to tell apart")
    ones = target.double().mean().item()
    shares = {(t, s): (ones if t else 1 - ones) * (rho if t == s else 1 - rho) for t, s in members}
    for group, share in shares.items():
        if share and not len(members[group]):
            raise DataError(f"no training items of group {_named(group)}, of which rho={rho} needs some")
    scarcest = min((group for group in members if shares[group]), key=lambda g: len(members[g]) / shares[g])
    total = len(members[scarcest]) / shares[scarcest]
    if total < _MIN_TRAINING:
        raise DataError(
            f"only {len(members[scarcest])} training items of group {_named(scarcest)}: rho={rho} leaves "
            f"{int(total)} items to train on, at least {_MIN_TRAINING} are needed; give more of that group"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        found[torch.randperm(len(found), generator=generator)[: round(total * shares[group])]]
        for group, found in members.items()
    ]
    rows = torch.cat(drawn)
    return rows[torch.randperm(len(rows), generator=generator)]


def _check_options(head: str, seeds: int = 2) -> None:
    if head not in ("mlp", "linear"):
        raise ValueError(f"unknown head {head!r}: expected 'mlp' or 'linear'")
    if seeds < 2:
        raise ValueError(f"an interval over runs needs at least 2 seeds, got {seeds}")
    try:
        import scipy  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "downstream scores need scikit-learn and scipy: pip install context-module[evaluate]"
        ) from error


def _checked(part: str, features: Tensor, *labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """On the CPU, float32 and int64."""
    if features.ndim != 2 or any(tuple(each.shape) != (len(features),) for each in labels):
        shapes = [tuple(each.shape) for each in (features, *labels)]
        raise ShapeError(f"{part} features must be (N, k) with labels (N,), got {', '.join(map(str, shapes))}")
    if any(each.is_floating_point() or each.is_complex() for each in labels):
        raise ShapeError(f"{part} labels must be integer or bool, got {', '.join(str(each.dtype) for each in labels)}")
    if not features.isfinite().all():
        raise DataError(f"{part} features hold values that are not finite; leave those items out")
    return features.detach().cpu().float(), [each.detach().cpu().long() for each in labels]


def _check_widths(train_features: Tensor, test_features: Tensor) -> None:
    if train_features.shape[1] != test_features.shape[1]:
        raise ShapeError(
            f"train and test features must be of one width, got {train_features.shape[1]} and {test_features.shape[1]}"
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


def _trained(head: Head, features: Tensor, labels: Tensor, seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if head == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)).fit(
            features.numpy(), labels.numpy()
        )
    batch = min(_MLP_BATCH, len(labels))
    epochs = math.ceil(_MLP_STEPS / math.ceil(len(labels) / batch))
    model = make_pipeline(
        StandardScaler(), MLPClassifier((100,), batch_size=batch, max_iter=epochs, random_state=seed)
    )
    with warnings.catch_warnings():
        # the steps are a budget: a head that is still improving at their end is as meant
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features.numpy(), labels.numpy())


def _predictions(model: Any, features: Tensor) -> Tensor:
    return torch.from_numpy(model.predict(features.numpy()))


def _over_runs(statistic: Any, hits: Tensor, seed: int) -> Estimate:
    """The mean over runs of a statistic (runs,) of test items (M, ..., runs), each run's own."""
    from scipy.stats import t

    runs = statistic(hits)
    over_items = bootstrap(lambda items: statistic(items).mean(), hits, seed=seed)
    over_runs = t.ppf(0.975, len(runs) - 1) * runs.std().item() / math.sqrt(len(runs))
    half_width = math.hypot(over_items.high - over_items.value, over_runs)
    value = over_items.value
    return Estimate(value, value - half_width, value + half_width, over_items.samples)


def _groups(part: str, target: Tensor, spurious: Tensor) -> dict[tuple[int, int], Tensor]:
    """Rows of the four (target, spurious) groups."""
    for name, values in (("target", target), ("spurious", spurious)):
        unknown = set(values.tolist()) - {0, 1}
        if unknown:
            raise DataError(f"{part} {name} must be 0 or 1, got {sorted(unknown)[:5]} as well")
    return {(t, s): ((target == t) & (spurious == s)).nonzero().flatten() for t, s in product((0, 1), repeat=2)}


def _named(group: tuple[int, int]) -> str:
    return f"(target={group[0]}, spurious={group[1]})"


def _score(case: Case) -> dict[str, Any]:
    """What heads on the frozen codes achieve: with few labels, and where a correlation is gone."""
    simulator, test = case.data.simulator, case.data.test
    assert simulator is not None
    assert simulator.target is not None
    assert test is not None
    train, test = case.data.train.only([OBSERVATIONAL]), test.only([OBSERVATIONAL])
    train, test = simulator.shifted(min(len(train), _LABELLED), len(test), seed=case.seed) or (train, test)
    columns = {}
    for part, images in (("train", train), ("test", test)):
        assert images.factors is not None
        columns[part] = [codes_of(case.subject, images)]
        for name in (simulator.target, simulator.spurious or simulator.target):
            columns[part].append(images.factors[:, images.factor_names.index(name)].long())
    efficiency = sample_efficiency(*columns["train"][:2], *columns["test"][:2], seed=case.seed)
    found: dict[str, Any] = {
        "sample_efficiency": {"few": efficiency.few, "full": efficiency.full, "efficiency": efficiency.efficiency}
    }
    if simulator.spurious:
        shift = accuracy_under_shift(*columns["train"], *columns["test"], seed=case.seed)
        found["under_shift"] = {"average": shift.average, "worst_group": shift.worst}
    return found


def _reason(case: Case) -> str | None:
    if case.data.test is None:
        return "the data has no images of the training contexts that were not trained on"
    if case.data.simulator is None or not case.data.simulator.target:
        return "the data has no factor to predict"
    return None


METRIC = WholeMetric(
    name="downstream",
    figure=Figure(
        "Downstream prediction",
        "higher",
        "What a small classifier on the frozen posterior means achieves: with few labels relative to many, and where "
        "a correlation of the training images is gone.",
    ),
    asks=("codes",),
    reason=_reason,
    score=_score,
)
