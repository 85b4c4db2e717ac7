"""Does a classifier fall for what only goes with the label? Average and worst-group accuracy under a shift."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from context_module.errors import DataError
from context_module.metrics.estimate import Estimate, share_estimate
from context_module.metrics.heads import Head, check_options, check_widths, checked, predictions, trained

__all__ = ["ShiftAccuracy", "accuracy_under_shift", "resample", "shift_accuracy"]

_MIN_TRAINING = 20  # fewer items train nothing


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
    check_options(head)
    train_features, (train_target, train_spurious) = checked("train", train_features, train_target, train_spurious)
    test_features, (test_target, test_spurious) = checked("test", test_features, test_target, test_spurious)
    check_widths(train_features, test_features)
    members = _groups("test", test_target, test_spurious)
    _check_groups(members)
    rows = resample(train_target, train_spurious, rho=rho, seed=seed)
    model = trained(head, train_features[rows], train_target[rows], seed)
    return shift_accuracy(predictions(model, test_features) == test_target, test_target, test_spurious)


def shift_accuracy(correct: Tensor, target: Tensor, spurious: Tensor) -> ShiftAccuracy:
    """Average and worst-group accuracy of any classifier, from whether it is right on every item.

    Args:
        correct: bool (M,).
        target, spurious: 0 or 1, integer or bool (M,).

    Raises:
        DataError: for a group without items, or values other than 0 and 1.
    """
    members = _groups("test", target, spurious)
    _check_groups(members)
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


def _groups(part: str, target: Tensor, spurious: Tensor) -> dict[tuple[int, int], Tensor]:
    """Rows of the four (target, spurious) groups."""
    for name, values in (("target", target), ("spurious", spurious)):
        unknown = set(values.tolist()) - {0, 1}
        if unknown:
            raise DataError(f"{part} {name} must be 0 or 1, got {sorted(unknown)[:5]} as well")
    return {(t, s): ((target == t) & (spurious == s)).nonzero().flatten() for t, s in product((0, 1), repeat=2)}


def _check_groups(members: dict[tuple[int, int], Tensor]) -> None:
    for group, found in members.items():
        if not len(found):
            raise DataError(f"no test items of group {_named(group)}; the worst group needs items of all four")


def _named(group: tuple[int, int]) -> str:
    return f"(target={group[0]}, spurious={group[1]})"
