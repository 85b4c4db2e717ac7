"""Any encoder and decoder as a base."""

import math

import pytest
import torch
from torch import nn

from context_module.adapters.modules import ModulesAdapter
from context_module.errors import ShapeError
from helpers.draws import seeded
from helpers.models import wrapped

IMAGE = (1, 4, 4)


def toy(latent=3, image=IMAGE, **options):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, latent))
    decoder = nn.Sequential(nn.Linear(latent, 16), nn.Unflatten(1, image))
    return ModulesAdapter(encoder, decoder, (3,), IMAGE, **options)


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(
        ShapeError,
        match=r"encoder gives embeddings of shape \(2,\) for images of shape \(1, 4, 4\), not latent_shape=\(3,\)",
    ):
        toy(latent=2)
    with pytest.raises(ShapeError, match=r"decoder gives images of shape \(1, 2, 8\), not \(1, 4, 4\)"):
        toy(image=(1, 2, 8))


def test_networks_of_different_types_are_refused():
    decoder = nn.Sequential(nn.Linear(16, 16), nn.Unflatten(1, IMAGE)).bfloat16()
    with pytest.raises(
        ShapeError, match="mix parameters of torch.bfloat16 and torch.float32: convert them to one type"
    ):
        ModulesAdapter(nn.Sequential(nn.Flatten(), nn.Linear(16, 16)), decoder, (16,), IMAGE)


def test_building_leaves_no_trace():
    encoder = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten())
    decoder = nn.Unflatten(1, IMAGE)
    ModulesAdapter(encoder, decoder, (16,), IMAGE)
    assert encoder[0].num_batches_tracked == 0
    assert not encoder.training


@torch.no_grad()
def test_scale_and_shift():
    plain, scaled = toy(), toy(scale=4.0, shift=0.5)
    x = torch.rand(2, *IMAGE)
    raw = plain.encode(x).mean
    encoding = scaled.encode(x)
    assert torch.allclose(encoding.mean, (raw - 0.5) * 4)
    assert torch.equal(encoding.features, encoding.mean)
    assert encoding.log_var is None
    assert torch.allclose(scaled.latent.denormalise(encoding.mean), raw, atol=1e-6)
    decoding = scaled.decode(encoding.mean)
    assert torch.allclose(decoding.mean, plain.decode(raw).mean, atol=1e-6)
    assert torch.allclose(decoding.mean, scaled.decoder(raw).sigmoid(), atol=1e-6)
    assert torch.equal(decoding.kl, torch.zeros(2))


def test_features_of_an_embedding_with_axes_are_flat():
    adapter = ModulesAdapter(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), (1, 2, 2), IMAGE)
    encoding = adapter.encode(torch.rand(3, *IMAGE))
    assert encoding.mean.shape == (3, 1, 2, 2)
    assert encoding.features.shape == (3, adapter.num_features) == (3, 4)


def test_prior_draws():
    draws = toy(scale=4.0).sample_latent(2000, seeded(0))
    assert draws.shape == (2000, 3)
    assert draws.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(draws, toy().sample_latent(2000, seeded(0)))


# --- what an encoder returns


class Returns(nn.Module):
    """An encoder that returns what `make` makes of mean and log-variance, of three values each."""

    def __init__(self, make):
        super().__init__()
        torch.manual_seed(1)
        self.heads, self.make = nn.Linear(16, 6), make

    def forward(self, x):
        return self.make(*self.heads(x.flatten(1)).chunk(2, dim=1))


def returning(make, **options):
    return ModulesAdapter(
        Returns(make), nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, IMAGE)), (3,), IMAGE, **options
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", [tuple, list])
def test_a_pair_is_a_gaussian_posterior(kind):
    base = returning(lambda mean, log_var: kind((mean, log_var)), scale=4.0, shift=0.5)
    x = torch.rand(2, *IMAGE)
    mean, log_var = base.encoder(x)
    encoding = base.encode(x)
    torch.testing.assert_close(encoding.mean, (mean - 0.5) * 4)
    torch.testing.assert_close(encoding.log_var, log_var + 2 * math.log(4))
    assert torch.equal(encoding.features, encoding.mean)
    assert wrapped(base)(x, "a").loss.isfinite().all()


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda mean, log_var: {"mean": mean, "std": log_var}, "a dict of 'mean', 'std'"),
        (lambda mean, log_var: (mean, log_var, mean), r"a tuple of 3 \(Tensor, Tensor, Tensor\)"),
        (lambda mean, log_var: (mean, None), r"a tuple of 2 \(Tensor, NoneType\)"),
        (lambda mean, log_var: torch.distributions.Normal(mean, log_var.exp()), "a Normal"),
    ],
)
def test_other_things_that_an_encoder_returns(make, found):
    with pytest.raises(TypeError, match=rf"or the pair of tensors \(mean, log-variance\) .*; got {found}: wrap it in"):
        returning(make)


