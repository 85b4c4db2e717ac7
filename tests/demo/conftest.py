"""Two saved modules around the NVAE that ships: edits with values, and a structural one with other concepts."""

from pathlib import Path

import pytest
import torch

from context_module import wrap_decoder
from context_module.adapters import load_base
from context_module.data import load_data
from context_module.demo import load_modules
from context_module.training import fit_maps, fit_values
from helpers.models import SMALL, randomise

NVAE = Path(__file__).parents[2] / "recipes" / "pretrained" / "nvae-quad32"


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """The folder of both, ``edits`` and ``structural``, and ``photo.png``, an image of the first one's data."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    options = {"resolution": 32, "samples_per_context": 24, "held_out_samples": 2}
    data = load_data("quad", **options).train.only(["obs", "quad1", "size"])
    base = load_base("nvae", NVAE)
    edits = wrap_decoder(base, ["quad1", "size"], form="edits", latent_noise=True, noise_width=8)
    fit_maps(edits, data)
    fit_values(edits, data, draws=0)
    edits.save_pretrained(folder / "edits")
    structural = wrap_decoder(load_base("nvae", NVAE), ["quad1", "shade"], **SMALL)
    randomise(structural.module)
    structural.save_pretrained(folder / "structural")
    return folder


@pytest.fixture(scope="session")
def modules(saved):
    """Both, loaded."""
    return load_modules([str(saved)])
