"""Diffusers' autoencoders: recognising them, and their files."""

import importlib
import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters import adapt, get_adapter, load_base
from context_module.adapters.diffusers import DiffusersAdapter
from context_module.base.fingerprint import fingerprint
from context_module.errors import CheckpointError
from helpers.files import edit_json, edit_tensors
from helpers.tensors import same

WEIGHTS = "diffusion_pytorch_model.safetensors"


# recognising, and what is not there


def test_nothing_imports_diffusers_until_it_is_needed(tmp_path):
    code = """
import sys, torch
from context_module.adapters import adapt
from context_module.adapters.diffusers import DiffusersAdapter
from context_module.adapters.lightweight import LightweightVAE
adapt(LightweightVAE("conv3"))
assert not DiffusersAdapter.matches(torch.nn.Linear(1, 1)) and not DiffusersAdapter.matches(3)
assert "diffusers" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_recognises_classes_derived_from_theirs(diffusers, autoencoder):
    class Mine(diffusers.AutoencoderKL):
        pass

    assert DiffusersAdapter.matches(autoencoder())
    assert DiffusersAdapter.matches(Mine(norm_num_groups=2))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # diffusers' own
def test_names_the_classes_it_takes(diffusers):
    sizes = {"encoder_hidden_size": 4, "decoder_channels": 4, "decoder_input_channels": 2}  # of sounds
    net = diffusers.AutoencoderOobleck(**sizes, downsampling_ratios=[2], channel_multiples=[1])
    supported = "AutoencoderKL, AsymmetricAutoencoderKL, .*ConsistencyDecoderVAE"
    with pytest.raises(TypeError, match=f"no adapter for diffusers' AutoencoderOobleck; supported: {supported}"):
        wrap_decoder(net, ["a"])
    with pytest.raises(TypeError, match="no adapter for a base of type VaeImageProcessor; known families"):
        adapt(importlib.import_module("diffusers.image_processor").VaeImageProcessor())


def test_without_diffusers(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for use in (lambda: DiffusersAdapter.load(tmp_path), lambda: DiffusersAdapter.fresh((3, 8, 8))):
        with pytest.raises(ImportError, match=r"needs diffusers: pip install context-module\[diffusers\]"):
            use()


# files


@pytest.fixture
def folder(autoencoder, tmp_path):
    autoencoder().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_reads_what_diffusers_saved(autoencoder, folder):
    base = get_adapter("diffusers").load(folder)
    assert same(base.net.state_dict(), autoencoder().state_dict())
    assert base.source == str(folder)
    assert not base.net.training


def test_saves_and_loads_bit_for_bit(autoencoder, diffusers, folder, tmp_path):
    base = DiffusersAdapter.load(folder)
    torch.nn.init.constant_(base.likelihood.log_scale, -3.0)
    torch.nn.init.normal_(base.net.post_quant_conv.bias)
    base.save(tmp_path / "new" / "folder")
    base.save(folder)  # over the old one
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", WEIGHTS]
    for where in (tmp_path / "new" / "folder", folder):
        again = DiffusersAdapter.load(where)
        assert same(again.net.state_dict(), base.net.state_dict())
        assert again.likelihood.scale.item() == pytest.approx(math.exp(-3.0))
        assert fingerprint(again) == fingerprint(adapt(diffusers.AutoencoderKL.from_pretrained(where)))


SPOILED = {
    "nothing": (lambda d: (d / "config.json").unlink(), "base is neither a folder written by .* nor a Hub id"),
    "no JSON": (lambda d: (d / "config.json").write_text("{"), "base is neither a folder written by"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), f"base is neither a folder written by .*{WEIGHTS}"),
    "truncated": (lambda d: (d / WEIGHTS).write_bytes(b"123"), "base is neither a folder written by"),
    "another class": (
        lambda d: edit_json(d / "config.json", _class_name="AutoencoderOobleck"),
        "base holds a AutoencoderOobleck of diffusers; supported: AutoencoderKL",
    ),
    "another library": (
        lambda d: edit_json(d / "config.json", _class_name=None),
        "holds a None of diffusers; supported",
    ),
    "missing tensor": (
        lambda d: edit_tensors(d / WEIGHTS, lambda t: t.pop("decoder.conv_in.bias")),
        "base does not fit .*missing.*decoder.conv_in.bias",
    ),
    "unexpected tensor": (
        lambda d: edit_tensors(d / WEIGHTS, lambda t: t.update(wings=torch.ones(2))),
        "base does not fit .*unexpected.*wings",
    ),
    "wrong shape": (
        lambda d: edit_tensors(d / WEIGHTS, lambda t: t.update({"decoder.conv_in.bias": torch.ones(3)})),
        "decoder.conv_in.bias",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_refuses_a_spoiled_folder(case, folder):
    spoil, message = SPOILED[case]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        DiffusersAdapter.load(folder)


def test_weights_are_never_unpickled(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="is neither a folder written by"):
        DiffusersAdapter.load(folder)


def test_a_hub_id_that_cannot_be_had(diffusers):
    with pytest.raises(CheckpointError, match="nobody/nothing is neither a folder written by"):
        DiffusersAdapter.load("nobody/nothing")


def test_parts_of_a_repository(autoencoder, folder, tmp_path):
    pipeline = tmp_path / "pipeline"
    autoencoder().save_pretrained(pipeline / "vae", variant="fp16")
    base = load_base("diffusers", pipeline, subfolder="vae", variant="fp16", revision=None)
    assert same(base.net.state_dict(), autoencoder().state_dict())
    assert base.options == {"subfolder": "vae", "variant": "fp16"}
    model = wrap_decoder(base, ["a"], noise_width=4, concept_width=3)
    model.save_pretrained(tmp_path / "module")
    entries = json.loads((tmp_path / "module" / "adapter_config.json").read_text())
    assert entries["base_name_or_path"] == str(pipeline)
    assert entries["base_options"] == {"subfolder": "vae", "variant": "fp16"}
    assert "base_revision" not in entries
    assert same(ContextualDecoder.from_pretrained(tmp_path / "module").base.net.state_dict(), base.net.state_dict())
    shutil.copytree(pipeline, tmp_path / "moved")
    again = ContextualDecoder.from_pretrained(tmp_path / "module", base=tmp_path / "moved")
    assert (again.base.source, again.base.options) == (str(tmp_path / "moved"), base.options)
    with pytest.raises(CheckpointError, match="the base of .*module cannot be loaded: nowhere, subfolder vae"):
        ContextualDecoder.from_pretrained(tmp_path / "module", base="nowhere")
    with pytest.raises(CheckpointError, match="pipeline, subfolder vae is neither a folder written by"):
        load_base("diffusers", pipeline, subfolder="vae")
    with pytest.raises(CheckpointError, match="pipeline, subfolder unet is neither a folder written by"):
        load_base("diffusers", pipeline, subfolder="unet")


def test_the_revision_is_kept_and_asked_for_again(autoencoder, diffusers, folder, monkeypatch, tmp_path):
    asked = []

    def from_hub(fetch):
        def fetched(path, revision=None, **options):
            if path == "me/vae":
                asked.append(revision)
            return fetch(str(folder), **options)

        return fetched

    for name in ("load_config", "from_pretrained"):
        monkeypatch.setattr(diffusers.AutoencoderKL, name, from_hub(getattr(diffusers.AutoencoderKL, name)))
    base = DiffusersAdapter.load("me/vae", revision="v2")
    wrap_decoder(base, ["a"], noise_width=4, concept_width=3).save_pretrained(tmp_path / "module")
    entries = json.loads((tmp_path / "module" / "adapter_config.json").read_text())
    assert (entries["base_name_or_path"], entries["base_revision"]) == ("me/vae", "v2")
    ContextualDecoder.from_pretrained(tmp_path / "module")
    assert asked == ["v2"] * 4
    # another revision has other weights
    autoencoder().apply(spoil).save_pretrained(folder)
    with pytest.raises(
        CheckpointError,
        match=r"was trained on another base: its 'diffusers' base \(me/vae, revision v2\) has .*that is there now",
    ):
        ContextualDecoder.from_pretrained(tmp_path / "module")


def spoil(layer):
    for parameter in layer.parameters(recurse=False):
        torch.nn.init.normal_(parameter)


def test_a_base_that_is_gone(autoencoder, folder, tmp_path):
    model = wrap_decoder(DiffusersAdapter.load(folder), ["a"], noise_width=4, concept_width=3)
    model.save_pretrained(tmp_path / "module")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="the base of .*module cannot be loaded: .*base is neither a"):
        ContextualDecoder.from_pretrained(tmp_path / "module")
    assert ContextualDecoder.from_pretrained(tmp_path / "module", base=autoencoder())
    entries = tmp_path / "module" / "adapter_config.json"
    entries.write_text(json.dumps({**json.loads(entries.read_text()), "base_options": ["vae"]}))
    with pytest.raises(CheckpointError, match=r"unusable base_options in its configuration: \['vae'\]"):
        ContextualDecoder.from_pretrained(tmp_path / "module")


def test_a_loaded_object_says_where_it_is_from(diffusers, folder, tmp_path):
    model = wrap_decoder(diffusers.AutoencoderKL.from_pretrained(folder), ["a"], noise_width=4, concept_width=3)
    model.save_pretrained(tmp_path / "module")
    assert same(
        ContextualDecoder.from_pretrained(tmp_path / "module").base.net.state_dict(), model.base.net.state_dict()
    )


def test_the_size_of_images_and_the_type_of_weights(folder):
    base = DiffusersAdapter.load(folder, sample_size=16, torch_dtype=torch.bfloat16)
    assert base.image_shape == (3, 16, 16)
    assert base.dtype == torch.bfloat16
    assert base.options == {"sample_size": 16}


def test_other_families_take_no_options(tmp_path):
    with pytest.raises(ValueError, match="a 'nvae' base takes no option variant \\('v2'\\): it takes revision, tok"):
        load_base("nvae", tmp_path, variant="v2")
    with pytest.raises(ValueError, match="base takes no option wings .*: it takes revision, .*, subfolder, va"):
        load_base("diffusers", tmp_path, wings=2)


def test_a_base_that_trained_is_saved_with_the_module(autoencoder, x, tmp_path):
    model = wrap_decoder(autoencoder(), ["a"], noise_width=4, concept_width=3).unfreeze_base()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(x, "a").loss.mean().backward()
    before = model.base.likelihood.scale.item()
    optimizer.step()
    assert model.base.likelihood.scale.item() != before
    model.eval().save_pretrained(tmp_path)
    assert same(ContextualDecoder.from_pretrained(tmp_path).base.net.state_dict(), model.base.net.state_dict())
