"""An adapter in a package of its own, docs/examples/third_party_adapter: installed for real, used by name and type."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from context_module import adapt, wrap_decoder
from context_module.adapters import get_adapter

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "third_party_adapter"


@pytest.fixture(scope="module")
def installed(pip, tmp_path_factory):
    """A folder that holds the installed package, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("site")
    source = folder / "source"  # a build leaves files beside the sources
    source.mkdir()
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    pip("install", "--target", folder / "packages", source)
    return folder / "packages"


def test_by_type_and_in_a_recipe_by_name(installed, tmp_path):
    """In a process of its own, as a user has it: nothing registers the adapter but its entry point."""
    (tmp_path / "use.py").write_text(
        """
import runpy, sys, torch
from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters import available_adapters
from context_module_pca import PCA

assert "pca" in available_adapters()
net = PCA.fit(torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)), 6)
x = torch.rand(2, 3, 8, 8)
assert torch.allclose(net.encode(net.decode(net.encode(x))), net.encode(x), atol=1e-4)
model = wrap_decoder(net, ["quad1", "size"], latent_noise=True)
assert model.base.name == "pca"
assert model(x, ["obs", "size"]).loss.isfinite().all()
assert model.add_lora(rank=2).generate(2, do="quad1+size").shape == (2, 3, 8, 8)

net = PCA.fit(torch.rand(60, 3, 8, 8), 6)
net.save("base")
sys.argv = [sys.argv[1], *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
again = ContextualDecoder.from_pretrained("out")
assert again.base.name == "pca"
assert again.generate(2, do="quad1+size").shape == (2, 3, 8, 8)
"""
    )
    flags = ["--base", "pca", "--base_checkpoint", "base", "--output_dir", "out", "--samples_per_context", "6"]
    flags += ["--train_batch_size", "7", "--max_train_steps", "2", "--score_samples", "0", "--val_fraction", "0.2"]
    result = subprocess.run(
        [sys.executable, "use.py", str(ROOT / "recipes" / "finetune.py"), *flags, "--value_draws", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "out: best validation loss" in result.stdout


def point(monkeypatch, value, name="odd", package="context-module-odd"):
    """An entry point of a package."""
    found = importlib.metadata.EntryPoint(name, value, "context_module.adapters")
    vars(found).update(dist=SimpleNamespace(name=package))
    monkeypatch.setattr("context_module.registry.entry_points", lambda **_: [found])


def test_a_package_that_does_not_import_is_named_and_stands_in_nobodys_way(monkeypatch, make_base):
    point(monkeypatch, "no_such_module_anywhere:Adapter")
    message = "the base 'odd' of context-module-odd cannot be imported .*no_such_module_anywhere"
    with pytest.raises(ImportError, match=message):
        get_adapter("odd")
    assert wrap_decoder(make_base("lightweight"), ["a"]).base.name == "lightweight"
    with pytest.raises(ImportError, match=message):
        adapt(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("torch.nn:Linear", "<class 'torch.nn.modules.linear.Linear'> \\('no name'\\)"),
        ("context_module.adapters.modules:ModulesAdapter", "ModulesAdapter'> \\('modules'\\)"),
    ],
)
def test_what_is_no_adapter_of_that_name(value, found, monkeypatch):
    point(monkeypatch, value)
    with pytest.raises(
        TypeError, match=f"of context-module-odd of a base must be a subclass of DecoderAdapter.*{found}"
    ):
        get_adapter("odd")
