"""Denoisers that decode embeddings of images: of image variation, and diffusion autoencoders.

The tests of every family run on both, too (tests/helpers/bases.py).
"""

import huggingface_hub
import numpy as np
import pytest
import torch
from denoiser_models import some_latents
from safetensors.torch import load_file, save_file
from torch import nn

from context_module import adapt, wrap_decoder
from context_module.adapters.denoiser import DenoiserAdapter, DenoisingObjective, SemanticEncoder
from context_module.base.fingerprint import fingerprint
from context_module.errors import CheckpointError, ShapeError
from helpers.draws import seeded
from helpers.files import edit_json


@pytest.fixture
def encoder():
    torch.manual_seed(3)
    return SemanticEncoder((3, 8, 8), 16)


@pytest.fixture
def autoencoder(unet, pixels, encoder):
    """A tiny diffusion autoencoder."""
    return adapt(pixels().pipeline, encoder=encoder, num_inference_steps=2)


class Averages(nn.Module):
    """An encoder of somebody else's: averages of rows and columns."""

    latent_shape = (16,)

    def posterior(self, x):
        return torch.cat([x.mean((1, 2)), x.mean((1, 3))], dim=1), None

    def sample(self, n, generator=None):
        return torch.rand(n, 16, generator=generator)


# image variation


@torch.no_grad()
def test_images_are_those_of_the_pipeline_itself(image_variation, x):
    base = adapt(image_variation(), num_inference_steps=3)
    assert base.embeds
    assert (base.latent.shape, base.num_features) == ((1, 6), 6)
    assert set(base.options) == {"num_inference_steps", "guidance_scale"}
    pixels = nn.functional.interpolate(x, (12, 12), mode="bicubic", antialias=True).clamp(0, 1)
    pixels = (pixels - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor(
        base.pipeline.feature_extractor.image_std
    )[:, None, None]
    noise = torch.randn(4, 2, 4, 4, generator=seeded())
    base.pipeline.set_progress_bar_config(disable=True)
    expected = {}
    for scale in (1.0, 2.0):  # with guidance, too: away from the zero embedding
        expected[scale] = base.pipeline(
            pixels, num_inference_steps=3, guidance_scale=scale, latents=noise.clone(), output_type="np"
        ).images
        base.guidance_scale = scale
        made = base.decode(base.encode(x).mean, residuals=(noise,)).mean
        torch.testing.assert_close(made, torch.from_numpy(expected[scale]).permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)
    assert not np.allclose(expected[1.0], expected[2.0], atol=1e-3)


@torch.no_grad()
def test_its_own_samples_are_of_no_image(image_variation):
    base = adapt(image_variation())
    assert torch.equal(base.sample_latent(3), torch.zeros(3, 1, 6))
    with pytest.raises(TypeError, match="the embeddings of a SemanticEncoder, this base has CLIPEncoder"):
        base.fit_density(torch.rand(4, 3, 8, 8))


def test_beside_a_text_encoder_an_image_encoder_conditions_nothing(text_pipeline, image_encoder):
    assert not adapt(text_pipeline(image_encoder=image_encoder())).embeds


def test_without_a_feature_extractor_pixels_are_normalised_as_clip_does(image_variation, x):
    base = adapt(image_variation(feature_extractor=None))
    read = []
    base.encoder.net.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    base.encode(torch.ones(1, 3, 8, 8))
    expected = (1 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor([0.268630, 0.261303, 0.275777])
    torch.testing.assert_close(read[0][0, :, 5, 5], expected, atol=1e-4, rtol=1e-4)


# diffusion autoencoders


@torch.no_grad()
def test_the_denoiser_reads_the_embedding(autoencoder, encoder, x):
    autoencoder.fit_density(torch.rand(64, 3, 8, 8, generator=seeded()))
    read = []
    autoencoder.net.register_forward_pre_hook(lambda _, args, options: read.append(options), with_kwargs=True)
    encoding = autoencoder.encode(x)
    autoencoder.decode(encoding.mean, encoding).log_prob(x)
    torch.testing.assert_close(read[0]["class_labels"], encoder.posterior(x)[0], atol=1e-5, rtol=1e-4)
    assert encoding.features.data_ptr() == encoding.mean.data_ptr()  # kept once (EncodingLayout)


@torch.no_grad()
def test_its_samples_are_like_embeddings(autoencoder, encoder):
    images = torch.rand(400, 3, 8, 8, generator=seeded()) * torch.rand(400, 3, 1, 1, generator=seeded(1))
    before = autoencoder.sample_latent(4000, seeded())
    assert before.std().item() == pytest.approx(1, abs=0.02)  # N(0, I)
    autoencoder.fit_density(images)
    encoding = autoencoder.encode(images)
    embeddings = encoding.mean + (0.5 * encoding.log_var).exp() * torch.randn(400, 16, generator=seeded(2))
    samples = autoencoder.sample_latent(4000, seeded())
    torch.testing.assert_close(samples.mean(0), torch.zeros(16), atol=0.1, rtol=0)
    torch.testing.assert_close(samples.std(0), torch.ones(16), atol=0.1, rtol=0)
    torch.testing.assert_close(samples.T.cov(), embeddings.T.cov(), atol=0.2, rtol=0)
    raw = encoder.sample(4000, seeded())
    torch.testing.assert_close(autoencoder.latent.denormalise(samples), raw)


def test_encoder_and_denoiser_train_together(x):
    torch.manual_seed(0)
    base = DenoiserAdapter.fresh((3, 8, 8))
    objective = DenoisingObjective(base, beta=0.5).train()
    optimizer = torch.optim.Adam(objective.parameters(), 1e-3)
    before = base.encoder.head.weight.clone()
    losses = []
    for _ in range(10):
        torch.manual_seed(1)
        terms = objective({"x": x})
        torch.testing.assert_close(terms["loss"], terms["error"] + 0.5 * terms["kl"])
        losses.append(terms["loss"].mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert not torch.equal(base.encoder.head.weight, before)
    mean, log_var = base.encoder.posterior(x)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_var).exp()), torch.distributions.Normal(0.0, 1.0)
    ).sum(1)
    torch.testing.assert_close(objective({"x": x})["kl"], expected)


