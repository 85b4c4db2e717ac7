"""For every test: no network, and fixtures of the tiny bases (helpers/bases.py)."""

import functools
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported

import pytest
import torch

from context_module.adapters.registry import _ADAPTERS
from context_module.baselines.registry import _BASELINES
from context_module.data.registry import _DATA
from context_module.metrics import train_concept_classifier, train_factor_regressor
from context_module.metrics.registry import _METRICS
from helpers.bases import (
    FAMILIES,
    TINY_BASES,
    tiny_autoencoder,
    tiny_dit,
    tiny_encoder,
    tiny_flux,
    tiny_image_encoder,
    tiny_image_variation,
)
from helpers.shapes import shapes_checked

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def what_a_test_registers_is_forgotten(monkeypatch):
    for registry in (_ADAPTERS, _BASELINES, _DATA, _METRICS):
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture(autouse=True, scope="session")
def all_shapes_are_checked():
    """Of the layers, in every forward pass of every test."""
    with shapes_checked():
        yield


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Connecting to anything but this machine is an error."""

    def guarded(connect):
        def guard(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
                self.close()
                raise RuntimeError(f"a test tried to connect to {address}")
            return connect(self, address)

        return guard

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        yield


@pytest.fixture(scope="session")
def pip():
    """Runs pip without a network: it fetches nothing, and builds with the setuptools of this environment."""
    setuptools = pytest.importorskip("setuptools")
    pytest.importorskip("pip")
    if int(setuptools.__version__.partition(".")[0]) < 77:
        pytest.skip(f"builds with setuptools>=77 (pip install -e '.[dev]'), here is {setuptools.__version__}")

    def run(*argv):
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, argv)]
        command += ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr

    return run


@pytest.fixture
def short_trainings(monkeypatch):
    """Classifiers and regressors that metrics train learn for a few steps only, wherever they are trained."""
    for function in (train_concept_classifier, train_factor_regressor):
        quick = functools.partial(function, steps=3, batch_size=14)
        for module in [module for name, module in sys.modules.items() if name.startswith("context_module.metrics.")]:
            if getattr(module, function.__name__, None) is function:
                monkeypatch.setattr(module, function.__name__, quick)


@pytest.fixture
def load_recipe(monkeypatch):
    """Imports a recipe's script, by its name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
        script = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, script)  # where dataclasses look annotations up
        spec.loader.exec_module(script)
        return script

    return load


@pytest.fixture
def make_base():
    """Builds the tiny base of a family, the same for the same seed, with batch-norm statistics of its own."""

    def make(family, seed=0):
        torch.manual_seed(seed)
        base = TINY_BASES[family]()
        for name, buffer in base.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.01)
            elif name.endswith("running_var"):
                buffer.uniform_(0.1, 0.2)
        return base.eval()

    return make


@pytest.fixture(params=FAMILIES)
def family(request):
    """Runs the test on one base of every family."""
    return request.param


@pytest.fixture(params=TINY_BASES)
def every(request):
    """Runs the test on every base of the table."""
    return request.param


@pytest.fixture
def base(family, make_base):
    return make_base(family)


def same_each_time(build, *packages):
    """What `build` makes, from the same seed; the test is skipped where one of the packages is missing."""
    for package in packages:
        pytest.importorskip(package)

    def seeded_build(*arguments, **options):
        torch.manual_seed(0)
        return build(*arguments, **options)

    return seeded_build


@pytest.fixture
def autoencoder():
    """Builds a tiny autoencoder of diffusers; keywords change its configuration."""
    return same_each_time(tiny_autoencoder, "diffusers")


@pytest.fixture
def image_variation():
    """Builds a tiny pipeline of image variation; keywords are its parts."""
    return same_each_time(tiny_image_variation, "diffusers", "transformers")


@pytest.fixture
def flux():
    """Builds a tiny FluxPipeline; keywords are its parts, or what to change of the configurations."""
    return same_each_time(tiny_flux, "diffusers", "transformers")


@pytest.fixture
def dit():
    """Builds a tiny DiTPipeline; keywords change the denoiser's configuration."""
    return same_each_time(tiny_dit, "diffusers")


@pytest.fixture
def image_encoder():
    """Builds a tiny image encoder of CLIP; keywords change its configuration."""
    pytest.importorskip("transformers")
    return tiny_image_encoder


@pytest.fixture
def make_encoder():
    """Builds a tiny encoder of transformers and its tokenizer, the same for the same seed."""
    pytest.importorskip("transformers")
    return tiny_encoder
