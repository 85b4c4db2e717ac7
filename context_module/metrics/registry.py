"""The registry of metrics: by name, by entry point."""

from __future__ import annotations

from typing import Any, TypeVar

from context_module.metrics.metric import ContextMetric, Figure, Metric
from context_module.registry import Registry

__all__ = ["available_metrics", "built_in_metrics", "figure_of", "get_metric", "register_metric"]

M = TypeVar("M", bound=Metric)


def _wrong(name: str, thing: Any) -> str | None:
    if isinstance(thing, Metric) and thing.name == name:
        return None
    return f"must be a Metric of that name, got {thing!r}"


# in the order of reports; outside packages add theirs through the entry-point group
_METRICS: Registry[Metric] = Registry(
    "metric",
    "context_module.metrics",
    {
        "sliced_wasserstein": "context_module.metrics.sliced_wasserstein:METRIC",
        "mmd": "context_module.metrics.kernel:MMD",
        "energy_distance": "context_module.metrics.kernel:ENERGY_DISTANCE",
        "kernel_distance": "context_module.metrics.features:KERNEL",
        "frechet_distance": "context_module.metrics.features:FRECHET",
        "precision_recall": "context_module.metrics.precision_recall:METRIC",
        "concept_accuracy": "context_module.metrics.concept_accuracy:METRIC",
        "unfamiliar": "context_module.metrics.unfamiliar:METRIC",
        "total_variation": "context_module.metrics.texts:TOTAL_VARIATION",
        "concept_variation": "context_module.metrics.texts:CONCEPT_VARIATION",
        "parses": "context_module.metrics.texts:PARSES",
        "intended": "context_module.metrics.texts:INTENDED",
        "perturbation": "context_module.metrics.perturbation:PERTURBATION",
        "discrimination": "context_module.metrics.perturbation:DISCRIMINATION",
        "latents": "context_module.metrics.latents:METRIC",
        "transfer": "context_module.metrics.transfer:METRIC",
        "graph": "context_module.metrics.graph:METRIC",
        "reconstruction": "context_module.metrics.reconstruction:METRIC",
        "counterfactual": "context_module.metrics.counterfactual:METRIC",
        "axioms": "context_module.metrics.axioms:METRIC",
        "leak": "context_module.metrics.leak:METRIC",
        "disentanglement": "context_module.metrics.disentanglement:METRIC",
        "categories": "context_module.metrics.categories:METRIC",
        "downstream": "context_module.metrics.downstream:METRIC",
    },
    _wrong,
)


def register_metric(metric: M) -> M:
    """Make a metric known in this process under its name; it is returned.

    Raises:
        ContextModuleError: for a name that is taken.
        TypeError: for what is no `Metric`.
    """
    _METRICS.register(getattr(metric, "name", repr(metric)), metric)
    return metric


def available_metrics() -> list[str]:
    """Names of the metrics that are built in, registered, or installed as entry points."""
    return _METRICS.names()


def get_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ValueError: for an unknown name; lists the known ones.
        ImportError: for an installed one that cannot be imported; names its package.
        TypeError: for an installed one that is no metric, or of another name.
    """
    return _METRICS.get(name)


def built_in_metrics() -> list[Metric]:
    """Those that come with this package."""
    return [_METRICS.get(name) for name in _METRICS.built_in]


def figure_of(name: str) -> Figure:
    """What a report says of a figure, by its name or the metric's; of one that is not known here, only the name."""
    for metric in map(_METRICS.get, _METRICS.known()):
        if metric.name == name:
            return metric.figure
        if isinstance(metric, ContextMetric) and name in metric.figures:
            return metric.figures[name]
    return Figure(name.replace("_", " ").capitalize())
