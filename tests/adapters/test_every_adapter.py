"""The contract, on every base of the table in tests/helpers/bases.py: a new class gets all of it by a row there.

What only some of them do (saving, LoRA) is checked where they say that they do it.
"""

import copy
import functools

import pytest
import safetensors.torch
import torch
from torch import nn

from context_module import ContextualDecoder, adapt
from context_module.adapters import DecoderAdapter, LatentSpec, get_adapter
from context_module.base.fingerprint import fingerprint, same_weights
from context_module.base.lora import decoder_layers, is_lora
from context_module.data import ArrayContextDataset
from context_module.errors import LoraError, ShapeError
from context_module.saving.layout import WEIGHTS_NAME
from context_module.training.encodings import encode_dataset
from context_module.training.objectives.latent import LatentObjective, latent_terms
from context_module.training.objectives.pixel import PixelObjective
from helpers.draws import seeded
from helpers.models import wrapped_at_random
from helpers.tensors import same, state

CONTEXTS = ["obs", "a", "b", "a+b"]


@pytest.fixture
def base(every, make_base):
    return adapt(make_base(every))


@pytest.fixture
def x(base):
    return torch.rand(4, *base.image_shape, generator=seeded(2))


wrapped = functools.partial(wrapped_at_random, inversion_width=0)


def saves(base):
    return type(base).save is not DecoderAdapter.save


# -- encoding


@torch.no_grad()
def test_what_it_says_of_itself(base):
    assert isinstance(base, get_adapter(base.name))
    assert isinstance(base.latent, LatentSpec)
    assert all(isinstance(size, int) and size > 0 for size in (*base.latent.shape, *base.image_shape))
    assert base.device == torch.device("cpu")
    assert base.dtype == torch.float32
    assert base.source is None
    assert set(base.options) <= set(base.load_options)


@torch.no_grad()
def test_encodes(base, x):
    random = torch.get_rng_state()
    encoding = base.encode(x)
    assert encoding.features.shape == (4, base.num_features)
    assert encoding.mean.shape == (4, *base.latent.shape)
    if encoding.log_var is not None:
        assert encoding.log_var.shape == encoding.mean.shape
        assert encoding.log_var.isfinite().all()
    assert encoding.features.isfinite().all()
    assert encoding.mean.isfinite().all()
    if base.embeds:
        assert encoding.mean.std(0).min() > 0  # no value that says nothing of the image
    else:
        assert not encoding.mean.any()
    again = base.encode(x)
    assert torch.equal(encoding.mean, again.mean)
    assert torch.equal(encoding.features, again.features)
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(base.encode(x[1:2]).mean, encoding.mean[1:2], rtol=1e-4, atol=1e-5)


def test_gradients_of_an_encoding_are_the_callers_choice(base, x):
    with torch.no_grad():
        assert not base.encode(x).mean.requires_grad
    assert base.encode(x).mean.requires_grad == base.embeds
    assert not base.requires_grad_(False).encode(x).mean.requires_grad


