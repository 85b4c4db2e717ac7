"""Files of this version, of every kind that is saved: all later versions read them, and they give the same.

They were written by ``python -m helpers.golden``; never write them anew to make a test pass.
"""

from pathlib import Path

import torch

from context_module.adapters.nvae import NVAE
from context_module.io import load_tensors
from helpers.golden import read, resumed

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"


def test_modules_lora_and_pack_give_the_same():
    expected, found = load_tensors(GOLDEN / "expected.safetensors"), read(GOLDEN)
    del expected["resumed"]
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.equal(expected["edits null"], expected['edits "a"'])


def test_a_base_is_read():
    assert NVAE.from_pretrained(GOLDEN / "base").config.image_size == 8


def test_a_checkpoint_goes_on():
    torch.testing.assert_close(resumed(GOLDEN), load_tensors(GOLDEN / "expected.safetensors")["resumed"])


def test_they_are_small():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 1_000_000
