"""What is said of a model as a whole, mostly on images of the training contexts it was never trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from context_module.adapters import DecoderAdapter
from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextData, ContextDataset, PendulumSimulator, shift_environments
from context_module.evaluation.representation import leading_codes, posterior_means
from context_module.metrics import (
    CounterfactualConsistency,
    accuracy_under_shift,
    counterfactual_consistency,
    disentanglement,
    reconstruction_bits,
    sample_efficiency,
    train_factor_regressor,
)
from context_module.model import ContextualDecoder
from context_module.nn import CausalGraph

__all__ = ["WHOLE_METRICS", "inapplicable", "whole_scores"]

_COUNTERFACTUALS, _LABELLED = 500, 5_000  # at most so many images for these
WHOLE_METRICS = ("graph", "reconstruction", "counterfactual", "disentanglement", "downstream")


def inapplicable(
    metric: str, model: ContextualDecoder | DecoderAdapter, data: ContextData, pooled: bool
) -> str | None:
    """Why a metric does not apply to this model on this data, or None if it does."""
    if metric not in WHOLE_METRICS:
        return None
    if metric in ("graph", "counterfactual"):
        if pooled or not isinstance(model, ContextualDecoder):
            return "the model knows no interventions"
        if metric == "graph":
            return None if len(model.config.concepts) > 1 else "it takes two concepts to have an edge"
    if metric == "reconstruction" and isinstance(model, ContextualDecoder) and len(model.packs):
        return "the module does not explain images that take a concept pack"
    if data.test is None:
        return "the data has no images of the training contexts that were not trained on"
    if metric == "counterfactual" and data.simulator is None:
        return "it is not known how the images came about"
    if metric in ("counterfactual", "disentanglement") and data.test.factors is None:
        return "the true factors of the images are not known"
    if metric == "downstream" and (data.simulator is None or not data.simulator.target):
        return "the data has no factor to predict"
    return None


def whole_scores(
    metric: str,
    model: ContextualDecoder | DecoderAdapter,
    data: ContextData,
    *,
    samples: int,
    pooled: bool = False,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any] | CounterfactualConsistency | CausalGraph:
    """Score a model with one of `WHOLE_METRICS`.

    Args:
        metric: one that applies (`inapplicable`).
        model: in eval mode.
        data: with `test` images, but for the graph.
        samples: images per training context.
        pooled: every image counts as observational.
        seed: of the metric.
        cache_dir: as for `evaluate`.
        progress: show progress bars of what is trained for it.

    Raises:
        DataError: for too few images, or an encoder without what the metric asks for.
    """
    if metric == "graph":
        assert isinstance(model, ContextualDecoder)
        return model.graph(seed=seed)
    assert data.test is not None
    if metric == "reconstruction":
        images = _first(data.test, samples)
        found = reconstruction_bits(model, images.pooled() if pooled else images, seed=seed)
        return {"bits_per_pixel": found.per_pixel, "bits_per_dimension": found.per_dimension}
    if metric == "disentanglement":
        observational = data.test.only([OBSERVATIONAL])
        codes = leading_codes(model, posterior_means(model, observational))
        assert observational.factors is not None
        return dict(disentanglement(codes, observational.factors, observational.factor_names, seed=seed))
    if metric == "counterfactual":
        assert isinstance(model, ContextualDecoder)
        assert data.simulator is not None
        regressor = train_factor_regressor(
            data.train, seed=seed, device=model.base.device, cache_dir=cache_dir, progress=progress
        )
        n = min(samples, _COUNTERFACTUALS)
        return counterfactual_consistency(model, data.test, data.simulator, regressor, samples=n, seed=seed)
    return _downstream(model, data, samples, seed)


def _downstream(
    model: ContextualDecoder | DecoderAdapter, data: ContextData, samples: int, seed: int
) -> dict[str, Any]:
    """What heads on the frozen posterior means achieve: with few labels, and where a correlation is gone."""
    simulator = data.simulator
    assert simulator is not None
    assert simulator.target is not None
    assert data.test is not None
    train, test = (part.only([OBSERVATIONAL]) for part in (data.train, data.test))
    if isinstance(simulator, PendulumSimulator) and not simulator.corruption:  # then there is nothing to predict
        sizes = min(len(train), _LABELLED), len(test)
        train, test = shift_environments(*sizes, resolution=simulator.image_shape[-1], seed=seed)
    columns = {}
    for part, images in (("train", train), ("test", test)):
        assert images.factors is not None
        columns[part] = [posterior_means(model, images)]
        for name in (simulator.target, simulator.spurious or simulator.target):
            columns[part].append(images.factors[:, images.factor_names.index(name)].long())
    efficiency = sample_efficiency(*columns["train"][:2], *columns["test"][:2], seed=seed)
    found: dict[str, Any] = {
        "sample_efficiency": {"few": efficiency.few, "full": efficiency.full, "efficiency": efficiency.efficiency}
    }
    if simulator.spurious:
        shift = accuracy_under_shift(*columns["train"], *columns["test"], seed=seed)
        found["under_shift"] = {"average": shift.average, "worst_group": shift.worst}
    return found


def _first(data: ContextDataset, n: int) -> ContextDataset:
    """A view of the first n images of each context."""
    rows = [(data.labels == label).nonzero().flatten()[:n] for label in range(len(data.context_names))]
    return data.subset(torch.cat(rows))
