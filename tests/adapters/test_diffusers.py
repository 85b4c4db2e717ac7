"""Diffusers' autoencoders: what is theirs. The tests of every family run on them too (conftest.py)."""

import pytest
import torch

from context_module import wrap_decoder
from context_module.adapters.contract import LatentSpec
from context_module.adapters.diffusers import AUTOENCODERS, AutoencoderKLObjective, DiffusersAdapter
from context_module.adapters.likelihoods import DiscretisedLogisticLikelihood
from context_module.adapters.registry import adapt
from context_module.errors import ShapeError
from helpers.bases import tiny_autoencoder
from helpers.draws import seeded

VIDEO = ("AutoencoderKLCogVideoX", "AutoencoderKLHunyuanVideo", "AutoencoderKLQwenImage", "AutoencoderKLWan")


# latents and images


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "scale", "shift"),
    [
        ({}, 0.18215, 0.0),
        ({"scaling_factor": 1.5305, "shift_factor": 0.0609}, 1.5305, 0.0609),
        ({"scaling_factor": 0.5, "latents_mean": (1.0, 2.0), "latents_std": (4.0, 5.0)}, (0.125, 0.1), (1.0, 2.0)),
    ],
)
def test_latents_are_normalised_as_the_configuration_says(config, scale, shift, autoencoder, x):
    net = autoencoder(**config)
    base = adapt(net)
    raw = net.encode(2 * x - 1).latent_dist
    encoding = base.encode(x)
    assert base.latent.shape == tuple(raw.mean.shape[1:]) == (2, 4, 4)
    assert (base.latent.scale, base.latent.shift) == (pytest.approx(scale), shift)
    scale, shift = (torch.tensor(value).view(-1, 1, 1) for value in (scale, shift))
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
            "this AutoencoderKL divides sizes by 2, its sample_size is 9x9: give a sample_size that is a multiple of",
        ),
        ({"out_channels": 1}, "takes 3 channels and gives 1, and divides sizes by 2 and .*, does not reconstruct its"),
    ],
)
def test_refuses_a_configuration(config, message, autoencoder):
    with pytest.raises(ShapeError, match=message):
        adapt(autoencoder(**config))


def test_refuses_a_decoder_of_other_sizes(autoencoder):
    with pytest.raises(ShapeError, match="divides sizes by 2 and multiplies them by 4, does not reconstruct"):
        DiffusersAdapter(autoencoder("AutoencoderTiny", upsampling_scaling_factor=4), sample_size=8)


def test_tiling_and_slicing_are_switched_off(autoencoder):
    net = autoencoder()
    net.enable_tiling()
    net.enable_slicing()
    adapt(net)
    assert not net.use_tiling
    assert not net.use_slicing


@torch.no_grad()
@pytest.mark.parametrize("sample_size", [8, (4, 8)])
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_pictures_are_those_of_the_network(name, sample_size, autoencoder, diffusers):
    net = autoencoder(name)
    base = DiffusersAdapter(net, sample_size=8 if name == "AutoencoderRAE" else sample_size)
    x = torch.rand(2, *base.image_shape)
    scale, shift = (1, 0) if name == "AutoencoderRAE" else (2, -1)
    raw = base.raw_posterior(x)[0]
    assert raw.shape[1:] == base.latent.shape
    options = {
        "AutoencoderKLTemporalDecoder": {"num_frames": 1},
        "ConsistencyDecoderVAE": {"generator": seeded(3)},
    }
    if name == "AutoencoderKLFlux2":
        raw = diffusers.Flux2Pipeline._unpatchify_latents(raw)
    video = name in VIDEO  # of one frame
    own = net.encode(scale * (x[:, :, None] if video else x) + shift)[0]
    own = own if isinstance(own, torch.Tensor) else own.mean
    raw = raw[:, :, None] if video else raw
    torch.testing.assert_close(raw, own)
    images = (net.decode(raw, **options.get(name, {})).sample - shift) / scale
    images = images[:, :, 0] if video else images
    decoded = base.decode(base.encode(x).mean, generator=seeded(3))
    torch.testing.assert_close(decoded.likelihood.location, images, rtol=1e-4, atol=1e-5)
    assert decoded.mean.shape == x.shape
    assert len(decoded.residuals) == (2 if name == "ConsistencyDecoderVAE" else 0)


@torch.no_grad()
def test_latents_of_flux2_are_normalised_in_squares_by_its_batch_norm(autoencoder, diffusers, x):
    net = autoencoder("AutoencoderKLFlux2")
    net.bn.running_mean.copy_(torch.arange(8.0))
    net.bn.running_var.copy_(1 + torch.arange(8.0))
    base = adapt(net)
    assert base.latent.shape == (8, 2, 2)
    raw = diffusers.Flux2Pipeline._patchify_latents(net.encode(2 * x - 1).latent_dist.mean)
    torch.testing.assert_close(base.encode(x).mean, net.bn(raw))


