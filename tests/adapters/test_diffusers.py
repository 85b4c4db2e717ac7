"""Diffusers' autoencoders: what is theirs. The tests of every family run on them too (conftest.py)."""

import json
import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters.base import adapt, get_adapter
from context_module.adapters.diffusers import AutoencoderKLObjective, DiffusersAdapter
from context_module.adapters.likelihoods import DiscretisedLogistic, DiscretisedLogisticLikelihood
from context_module.checkpoints import fingerprint
from context_module.errors import CheckpointError, ShapeError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


@pytest.fixture
def autoencoder(diffusers):
    """Builds a tiny AutoencoderKL for 3 x 8 x 8 images."""

    def build(**config):
        torch.manual_seed(0)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        sizes = {"block_out_channels": (4, 8), "norm_num_groups": 2, "latent_channels": 2, "sample_size": 8}
        return diffusers.AutoencoderKL(**{**blocks, **sizes, **config}).eval()

    return build


@pytest.fixture
def x():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# the likelihood


@pytest.mark.parametrize("scale", [1e-3, 0.03, 2.0])
@pytest.mark.parametrize("mean", [-0.4, 0.0, 0.3137, 1.0, 1.7])
def test_probabilities_of_the_256_values_sum_to_one(mean, scale):
    values = (torch.arange(256) / 255).reshape(256, 1, 1, 1)
    likelihood = DiscretisedLogisticLikelihood(torch.full_like(values, mean), torch.tensor(scale))
    log_prob = likelihood.log_prob(values)
    assert log_prob.isfinite().all()
    torch.testing.assert_close(log_prob.double().exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-4)


def test_log_prob_is_the_mass_of_the_bin():
    mean, scale, x = 0.2, 0.05, 60 / 255

    def below(value):
        return 1 / (1 + math.exp(-(value - mean) / scale))

    expected = math.log(below(x + 0.5 / 255) - below(x - 0.5 / 255))
    likelihood = DiscretisedLogisticLikelihood(torch.full((2, 3, 4, 5), mean), torch.tensor(scale))
    found = likelihood.log_prob(torch.full((2, 3, 4, 5), x))
    torch.testing.assert_close(found, torch.full((2,), 60 * expected), rtol=1e-5, atol=1e-3)


def test_draws_are_of_the_256_values():
    likelihood = DiscretisedLogistic(0.05)(torch.full((20, 1, 30, 30), 0.4))
    draws = [likelihood.sample(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal((draws[0] * 255).round() / 255, draws[0])
    assert abs(draws[0].mean().item() - 0.4) < 5e-3
    assert abs(draws[0].std().item() - 0.05 * math.pi / math.sqrt(3)) < 5e-3
    likelihood = DiscretisedLogistic(0.5)(torch.tensor([[[[-3.0, 0.5, 3.0]]]]))
    assert likelihood.mean.flatten().tolist() == [0, 0.5, 1]
    assert likelihood.sample().aminmax().min >= 0


# latents and images


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "scale", "shift"),
    [
        ({}, 0.18215, 0.0),
        ({"scaling_factor": 1.5305, "shift_factor": 0.0609}, 1.5305, 0.0609),
        ({"scaling_factor": 0.5, "latents_mean": (1.0, 2.0), "latents_std": (4.0, 6.0)}, 0.1, 1.5),
    ],
)
def test_latents_are_normalised_as_the_configuration_says(config, scale, shift, autoencoder, x):
    net = autoencoder(**config)
    base = adapt(net)
    raw = net.encode(2 * x - 1).latent_dist
    encoding = base.encode(x)
    assert base.latent.shape == tuple(raw.mean.shape[1:]) == (2, 4, 4)
    assert (base.latent.scale, base.latent.shift) == (pytest.approx(scale), shift)
    torch.testing.assert_close(encoding.mean, (raw.mean - shift) * scale)
    torch.testing.assert_close((0.5 * encoding.log_var).exp(), raw.std * scale)
    assert torch.equal(encoding.features, encoding.mean.flatten(1))
    decoding = base.decode(encoding.mean)
    images = (net.decode(raw.mean).sample + 1) / 2
    torch.testing.assert_close(decoding.likelihood.location, images, rtol=1e-4, atol=1e-4)
    assert 0 <= decoding.mean.min() <= decoding.mean.max() <= 1
    assert torch.equal(decoding.kl, torch.zeros(4))


