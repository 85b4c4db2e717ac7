"""Metrics by name: built in, registered, installed."""

from types import SimpleNamespace

import pytest

from context_module import registry
from context_module.errors import ContextModuleError
from context_module.metrics import (
    ContextMetric,
    Figure,
    available_metrics,
    built_in_metrics,
    figure_of,
    get_metric,
    register_metric,
)

METRIC = ContextMetric(name="mine", figure=Figure("Mine"), score=lambda samples, real, context, case: None)


def installed(monkeypatch, load, name="mine", group="context_module.metrics"):
    """A package that declares an entry point."""
    point = SimpleNamespace(name=name, value="theirs:METRIC", dist=SimpleNamespace(name="theirs"), load=load)
    monkeypatch.setattr(registry, "entry_points", lambda **query: [point] if query == {"group": group} else [])


def raises(error):
    def load():
        raise error

    return load


def test_built_in_metrics_are_found_by_their_own_name():
    for metric in built_in_metrics():
        assert get_metric(metric.name) is metric
        assert metric.figure.title
    names = [metric.name for metric in built_in_metrics()]
    assert available_metrics()[: len(names)] == names


def test_a_registered_metric_is_known_under_its_name():
    assert register_metric(METRIC) is METRIC
    assert get_metric("mine") is METRIC
    assert available_metrics()[-1] == "mine"
    assert register_metric(METRIC) is METRIC
    with pytest.raises(ContextModuleError, match="a metric named 'mmd' exists already: choose another name"):
        register_metric(ContextMetric(name="mmd", figure=Figure("Mine"), score=METRIC.score))
    with pytest.raises(TypeError, match=r"the metric .* must be a Metric of that name, got <function"):
        register_metric(installed)


def test_an_installed_metric_is_known_under_its_name(monkeypatch):
    installed(monkeypatch, lambda: METRIC)
    assert available_metrics()[-1] == "mine"
    assert get_metric("mine") is METRIC


def test_installed_metrics_that_are_broken_name_their_package(monkeypatch):
    installed(monkeypatch, raises(RuntimeError("no GPU")))
    with pytest.raises(
        ImportError, match=r"metric 'mine' of theirs cannot be imported \(theirs:METRIC: no GPU\): mend or uninstall"
    ):
        get_metric("mine")
    installed(monkeypatch, lambda: "mmd")
    with pytest.raises(TypeError, match="entry point 'mine' of theirs of a metric must be a Metric of that name, got"):
        get_metric("mine")
    assert get_metric("mmd").name == "mmd"  # others are not affected


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown metric 'fid': expected some of sliced_wasserstein, mmd"):
        get_metric("fid")
    assert figure_of("per_second").title == "Per second"
    assert figure_of("density").better == "about 1 is best"
    assert figure_of("recall").better == "higher is better"