@torch.no_grad()
def test_a_wan_that_cuts_images_into_squares(autoencoder):
    base = DiffusersAdapter(
        autoencoder("AutoencoderKLWan", patch_size=2, in_channels=12, out_channels=12), sample_size=8
    )
    assert (base.image_shape, base.latent.shape) == ((3, 8, 8), (2, 2, 2))
    assert (base.latent.scale, base.latent.shift) == ((2.0, 0.5), (0.1, -0.2))
    x = torch.rand(2, 3, 8, 8)
    assert base.decode(base.encode(x).mean).mean.shape == x.shape


def test_classes_without_a_size_ask_for_one(autoencoder, tmp_path):
    with pytest.raises(
        ShapeError, match=r"AutoencoderTiny takes images of any size .* DiffusersAdapter\(net, sample_size"
    ):
        wrap_decoder(autoencoder("AutoencoderTiny"), ["a"])
    base = DiffusersAdapter(autoencoder("AutoencoderTiny"), sample_size=(8, 12))
    base.save(tmp_path)
    assert DiffusersAdapter.load(tmp_path).image_shape == (3, 8, 12)  # it is in the configuration now


@torch.no_grad()
def test_tokens_of_a_representation_autoencoder_come_normalised(autoencoder, x):
    statistics = {"latents_mean": [[[0.5]]] * 64, "latents_std": [[[2.0]]] * 64, "scaling_factor": 0.7}
    base = adapt(autoencoder("AutoencoderRAE", **statistics))
    assert (base.image_shape, base.latent) == ((3, 8, 8), LatentSpec((64, 2, 2)))
    encoding = base.encode(x)
    assert encoding.log_var is None
    base.net.register_to_config(scaling_factor=1.0)
    torch.testing.assert_close(encoding.mean, base.net.encode(x).latent * 0.7)


def test_a_representation_autoencoder_decodes_to_one_size(autoencoder, tmp_path):
    net = autoencoder("AutoencoderRAE")
    with pytest.raises(ShapeError, match="decodes to images of 8x8 and no others, sample_size is 16: leave it out"):
        DiffusersAdapter(net, sample_size=16)
    base = DiffusersAdapter(net, sample_size=8)
    base.save(tmp_path)
    assert DiffusersAdapter.load(tmp_path, sample_size=8).image_shape == (3, 8, 8)


@torch.no_grad()
def test_a_vq_model_decodes_what_its_codebook_makes_of_latents(autoencoder):
    base = adapt(autoencoder("VQModel"))
    latent = base.sample_latent(2, seeded(0))
    quantised = base.latent.normalise(base.net.quantize(base.latent.denormalise(latent))[0])
    assert not torch.allclose(latent, quantised, atol=1e-3)
    torch.testing.assert_close(base.decode(latent).mean, base.decode(quantised).mean)


def test_a_tiny_autoencoder_does_not_round_to_bytes(autoencoder):
    base = DiffusersAdapter(autoencoder("AutoencoderTiny"), sample_size=8)
    latent = (0.3 * torch.randn(2, *base.latent.shape)).requires_grad_()
    base.decode(latent).likelihood.location.square().sum().backward()
    assert (latent.grad != 0).all()


def test_latents_of_another_size_are_refused(autoencoder, x):
    base = adapt(autoencoder())
    message = r"latents must have shape \(batch, 2, 4, 4\), got \(4, 2, 8, 8\): where they depend on the size"
    with pytest.raises(ShapeError, match=message):
        base.encode(torch.rand(4, 3, 16, 16))
    with pytest.raises(ShapeError, match=message):
        base.decode(torch.rand(4, 2, 8, 8))
    with pytest.raises(ShapeError, match=r"scale must be a number, or one for each of the 2 channels .*; got 3"):
        LatentSpec((2, 4, 4), scale=(1.0, 2.0, 3.0))


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


def test_the_objective_needs_a_posterior(autoencoder):
    with pytest.raises(ValueError, match="VQModel has no posterior to pretrain: take an AutoencoderKL"):
        AutoencoderKLObjective(adapt(autoencoder("VQModel")))


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


# as they come


def test_a_model_of_peft_by_hand(autoencoder, x):
    peft = pytest.importorskip("peft")
    tuned = peft.get_peft_model(autoencoder(), peft.LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    by_hand, found = DiffusersAdapter(tuned), adapt(tuned)
    assert by_hand.net is found.net is tuned.get_base_model()
    assert torch.equal(by_hand.encode(x).mean, found.encode(x).mean)


@pytest.mark.parametrize("name", ["AutoencoderKL", "AutoencoderKLWan", "VQModel"])
def test_gradients_are_the_same_with_checkpoints(name, x):
    found = {}
    for checkpointed in (False, True):
        torch.manual_seed(0)
        net = tiny_autoencoder(name)
        if checkpointed and net._supports_gradient_checkpointing:
            net.enable_gradient_checkpointing()
        base = DiffusersAdapter(net, sample_size=8).train()
        encoding = base.encode(x)
        loss = -base.decode(encoding.mean).log_prob(x).sum()
        loss.backward()
        gradients = {key: parameter.grad for key, parameter in net.named_parameters() if parameter.grad is not None}
        found[checkpointed] = (loss.detach(), gradients)
    torch.testing.assert_close(found[True], found[False], rtol=1e-4, atol=1e-4)