@torch.no_grad()
def test_normalisation_goes_there_and_back(base, x):
    latent = base.encode(x).mean
    raw = base.latent.denormalise(latent)
    torch.testing.assert_close(base.latent.normalise(raw), latent)
    deviation = 0.1 * (1 + torch.rand(latent.shape, generator=seeded()))
    far = base.latent.normalise(raw + deviation) - latent
    log_var = base.latent.normalise_log_var(2 * deviation.log())
    torch.testing.assert_close((0.5 * log_var).exp(), far, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(base.latent.denormalise_log_var(log_var), 2 * deviation.log())
    for convert in (base.latent.normalise, base.latent.denormalise, base.latent.normalise_log_var):
        with pytest.raises(ShapeError, match=r"latents must have shape \(batch, .*wrapped for"):
            convert(torch.zeros(2, *base.latent.shape[:-1], base.latent.shape[-1] + 1))


@torch.no_grad()
def test_encodings_are_kept_as_they_are(base, x):
    dataset = ArrayContextDataset((x * 255).byte(), torch.tensor([0, 0, 1, 1]), ["obs", "a"], ["a"])
    encodings = encode_dataset(base, dataset, batch_size=3, progress=False)
    kept = encodings.batch(torch.arange(4))
    encoding = base.encode(torch.stack([dataset[i]["x"] for i in range(4)]))
    torch.testing.assert_close(kept["mean"], encoding.mean)
    torch.testing.assert_close(kept["features"], encoding.features)
    if encoding.log_var is None:
        assert (kept["log_var"] == -torch.inf).all()
    else:
        torch.testing.assert_close(kept["log_var"], encoding.log_var)


# -- decoding


@torch.no_grad()
@pytest.mark.parametrize("explaining", [True, False])
def test_decodes(explaining, base, x):
    encoding = base.encode(x)
    decoding = base.decode(encoding.mean, encoding if explaining else None, generator=seeded())
    drawn = decoding.sample(seeded())
    for pictures in (decoding.mean, drawn):
        assert pictures.shape == x.shape
        assert pictures.dtype == torch.float32
        assert 0 <= pictures.min() <= pictures.max() <= 1
    assert torch.equal(drawn, decoding.sample(seeded()))
    log_prob = decoding.log_prob(x)
    assert log_prob.shape == decoding.kl.shape == (4,)
    assert log_prob.dtype == torch.float32
    assert log_prob.isfinite().all()
    assert decoding.kl.isfinite().all()
    assert (decoding.kl >= -1e-4).all()
    if not explaining:
        assert not decoding.kl.any()


@torch.no_grad()
def test_other_latents_other_pictures(base):
    latents = base.sample_latent(2, seeded())
    assert latents.shape == (2, *base.latent.shape)
    assert torch.equal(latents, base.sample_latent(2, seeded()))
    others = latents + torch.randn(latents.shape, generator=seeded(1))
    one, other = (base.decode(some, temperature=0.0).mean for some in (latents, others))
    assert not torch.allclose(one, other, atol=1e-5)


@torch.no_grad()
def test_decoding_is_the_generators(base):
    latent, random = base.sample_latent(2, seeded()), torch.get_rng_state()
    one, again, other = (base.decode(latent, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.mean, again.mean)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(one.mean, other.mean) == (not one.residuals)
    for noise in one.residuals:
        assert noise.shape[0] == 2
    # the same noise again, whatever the generator
    torch.testing.assert_close(base.decode(latent, residuals=one.residuals, generator=seeded(1)).mean, one.mean)


@torch.no_grad()
def test_temperature(base):
    latent = base.sample_latent(2, seeded())
    still = base.decode(latent, temperature=0.0)
    assert torch.equal(still.mean, base.decode(latent, temperature=0.0).mean)
    torch.testing.assert_close(base.decode(latent, residuals=still.residuals).mean, still.mean, rtol=1e-4, atol=1e-5)
    for noise in still.residuals:
        assert noise.abs().max() < 1e-5
    for calm, hot in zip(*(base.decode(latent, None, (), t, seeded()).residuals for t in (0.5, 1.0)), strict=True):
        torch.testing.assert_close(2 * calm, hot, rtol=1e-3, atol=1e-4)


def test_gradients_reach_the_latent(base, x):
    base.requires_grad_(False)
    encoding = base.encode(x)
    latent = encoding.mean.clone().requires_grad_()
    decoding = base.decode(latent, encoding, generator=seeded())
    (decoding.kl - decoding.log_prob(x)).sum().backward()
    assert latent.grad.isfinite().all()
    assert (latent.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in base.parameters())


# -- with a module in front


@pytest.mark.parametrize("objective", ["pixel", "latent"])
def test_a_frozen_base_stays_as_it_is_bit_for_bit(objective, base, x):
    if objective == "latent" and not base.embeds:
        pytest.skip("this family has no embeddings")
    model = wrapped(base, free_blocks=1, latent_noise=objective == "latent").train()
    assert not any(module.training for module in base.modules())
    assert not any(parameter.requires_grad for parameter in base.parameters())
    before, base_before = {name: tensor.clone() for name, tensor in model.adapter_state_dict().items()}, state(base)
    batch = {"x": x, "mask": model.concepts.mask(CONTEXTS)}
    if objective == "pixel":
        losses = PixelObjective(model, warmup_share=0.0)
    else:
        dataset = ArrayContextDataset((x * 255).byte(), torch.arange(4), CONTEXTS, ["a", "b"])
        encodings = encode_dataset(base, dataset, progress=False)
        losses = LatentObjective(model, encodings, latent_terms(interaction=1.0, acyclicity=1.0), start=False)
        batch |= encodings.batch(torch.arange(4))
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    found = []
    for _ in range(3):
        torch.manual_seed(0)
        optimiser.zero_grad()
        loss = losses.train()(batch)["loss"].mean()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    assert found[2] < found[0]
    assert same(state(base), base_before)
    assert all(torch.equal(buffer, base_before[name]) for name, buffer in base.named_buffers() if name in base_before)
    for name, tensor in model.adapter_state_dict().items():
        assert not torch.equal(tensor, before[name]), name


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # torch's RMSNorm: slower
def test_losses_are_float32_under_autocast(base, x):
    model = wrapped(base)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x, CONTEXTS, generator=seeded())
        made = model.generate(2, do="a", generator=seeded())
    assert low.loss.dtype == low.kl_noise.dtype == low.neg_log_likelihood.dtype == made.dtype == torch.float32
    torch.testing.assert_close(low.loss, model(x, CONTEXTS, generator=seeded()).loss, rtol=0.03, atol=0)
    low.loss.mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.module.parameters())


def test_a_bfloat16_base(every, make_base):
    model = wrapped(make_base(every).bfloat16())
    assert model.base.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in model.module.parameters())
    x = torch.rand(4, *model.base.image_shape, generator=seeded(2))
    for images in (x, x.bfloat16(), x.double()):  # of any type
        out = model(images, CONTEXTS, generator=seeded())
        assert out.loss.dtype == torch.float32
        assert out.loss.isfinite().all()
    out.loss.mean().backward()
    assert model.generate(noise=model.abduct(x), do="a", generator=seeded()).isfinite().all()