def test_image_shape_is_the_sample_size(autoencoder):
    assert adapt(autoencoder(sample_size=16)).image_shape == (3, 16, 16)
    wide = adapt(autoencoder(sample_size=(8, 12), in_channels=1, out_channels=1))
    assert wide.image_shape == (1, 8, 12)
    assert wide.latent.shape == (2, 4, 6)
    assert wide.encode(torch.rand(2, 1, 8, 12)).mean.shape == (2, 2, 4, 6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"sample_size": 9},
            r"divides sizes by 2, its sample_size is 9x9: load it with from_pretrained",
        ),
        ({"out_channels": 1}, "takes 3 channels and gives 1 does not reconstruct its images"),
    ],
)
def test_refuses_a_configuration(config, message, autoencoder):
    with pytest.raises(ShapeError, match=message):
        adapt(autoencoder(**config))


def test_tiling_is_switched_off(autoencoder):
    net = autoencoder()
    net.enable_tiling()
    adapt(net)
    assert not net.use_tiling


@torch.no_grad()
@pytest.mark.parametrize("force_upcast", [True, False])
def test_float16_autocast_only_where_the_configuration_allows(force_upcast, autoencoder, x):
    base = adapt(autoencoder(force_upcast=force_upcast))
    plain = base.encode(x).mean
    with torch.autocast("cpu", torch.float16):
        half = base.encode(x).mean
        decoded = base.decode(plain.half()).mean
    assert torch.equal(plain, half) == force_upcast
    assert torch.equal(decoded, base.decode(plain.half()).mean) == force_upcast
    with torch.autocast("cpu", torch.bfloat16):
        assert base.encode(x).mean.dtype == torch.bfloat16


def test_the_type_and_device_are_the_networks(autoencoder):
    base = adapt(autoencoder().bfloat16())
    assert base.dtype == torch.bfloat16
    assert base.likelihood.scale.dtype == torch.float32


def test_decoder_parts_are_what_encode_does_not_run(autoencoder):
    net = autoencoder()
    assert adapt(net).decoder_parts() == [net.post_quant_conv, net.decoder]
    net = autoencoder(use_post_quant_conv=False)
    assert adapt(net).decoder_parts() == [net.decoder]


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


def test_names_the_classes_it_takes(diffusers):
    with pytest.raises(TypeError, match="no adapter for diffusers' AutoencoderTiny; supported: AutoencoderKL"):
        wrap_decoder(diffusers.AutoencoderTiny(), ["a"])


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
    assert same(base.net, autoencoder())
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
        assert same(again.net, base.net)
        assert again.likelihood.scale.item() == pytest.approx(math.exp(-3.0))
        assert fingerprint(again) == fingerprint(adapt(diffusers.AutoencoderKL.from_pretrained(where)))


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


