"""Data sets of other packages, by name."""

from types import SimpleNamespace

import pytest
import torch

from context_module import registry
from context_module.cli import DataArguments
from context_module.data import ArrayContextDataset, ContextData, available_data, load_data, register_data
from context_module.errors import ContextModuleError, DataError


def greys(root, samples_per_context=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2 * samples_per_context, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.arange(2).repeat_interleave(samples_per_context)
    return ContextData(ArrayContextDataset(images, labels, ["obs", "a"], ["a"]))


def installed(monkeypatch, load):
    """A package that declares data named greys."""
    point = SimpleNamespace(name="greys", value="theirs:greys", dist=SimpleNamespace(name="theirs"), load=load)
    known = {"group": "context_module.data"}
    monkeypatch.setattr(registry, "entry_points", lambda **query: [point] if query == known else [])


def raises():
    raise RuntimeError("no such disk")


def test_data_of_another_package_is_loaded_by_the_flags_of_recipes(monkeypatch):
    installed(monkeypatch, lambda: greys)
    assert available_data()[0] == "quad"
    assert available_data()[-1] == "greys"
    flags = DataArguments(data="greys", data_options=["root=here"], samples_per_context=3, seed=1)
    data = flags.load(test_samples=5, resolution=None)
    assert torch.equal(data.train.select("a"), greys("", 3, 1).train.select("a"))
    with pytest.raises(DataError, match="the greys data needs root: give --data_options root=..."):
        load_data("greys")
    with pytest.raises(DataError, match="the greys data takes no option 'shade'; its options: root, samples_per_con"):
        load_data("greys", root="x", shade=1)
    with pytest.raises(DataError, match="the greys data has 1 channel, got channels=3: use a base for grey images"):
        load_data("greys", root="x", channels=3)
    with pytest.raises(DataError, match="unknown data 'gray': expected quad, .*, greys, or a directory"):
        load_data("gray")


def test_broken_data_of_another_package_names_it(monkeypatch):
    installed(monkeypatch, raises)
    with pytest.raises(ImportError, match=r"data set 'greys' of theirs cannot be imported \(theirs:greys: no such d"):
        load_data("greys")
    installed(monkeypatch, lambda: 3)
    with pytest.raises(TypeError, match="'greys' of theirs of a data set must be a function that returns ContextData"):
        load_data("greys")
    installed(monkeypatch, lambda: list)
    with pytest.raises(DataError, match="the greys data must be ContextData, its function returned list"):
        load_data("greys")


def test_registered_data():
    assert register_data("mine")(greys) is greys
    assert len(load_data("mine", root="x", samples_per_context=2).train) == 4
    with pytest.raises(ContextModuleError, match="a data set named 'quad' exists already: choose another name"):
        register_data("quad")(greys)
    with pytest.raises(DataError, match="the quad data takes no option 'version'"):
        load_data("quad", version="dependent")