def test_images_of_another_shape(base, x):
    model = wrapped(base)
    for images in (x[..., 1:], x[..., 1:, :], torch.cat([x, x], dim=1), torch.cat([x, x], dim=3), x[0]):
        for use in (lambda x: model(x, "obs"), model.posterior, model.abduct):
            with pytest.raises(ShapeError, match=rf"the base '{base.name}' takes images of shape \(batch, "):
                use(images)


@torch.no_grad()
def test_abduct_then_generate_is_the_reconstruction(base, x):
    model = wrapped(base)
    for context in ("obs", "a+b"):
        abduction = model.abduct(x, context)
        latent = model.module(abduction.noise, model.concepts.mask(context, 4))
        reconstruction = base.decode(latent, base.encode(x), temperature=0.0).mean
        replayed = model.generate(noise=abduction, do=context)
        torch.testing.assert_close(replayed, reconstruction, rtol=0, atol=1e-5)
        assert not torch.allclose(model.generate(noise=abduction, do="b"), reconstruction, atol=1e-5)


# -- files


@pytest.mark.parametrize("options", [{}, {"free_blocks": 1, "latent_noise": True}], ids=str)
def test_saves_and_loads_bit_for_bit(options, base, every, make_base, tmp_path):
    if options.get("latent_noise") and not base.embeds:
        with pytest.raises(ValueError, match=f"a '{base.name}' base has no decoder inputs of its own"):
            wrapped(base, **options)
        return
    model = wrapped(base, **options)
    model.save_pretrained(tmp_path)
    held = safetensors.torch.load_file(tmp_path / WEIGHTS_NAME)
    assert {name.partition(".")[0] for name in held} == {"module", "posterior_heads"}
    again = ContextualDecoder.from_pretrained(tmp_path, base=make_base(every))
    assert not any(module.training for module in again.modules())
    assert again.config == model.config
    assert same(state(again), state(model))
    for do in CONTEXTS:
        assert torch.equal(*(m.generate(2, do=do, generator=seeded()) for m in (model, again)))


def test_the_base_saves_and_loads_bit_for_bit(base, tmp_path):
    if not saves(base):
        pytest.skip("this family does not write its base")
    base.save(tmp_path / "new" / "folder")
    again = get_adapter(base.name).load(tmp_path / "new" / "folder")
    assert same(state(again), state(base))
    assert (again.latent, again.image_shape) == (base.latent, base.image_shape)
    assert again.source == str(tmp_path / "new" / "folder")


def test_fingerprint_is_of_the_weights(base, every, make_base):
    found = fingerprint(base)
    assert found == fingerprint(adapt(make_base(every)))
    assert found != fingerprint(adapt(make_base(every, seed=1)))
    for dtype in (torch.bfloat16, torch.float16):
        assert same_weights(found, fingerprint(copy.deepcopy(base).to(dtype)))
    statistics = copy.deepcopy(base)
    for name, buffer in statistics.named_buffers():
        if "running" in name:
            buffer.mul_(2)
    assert found == fingerprint(statistics)
    other = copy.deepcopy(base)
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1
    assert found != fingerprint(other)


# -- LoRA


def test_lora_adapts_what_decoding_runs_and_encoding_does_not(base, x):
    """Hooks see which layers run."""
    try:
        parts = base.decoder_parts()
    except LoraError:
        pytest.skip("this family does not say which of its parts decode")
    assert parts
    ran = set()
    for name, layer in base.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda *_, name=name: ran.add(name))
    encoding = base.encode(x)
    encoder = set(ran)
    ran.clear()
    assert base.decode(encoding.mean, encoding).mean.isfinite().all()  # some decode when they are asked
    # an autoencoder around the data that is diffused is left as it is
    assert set(decoder_layers(base)) == {name for name in ran if not name.startswith("vae.")}
    assert not ran & encoder


def test_lora_changes_the_decoder_alone(base, x, every, make_base, tmp_path):
    model = wrapped(base)
    before, encoded = state(base), base.encode(x).mean
    pictures = base.decode(encoded, temperature=0.0).mean
    plain = model.generate(2, do="a", generator=seeded())
    model.add_lora(rank=2)
    # but for rounding, which may be of another layout in memory
    torch.testing.assert_close(model.generate(2, do="a", generator=seeded()), plain, rtol=1e-5, atol=1e-6)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(2):  # the second factor of LoRA starts at zero
        optimiser.zero_grad()
        model.train()(x, CONTEXTS, generator=seeded()).loss.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    assert all(p.grad is not None for name, p in base.named_parameters() if is_lora(name))
    assert torch.equal(base.encode(x).mean, encoded)
    assert not torch.equal(base.decode(encoded, temperature=0.0).mean, pictures)
    kept = {name.replace(".base_layer", ""): tensor for name, tensor in state(base).items() if not is_lora(name)}
    assert same(kept, before)
    model.eval().save_pretrained(tmp_path)
    again = ContextualDecoder.from_pretrained(tmp_path, base=make_base(every))
    assert torch.equal(*(m.generate(2, do="a", generator=seeded()) for m in (model, again)))