def test_any_encoder(pixels, x, tmp_path):
    base = adapt(pixels().pipeline, encoder=Averages())
    model = wrap_decoder(base, ["a"], latent_noise=True)
    encoding = base.encode(x)
    assert encoding.log_var is None
    assert torch.equal(encoding.mean, Averages().posterior(x)[0])
    assert torch.equal(base.sample_latent(2, seeded()), torch.rand(2, 16, generator=seeded()))
    assert DenoisingObjective(base)({"x": x})["kl"].sum() == 0
    assert model.generate(2, do="a", generator=seeded()).shape == (2, 3, 8, 8)
    with pytest.raises(CheckpointError, match="an encoder of the class Averages is saved by who wrote it"):
        base.save(tmp_path)


# files


@torch.no_grad()
def test_the_encoder_lies_beside_the_pipeline(autoencoder, pixels, tmp_path, x):
    autoencoder.fit_density(torch.rand(64, 3, 8, 8, generator=seeded()))
    autoencoder.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "model_index.json", "scheduler", "unet"]
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == ["config.json", "model.safetensors"]
    again = DenoiserAdapter.load(tmp_path, num_inference_steps=2)
    assert again.latent == autoencoder.latent
    assert torch.equal(again.encode(x).mean, autoencoder.encode(x).mean)
    for one, other in zip(autoencoder.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert fingerprint(again) == fingerprint(autoencoder)
    again.encoder.head.bias[0] += 1
    assert fingerprint(again) != fingerprint(autoencoder)
    pixels().save(tmp_path)  # a base without one takes its place
    assert not DenoiserAdapter.load(tmp_path).embeds


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument is deprecated")  # diffusers gives it
@torch.no_grad()
def test_the_encoder_of_a_hub_repository(autoencoder, tmp_path, monkeypatch):
    """As it lies in the cache of huggingface_hub."""
    repository, commit = tmp_path / "models--me--base", 40 * "a"
    autoencoder.save(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    again = DenoiserAdapter.load("me/base", local_files_only=True)
    assert fingerprint(again) == fingerprint(autoencoder)
    assert again.source == "me/base"


def test_density_is_part_of_the_fingerprint(autoencoder):
    before = fingerprint(autoencoder)
    autoencoder.fit_density(torch.rand(64, 3, 8, 8, generator=seeded()))
    assert fingerprint(autoencoder) != before


def drop_tensor(folder, name):
    path = folder / "encoder" / "model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if key != name}, path)


SPOILED = {
    "foreign": (
        lambda d: edit_json(d / "encoder" / "config.json", encoder="VAE"),
        CheckpointError,
        "does not hold a SemanticEncoder",
    ),
    "options": (
        lambda d: edit_json(d / "encoder" / "config.json", wings=2),
        CheckpointError,
        "config.json is of no usable SemanticEncoder.*wings",
    ),
    "missing": (lambda d: drop_tensor(d, "root"), CheckpointError, "model.safetensors does not fit .*missing: root"),
    "no weights": (
        lambda d: (d / "encoder" / "model.safetensors").unlink(),
        CheckpointError,
        "model.safetensors does not exist",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_refuses_a_spoiled_encoder(case, autoencoder, tmp_path):
    spoil, error, message = SPOILED[case]
    autoencoder.save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        DenoiserAdapter.load(tmp_path)


# what is refused


def test_encoders_that_do_not_fit(pixels, image_variation, image_encoder, encoder):
    pipeline = pixels().pipeline
    cases = [
        (
            pipeline,
            nn.Linear(2, 2),
            TypeError,
            "a Linear is no encoder of embeddings: give an nn.Module with",
        ),
        (
            pipeline,
            SemanticEncoder((3, 8, 8), 8),
            ShapeError,
            r"of shape \(8,\), the denoiser reads \(16,\)",
        ),
        (pipeline, SemanticEncoder((3, 16, 16), 16), ShapeError, r"of images of shape \(3, 16, 16\), the denoiser of"),
        (image_variation(image_encoder=image_encoder(projection_dim=5)), None, ShapeError, r"\(1, 5\), .* \(1, 6\)"),
        (image_variation(image_encoder=nn.Linear(2, 2)), None, TypeError, "an image_encoder of the class Linear"),
    ]
    for made, given, error, message in cases:
        with pytest.raises(error, match=message):
            adapt(made, encoder=given)
    with pytest.raises(ShapeError, match=r"embeddings of shape \(1, 6\), the denoiser reads \(3, 6\)"):
        adapt(image_variation(), tokens=3)
    with pytest.raises(ShapeError, match="takes two images or more, got 1"):
        encoder.fit_density(torch.rand(1, 3, 8, 8))
    with pytest.raises(TypeError, match="the embeddings of a SemanticEncoder, this base has NoneType"):
        pixels().fit_density(torch.rand(4, 3, 8, 8))


@torch.no_grad()
def test_guidance_goes_away_from_the_mean_embedding(autoencoder):
    autoencoder.fit_density(torch.rand(64, 3, 8, 8, generator=seeded()))
    latents, z, timestep = some_latents(autoencoder), torch.randn(4, 3, 8, 8, generator=seeded()), torch.tensor(501)
    output = autoencoder.denoise(z, timestep.expand(4), latents)
    center = autoencoder.net(z, timestep, class_labels=autoencoder.encoder.center.expand(4, -1)).sample
    autoencoder.guidance_scale = 3.0
    found = autoencoder.decode(latents)._guided(z, timestep)
    torch.testing.assert_close(found, center + 3 * (output - center), atol=1e-4, rtol=1e-4)
