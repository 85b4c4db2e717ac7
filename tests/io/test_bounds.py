"""Files that ask for more than they hold, or that hold what no model takes."""

import json
import resource
import time

import pytest
import torch
from torch import nn

from context_module import ContextualDecoder
from context_module.adapters.nvae import NVAE
from context_module.baselines import get_baseline, load_baseline
from context_module.errors import CheckpointError
from context_module.io import CONFIG_FILE, WEIGHTS_FILE, bounded_by, load_strictly, load_tensors, save_tensors
from context_module.io.manifest import misfitting, write_manifest
from context_module.nn import ConceptPack, ConceptPackConfig
from context_module.saving import CONFIG_NAME
from helpers.models import wrapped


@pytest.fixture(autouse=True)
def quick_and_small():
    """No such file may take seconds, or gigabytes."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def change(path, *keys, value):
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoder_cells", 10**8, "encoder_cells 100000000, but the tensors beside it hold"),
        ("groups_per_scale", 50_000, "asks for a larger network than the tensors beside it"),
        ("num_scales", 40_000, "num_blocks and num_scales halve the image at most 32 times"),
        ("latent_channels", 30_000, "asks for a larger network"),
        ("decoder_channels", 2**70, "decoder_channels 1180591620717411303424, but"),
        ("ops", {"normal_enc": ["mconv_e9999999999k3g0"]}, "of no usable NVAE"),
        ("image_size", 2**15, "prior_ftr0: shape|larger network"),
    ],
)
def test_a_base_no_larger_than_its_file(name, value, message, make_base, tmp_path):
    make_base("nvae").save_pretrained(tmp_path)
    change(tmp_path / CONFIG_FILE, name, value=value)
    with pytest.raises(CheckpointError, match=message):
        NVAE.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("noise_width", 10**9, "noise_width 1000000000, but the tensors"),
        ("depth", 2**63, "depth 9223372036854775808, but"),
        ("posterior_width", 60_000, "asks for a larger network"),
        ("free_blocks", 40_000, "asks for a larger network"),
    ],
)
def test_a_module_no_larger_than_its_file(name, value, message, make_base, tmp_path):
    model = wrapped(make_base("nvae"))
    model.save_pretrained(tmp_path)
    change(tmp_path / CONFIG_NAME, "module", name, value=value)
    with pytest.raises(CheckpointError, match=message):
        ContextualDecoder.from_pretrained(tmp_path, base=make_base("nvae"))


@pytest.mark.parametrize(
    "header", [{"latent_shape": [30_000], "rank": 3000}, {"latent_shape": [10**6] * 3}, {"hidden_width": 50_000}]
)
def test_a_pack_no_larger_than_its_file(header, tmp_path):
    config = ConceptPackConfig(concept="a", latent_shape=(2, 4, 4), rank=4, hidden_width=8)
    path = tmp_path / "a.safetensors"
    ConceptPack(config).save(path)
    fields = {"version": 1, "concept": "a", "latent_shape": [2, 4, 4], "rank": 4, "hidden_width": 8, **header}
    save_tensors(path, load_tensors(path), {"context_module_concept_pack": json.dumps(fields)})
    with pytest.raises(CheckpointError, match="asks for a larger network|but the tensors beside it hold"):
        ConceptPack.load(path)


def test_a_baseline_no_larger_than_its_file(tmp_path):
    kind = get_baseline("beta_vae")
    kind(kind.settings_class(), (1, 64, 64), 10**8).save(tmp_path)  # that many images are no layers
    load_baseline(tmp_path)
    change(tmp_path / CONFIG_FILE, "latents", value=10**7)
    with pytest.raises(CheckpointError, match="latents 10000000, but|larger network"):
        load_baseline(tmp_path)


def test_what_cannot_be_built_is_an_error_of_the_file():
    with (
        pytest.raises(CheckpointError, match=r"here asks for a network that cannot be built"),
        bounded_by({}, "here"),
    ):
        nn.Linear(2**40, 2**40)


# --- values


def replaced(tensor, what):
    if what in ("nan", "inf"):
        return tensor.index_fill(0, torch.tensor([len(tensor) - 1]), float(what))
    return tensor.to({"integers": torch.int32, "bool": torch.bool, "complex": torch.complex64}[what])


@pytest.mark.parametrize("what", ["nan", "inf", "integers", "bool", "complex"])
def test_weights_of_another_kind_are_refused(what):
    net = nn.Linear(3, 2)
    tensors = {name: replaced(tensor, what) for name, tensor in nn.Linear(3, 2).state_dict().items()}
    before = net.weight.clone()
    said = "NaN or infinite values" if what in ("nan", "inf") else r"in the file, torch\.float32 in the model"
    with pytest.raises(CheckpointError, match=f"there does not fit .*weight: .*{said}.*; bias: "):
        load_strictly(net, tensors, "there")
    assert torch.equal(net.weight, before)
    for kind in (torch.float16, torch.bfloat16, torch.float64):  # other floats are numbers, too
        load_strictly(net, {name: tensor.to(kind) for name, tensor in net.state_dict().items()}, "there")


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
def test_tensors_without_plain_numbers_are_refused():
    weight = torch.ones(2, 3)
    for tensor, said in (
        (weight.to_sparse(), "is sparse"),
        (torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "is quantised"),
        (weight.to("meta"), "is without data"),
    ):
        with pytest.raises(CheckpointError, match=f"weight: {said}, expected plain numbers"):
            load_strictly(nn.Linear(3, 2, bias=False), {"weight": tensor}, "there")


def test_buffers_that_are_infinite_on_purpose_are_loaded():
    net = nn.Module()
    net.register_buffer("mask", torch.full((2,), -torch.inf))
    load_strictly(net, {"mask": torch.full((2,), -torch.inf)}, "there")


# --- hashes


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_one_changed_bit_of_weights_is_an_error(make_base, tmp_path):
    model = wrapped(make_base("nvae"))
    model.save_pretrained(tmp_path)
    flip(tmp_path / "adapter_model.safetensors", -5)
    with pytest.raises(CheckpointError, match="do not hold what was written together"):
        ContextualDecoder.from_pretrained(tmp_path, base=make_base("nvae"))
    content = json.loads((tmp_path / CONFIG_NAME).read_text())
    del content["sha256"]
    (tmp_path / CONFIG_NAME).write_text(json.dumps(content))
    ContextualDecoder.from_pretrained(tmp_path, base=make_base("nvae"))  # changed on purpose


def test_one_changed_bit_of_a_base_is_an_error(tmp_path):
    kind = get_baseline("beta_vae")
    kind(kind.settings_class(), (1, 64, 64), 10).save(tmp_path)
    flip(tmp_path / WEIGHTS_FILE, -3)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors and its configuration do not hold what was written together"
    ):
        load_baseline(tmp_path)


def test_a_changed_manifest_is_an_error(tmp_path):
    (tmp_path / "a").write_text("1")
    write_manifest(tmp_path, ["a"], step=3)
    assert misfitting(tmp_path) == {}
    change(tmp_path / "manifest.json", "step", value=4)
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        misfitting(tmp_path)


@pytest.mark.parametrize(
    "build",
    [
        lambda n: torch.eye(n // 8, 8),
        lambda n: torch.eye(int(n**0.5)),
        lambda n: torch.eye(n // 8, m=8),
        lambda n: torch.eye(n=n // 8, m=8),
        lambda n: torch.arange(n),
        lambda n: torch.arange(5, n),
        lambda n: torch.arange(0, 2 * n, 2),
        lambda n: torch.arange(end=n),
        lambda n: torch.arange(n, 0, -1.0),
        lambda n: torch.randn(n // 8, 8, generator=torch.Generator()),
        lambda n: torch.rand((n,), dtype=torch.float64),
        lambda n: torch.empty(size=(n,)),
        lambda n: torch.full((n,), 2.0),
        lambda n: torch.zeros(n),
    ],
)
def test_whatever_is_made_is_counted(build):
    file, fits, many = {"x": torch.zeros(1000)}, 1_000_000, 1_200_000
    with bounded_by(file, "config.json"):
        build(fits)
    with pytest.raises(CheckpointError, match="asks for a larger network"), bounded_by(file, "config.json"):
        build(many)
