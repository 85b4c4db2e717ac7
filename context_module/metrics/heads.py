"""Small classifiers on features: what a representation is good for shows in what they achieve."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from context_module.errors import DataError, ShapeError

__all__ = ["Head", "check_options", "check_widths", "checked", "predictions", "trained"]

Head = Literal["mlp", "linear"]

_MLP_STEPS, _MLP_BATCH = 2_000, 200


def check_options(head: str, seeds: int = 2) -> None:
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


def checked(part: str, features: Tensor, *labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """On the CPU, float32 and int64."""
    if features.ndim != 2 or any(tuple(each.shape) != (len(features),) for each in labels):
        shapes = [tuple(each.shape) for each in (features, *labels)]
        raise ShapeError(f"{part} features must be (N, k) with labels (N,), got {', '.join(map(str, shapes))}")
    if any(each.is_floating_point() or each.is_complex() for each in labels):
        raise ShapeError(f"{part} labels must be integer or bool, got {', '.join(str(each.dtype) for each in labels)}")
    if not features.isfinite().all():
        raise DataError(f"{part} features hold values that are not finite; leave those items out")
    return features.detach().cpu().float(), [each.detach().cpu().long() for each in labels]


def check_widths(train_features: Tensor, test_features: Tensor) -> None:
    if train_features.shape[1] != test_features.shape[1]:
        raise ShapeError(
            f"train and test features must be of one width, got {train_features.shape[1]} and {test_features.shape[1]}"
        )


def trained(head: Head, features: Tensor, labels: Tensor, seed: int) -> Any:
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


def predictions(model: Any, features: Tensor) -> Tensor:
    return torch.from_numpy(model.predict(features.numpy()))
