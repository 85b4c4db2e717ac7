"""Small NVAEs for the tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from context_module.adapters.nvae import NVAE, NVAEConfig

TINY = {
    "image_size": 8,
    "in_channels": 3,
    "likelihood": "bernoulli",
    "num_scales": 2,
    "groups_per_scale": 2,
    "latent_channels": 2,
    "encoder_channels": 4,
    "decoder_channels": 4,
    "num_blocks": 1,
    "encoder_cells": 1,
    "decoder_cells": 1,
    "ops": "res_bnelu",
}


@pytest.fixture
def make_net() -> Callable[..., NVAE]:
    """Builds a tiny network in eval mode; keywords change its configuration."""

    def make(**changes: Any) -> NVAE:
        torch.manual_seed(0)
        return NVAE(NVAEConfig.from_dict({**TINY, **changes})).eval()

    return make


@pytest.fixture
def checkpoints() -> Path:
    """The folder of the public-format checkpoints and what they compute."""
    return Path(__file__).parents[2] / "fixtures" / "nvae"