SPOILED = {
    "nothing": (lambda d: (d / "config.json").unlink(), "base is neither a folder written by .* nor a Hub id"),
    "no JSON": (lambda d: (d / "config.json").write_text("{"), "base is neither a folder written by"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), f"base is neither a folder written by .*{WEIGHTS}"),
    "truncated": (lambda d: (d / WEIGHTS).write_bytes(b"123"), "base is neither a folder written by"),
    "another class": (
        lambda d: edit_config(d, _class_name="VQModel"),
        "base holds a VQModel of diffusers; supported: AutoencoderKL",
    ),
    "another library": (lambda d: edit_config(d, _class_name=None), "holds a None of diffusers; supported"),
    "missing tensor": (
        lambda d: edit_tensors(d, lambda t: t.pop("decoder.conv_in.bias")),
        "base does not fit .*missing.*decoder.conv_in.bias",
    ),
    "unexpected tensor": (
        lambda d: edit_tensors(d, lambda t: t.update(wings=torch.ones(2))),
        "base does not fit .*unexpected.*wings",
    ),
    "wrong shape": (
        lambda d: edit_tensors(d, lambda t: t.update({"decoder.conv_in.bias": torch.ones(3)})),
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


def test_a_base_that_trained_is_saved_with_the_module(autoencoder, x, tmp_path):
    model = wrap_decoder(autoencoder(), ["a"], noise_width=4, concept_width=3).unfreeze_base()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(x, "a").loss.mean().backward()
    before = model.base.likelihood.scale.item()
    optimizer.step()
    assert model.base.likelihood.scale.item() != before
    model.eval().save_pretrained(tmp_path)
    assert same(ContextualDecoder.from_pretrained(tmp_path).base.net, model.base.net)


# from scratch


@torch.no_grad()
@pytest.mark.parametrize(
    ("image_shape", "latent_shape"), [((3, 32, 32), (4, 8, 8)), ((1, 28, 28), (4, 7, 7)), ((3, 8, 16), (4, 2, 4))]
)
def test_fresh(image_shape, latent_shape, diffusers):
    base = DiffusersAdapter.fresh(image_shape)
    assert base.latent.shape == latent_shape
    assert base.image_shape == image_shape
    assert base.decode(base.encode(torch.rand(2, *image_shape)).mean).mean.shape == (2, *image_shape)


def test_fresh_refuses_sizes_it_cannot_halve():
    with pytest.raises(ValueError, match="sides that divide by 4, got 30x32: set --resolution"):
        DiffusersAdapter.fresh((3, 30, 32))


def test_the_objective_trains(autoencoder, x):
    torch.manual_seed(0)
    objective = AutoencoderKLObjective(adapt(autoencoder()), beta=0.5).train()
    optimizer = torch.optim.Adamax(objective.parameters(), 1e-2)
    losses = []
    for _ in range(5):
        terms = objective({"x": x})
        assert {name: tuple(term.shape) for name, term in terms.items()} == dict.fromkeys(
            ("loss", "neg_log_likelihood", "kl"), (4,)
        )
        assert torch.allclose(terms["loss"], terms["neg_log_likelihood"] + 0.5 * terms["kl"])
        optimizer.zero_grad()
        terms["loss"].mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())
        optimizer.step()
        losses.append(terms["loss"].mean().item())
    assert losses[-1] < losses[0]


@torch.no_grad()
def test_the_kl_is_that_of_the_raw_latents(autoencoder, x):
    net = autoencoder(scaling_factor=0.3, shift_factor=0.2)
    found = AutoencoderKLObjective(adapt(net))({"x": x})["kl"]
    torch.testing.assert_close(found, net.encode(2 * x - 1).latent_dist.kl(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_calibrated_latents_have_mean_zero_and_variance_one(autoencoder, x, tmp_path):
    base = adapt(autoencoder(latents_mean=(1.0, 2.0), latents_std=(3.0, 4.0)))
    encoding = base.encode(x)
    before = base.decode(encoding.mean).mean
    base.calibrate(x)
    base.save(tmp_path)
    for calibrated in (base, DiffusersAdapter.load(tmp_path)):
        encoding = calibrated.encode(x)
        assert abs(encoding.mean.mean().item()) < 1e-3
        assert abs(encoding.mean.std().item() - 1) < 1e-3
        torch.testing.assert_close(calibrated.decode(encoding.mean).mean, before, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_calibrated_scale_explains_best(autoencoder, x):
    base = adapt(autoencoder())
    base.calibrate(x)
    location, best = base.decode(base.encode(x).mean).likelihood.location, base.likelihood.scale
    fits = [DiscretisedLogisticLikelihood(location, best * factor).log_prob(x).mean() for factor in (0.7, 1.0, 1.4)]
    assert fits[0] < fits[1] > fits[2]
