"""Bases in other types, in wrappers, with tied weights, or trained by hand: nothing is lost, and nothing refused."""

import copy

import pytest
import torch
from torch import nn

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters.lightweight import LightweightAdapter, LightweightVAE
from context_module.adapters.modules import ModulesAdapter
from context_module.base import fingerprint, plain_name, same_weights
from context_module.errors import CheckpointError
from context_module.io import load_tensors, save_tensors
from context_module.training.weights import trainable_state_dict


@pytest.fixture
def base(tmp_path):
    """A folder of a base."""
    torch.manual_seed(0)
    LightweightVAE("conv3").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def wrapped(base):
    return wrap_decoder(base, ["a"], noise_width=2, concept_width=2).eval()


def load(base, dtype=torch.float32):
    return LightweightAdapter.load(base).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("other", [torch.float16, torch.bfloat16, torch.float32])
def test_a_module_is_read_whatever_type_the_base_was_in(base, dtype, other, tmp_path):
    """It was trained before the one, and is put before the other."""
    wrapped(load(base, dtype)).save_pretrained(tmp_path / "saved")
    model = ContextualDecoder.from_pretrained(tmp_path / "saved", dtype=other)
    assert model.base.dtype == other
    if dtype == other or torch.float32 in (dtype, other):
        assert ContextualDecoder.from_pretrained(tmp_path / "saved", base=load(base, other)).base.dtype == other


def test_saving_over_a_good_folder_in_half_precision(base, tmp_path):
    wrapped(load(base)).save_pretrained(tmp_path / "saved")
    for _ in range(2):
        half = ContextualDecoder.from_pretrained(tmp_path / "saved", dtype="float16")
        half.save_pretrained(tmp_path / "saved")
        half.half().save_pretrained(tmp_path / "saved")
    assert ContextualDecoder.from_pretrained(tmp_path / "saved").base.dtype == torch.float32


def test_other_weights_are_other_weights_in_every_type(base):
    one = load(base)
    other = copy.deepcopy(one)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert same_weights(fingerprint(one), fingerprint(copy.deepcopy(one).to(dtype)))
        assert not same_weights(fingerprint(one), fingerprint(copy.deepcopy(other).to(dtype)))
    assert same_weights(fingerprint(one), fingerprint(one).split("-")[0])  # of earlier versions


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")  # where hooks on all modules are set elsewhere
def test_a_part_that_was_compiled(base, tmp_path):
    compiled = load(base)
    compiled.net.decoder = torch.compile(compiled.net.decoder, backend="eager")
    wrapped(compiled).save_pretrained(tmp_path / "saved")
    assert ContextualDecoder.from_pretrained(tmp_path / "saved").concepts == ("a",)
    again = ContextualDecoder.from_pretrained(tmp_path / "saved", base=compiled)
    assert again.generate(2, do="a", seed=0).isfinite().all()
    assert plain_name("module.net._orig_mod.layers.0.weight") == "net.layers.0.weight"
    assert plain_name("net.modules.0.my_module.weight") == "net.modules.0.my_module.weight"


def test_a_base_in_data_parallel(base):
    parallel = load(base)
    parallel.net.encoder = nn.DataParallel(parallel.net.encoder)
    assert fingerprint(parallel) == fingerprint(load(base))


def test_a_given_base_is_not_converted(base, tmp_path):
    wrapped(load(base)).save_pretrained(tmp_path / "saved")
    mine = load(base)
    with pytest.raises(ValueError, match="is torch.float32 and stays as it is, dtype=torch.float16: convert"):
        ContextualDecoder.from_pretrained(tmp_path / "saved", base=mine, dtype="float16")
    assert mine.dtype == torch.float32
    assert ContextualDecoder.from_pretrained(tmp_path / "saved", base=mine, dtype="float32").base is mine


@pytest.mark.parametrize("thaw", [True, False])
def test_a_base_that_was_trained_by_hand_is_saved_too(base, tmp_path, thaw):
    """By requires_grad_, or by nothing but changed weights."""
    model = wrapped(load(base)).train()
    if thaw:
        model.requires_grad_(True)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        model(torch.rand(4, 1, 28, 28), "a").loss.mean().backward()
        optimizer.step()
    else:
        with torch.no_grad():
            next(model.base.net.decoder.parameters()).add_(0.1)
    with pytest.warns(UserWarning, match="weights have changed since it was wrapped, so it is saved with the module"):
        model.save_pretrained(tmp_path / "saved")
    model.save_pretrained(tmp_path / "saved")  # said once
    again = ContextualDecoder.from_pretrained(tmp_path / "saved")
    assert again.owns_base
    torch.testing.assert_close(again.generate(2, do="a", seed=0), model.eval().generate(2, do="a", seed=0))


def test_one_that_cannot_be_saved_is_refused(tmp_path):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    decoder = nn.Sequential(nn.Linear(4, 16), nn.Unflatten(1, (1, 4, 4)))
    model = wrap_decoder(ModulesAdapter(encoder, decoder, (4,), (1, 4, 4)), ["a"])
    with torch.no_grad():
        decoder[0].bias.add_(1)
    with pytest.raises(ValueError, match="a 'modules' base cannot be saved, so the weights that it was given since"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_tied_weights_are_saved_and_read(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight

    net = Tied()
    assert set(trainable_state_dict(net)) == {"first.weight", "first.bias", "second.bias"}
    view = torch.arange(6.0).view(2, 3)
    tensors = {**net.state_dict(), "row": view[0], "all": view}
    save_tensors(tmp_path / "a.safetensors", tensors)
    read = load_tensors(tmp_path / "a.safetensors")
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)


def test_another_base_is_still_refused(base, tmp_path):
    wrapped(load(base, torch.float16)).save_pretrained(tmp_path / "saved")
    torch.manual_seed(1)
    with pytest.raises(CheckpointError, match="was trained on another base"):
        ContextualDecoder.from_pretrained(tmp_path / "saved", base=LightweightVAE("conv3"))
