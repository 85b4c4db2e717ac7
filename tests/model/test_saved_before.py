"""Files that version 0.1.0 of the library wrote are read, and say the same: tests/fixtures/saved.

There are a base, two modules on it in one folder (the second with LoRA), a concept pack of the first, and a module
with the base that trained along. ``expected.safetensors`` holds what they generated then, four images each.
"""

import shutil
from pathlib import Path

import pytest
import torch

from context_module import ContextualDecoder, Value
from context_module.adapters import load_base
from context_module.io import load_tensors, read_json
from context_module.saving import describe

SAVED = Path(__file__).parents[1] / "fixtures" / "saved"


@pytest.fixture
def expected():
    return load_tensors(SAVED / "expected.safetensors")


@pytest.fixture
def model():
    return ContextualDecoder.from_pretrained(SAVED / "module", base=load_base("nvae", SAVED / "base"))


def seeded():
    return torch.Generator().manual_seed(1)


def test_a_module(model, expected):
    torch.testing.assert_close(model.generate(4, do=("quad1", "size"), generator=seeded()), expected["module"])
    assert model.config.graph == (("size", "quad1"),)
    assert (model.details.data, model.details.metrics) == ("quad", "| a |\n|---|\n| 1 |")


def test_its_values(model, expected):
    torch.testing.assert_close(model.generate(4, do={"size": Value(1.0)}, generator=seeded()), expected["value"])


def test_a_concept_pack(model, expected):
    model.add_concept(SAVED / "hue.safetensors")
    torch.testing.assert_close(model.generate(4, do=("hue", "size"), generator=seeded()), expected["pack"])


def test_its_counterfactuals(model, expected):
    model.add_concept(SAVED / "hue.safetensors")  # there when they were made
    behind = model.abduct(expected["x"], "obs")
    torch.testing.assert_close(model.generate(noise=behind, do="size", generator=seeded()), expected["counterfactual"])


def test_a_module_with_a_name_and_lora(model, expected):
    pytest.importorskip("peft")
    model.load_adapter(SAVED / "module", "other", subfolder="other")
    model.set_adapter("other")
    assert model.lora.rank == 2
    torch.testing.assert_close(model.generate(4, do="tone", generator=seeded()), expected["other"])


def test_a_module_with_its_base(expected):
    model = ContextualDecoder.from_pretrained(SAVED / "owned")
    assert model.owns_base
    torch.testing.assert_close(model.generate(4, do="tone", generator=seeded()), expected["owned"])


@pytest.mark.parametrize("folder", ["module", "module/other", "owned"])
def test_saving_again_writes_the_same(folder, tmp_path):
    base = None if folder == "owned" else load_base("nvae", SAVED / "base")
    if base is not None:
        base.source = None  # as it was then
    shutil.copytree(SAVED / folder, tmp_path / "old")
    model = ContextualDecoder.from_pretrained(tmp_path / "old", base=base)
    model.save_pretrained(tmp_path / "new")
    new, old = ((tmp_path / part / "adapter_model.safetensors").read_bytes() for part in ("new", "old"))
    assert new == old
    new, old = (read_json(tmp_path / part / "adapter_config.json") for part in ("new", "old"))
    before = old.pop("base_fingerprint")
    assert new.pop("base_fingerprint").split("-")[0] == before  # of today's two
    assert len(new.pop("sha256")) == 64  # there was none
    assert new == old


def test_info_describes_it():
    text = describe(SAVED / "module")
    assert "context module 'other'" in text
    assert "LoRA" in text