def test_pairs_of_other_shapes():
    with pytest.raises(ShapeError, match=r"embeddings of shape \(1,\) .* not latent_shape=\(3,\)"):
        returning(lambda mean, log_var: (mean, log_var.mean(1, keepdim=True)))


def test_other_things_that_a_decoder_returns():
    decoder = Returns(lambda image, rest: (image, rest))
    with pytest.raises(TypeError, match=r"the decoder must return images.*; got a tuple of 2 \(Tensor, Tensor\)"):
        ModulesAdapter(nn.Flatten(), decoder, (16,), IMAGE)


# --- what a decoder ends in


class Ends(nn.Module):
    """A decoder that ends in a function, and in a change of shape."""

    def __init__(self, function, scale=3.0):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.function, self.scale = nn.Linear(16, 16), function, scale

    def forward(self, z):
        return self.function(self.scale * self.linear(z)).view(-1, 4, 4, 1).permute(0, 3, 1, 2)


def ending(function, output="logits", **options):
    return ModulesAdapter(nn.Flatten(), Ends(function, **options), (16,), IMAGE, output=output)


@torch.no_grad()
@pytest.mark.parametrize(
    ("function", "output", "to_image"),
    [
        (torch.sigmoid, "unit", lambda y: y),
        (nn.Hardsigmoid(), "unit", lambda y: y),
        (lambda y: (y.tanh() + 1) / 2, "unit", lambda y: y),
        (torch.tanh, "tanh", lambda y: (y + 1) / 2),
        (lambda y: 1.02 * y.tanh(), "tanh", lambda y: ((y + 1) / 2).clamp(0, 1)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*outside of:UserWarning")  # of the fifth
def test_the_mean_is_the_decoders_own_image(function, output, to_image):
    base, latent = ending(function, output), 5 * torch.randn(3, 16, generator=seeded())
    decoding = base.decode(latent)
    image = to_image(base.decoder(latent))
    assert torch.equal(decoding.mean, image)
    p, x = image.double().clamp(1e-6, 1 - 1e-6), (torch.rand(3, *IMAGE, generator=seeded(1)) < 0.5).float()
    expected = torch.distributions.Bernoulli(p).log_prob(x.double()).flatten(1).sum(1).float()
    torch.testing.assert_close(decoding.log_prob(x), expected, rtol=1e-2, atol=0.1)
    drawn = torch.stack([decoding.sample(seeded(seed)) for seed in range(500)])
    torch.testing.assert_close(drawn.mean(0), image, atol=0.12, rtol=0)


def test_gradients_go_through_images():
    for function, output in ((torch.sigmoid, "unit"), (torch.tanh, "tanh")):
        latent = torch.randn(3, 16, generator=seeded()).requires_grad_()
        ending(function, output).decode(latent).log_prob(torch.rand(3, *IMAGE)).sum().backward()
        assert latent.grad.isfinite().all()
        assert (latent.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    ("function", "output", "message"),
    [
        (torch.sigmoid, "logits", "output='logits', but it ends in a sigmoid: give output='unit'"),
        (nn.Tanh(), "logits", "output='logits', but it ends in a tanh: give output='tanh'"),
        (nn.Tanh(), "unit", "output='unit', but it ends in a tanh: give output='tanh'"),
        (torch.sigmoid, "tanh", "output='tanh', but it ends in a sigmoid: give output='unit'"),
        (lambda y: (y.tanh() + 1) / 2, "logits", "as those of images: give output='unit' if they are"),
        (lambda y: y.clamp(-1, 1), "logits", "between -1 and 1, as those of images: give output='tanh' if they are"),
        (lambda y: 255 * y.sigmoid(), "unit", r"but its values are between .*, outside of \[0.0, 1.0\]"),
        (lambda y: y, "tanh", r"outside of \[-1.0, 1.0\]"),
    ],
)
def test_images_that_contradict_the_output(function, output, message):
    with pytest.warns(UserWarning, match=message):
        ending(function, output)


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 30.0])
def test_ordinary_logits_raise_no_word(scale):  # a warning is an error here
    ending(lambda y: y, scale=scale)
    ending(torch.zeros_like)  # of a last layer that starts at zero


def test_an_output_that_is_not_known():
    with pytest.raises(ShapeError, match="output must be one of logits, tanh, unit, got 'sigmoid'"):
        ending(torch.sigmoid, "sigmoid")
