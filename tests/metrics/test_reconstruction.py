"""Bits of models whose bound is known."""

import math

import pytest
import torch
from torch import nn

from context_module import adapt, wrap_decoder
from context_module.adapters.contract import DecoderAdapter, Decoding, Encoding, LatentSpec
from context_module.adapters.likelihoods import BernoulliLikelihood
from context_module.data import ArrayContextDataset
from context_module.errors import ConceptError, DataError, ShapeError
from context_module.evaluation import subject_of
from context_module.metrics import reconstruction_bits
from helpers.draws import seeded

SHAPE, RAW = (3, 4, 4), LatentSpec((5,))


class StubBase(DecoderAdapter):
    """Every pixel Bernoulli with one logit; a Gaussian embedding, given raw; deeper latents of known KL."""

    name = "stub"
    num_features = 3

    def __init__(self, logit=0.0, mean=0.0, log_var=0.0, kl=0.0, latent=RAW):
        super().__init__()
        self.image_shape, self.latent = SHAPE, latent
        self.logit, self.raw_mean, self.raw_log_var, self.kl = logit, mean, log_var, kl
        self.dropout = nn.Dropout()

    def encode(self, x):
        mean = self.latent.normalise(torch.full((len(x), 5), self.raw_mean))
        log_var = None if self.raw_log_var is None else self.raw_log_var + 2 * math.log(self.latent.scale)
        features = self.dropout(x.mean((2, 3)))
        return Encoding(features, mean, None if log_var is None else torch.full_like(mean, log_var))

    def decode(self, latent, encoding=None, residuals=(), temperature=1.0, generator=None):
        self.latents = self.latent.denormalise(latent)
        logits = torch.full((len(latent), *SHAPE), self.logit)
        return Decoding(BernoulliLikelihood(logits), torch.full((len(latent),), self.kl))


def binary(n, shape=SHAPE, seed=0):
    return torch.randint(0, 2, (n, *shape), generator=seeded(seed)).float()


def test_a_fair_coin_is_a_bit_per_dimension_and_three_per_pixel():
    result = reconstruction_bits(subject_of(StubBase()), binary(12))
    assert result.per_dimension.value == pytest.approx(1)
    assert result.per_pixel.value == pytest.approx(3)
    assert result.per_pixel.high - result.per_pixel.low == pytest.approx(0, abs=1e-6)
    assert result.per_pixel.samples == 12


def test_a_known_coin_has_its_cross_entropy():
    probability, x = 0.8, binary(40)
    share = x.mean().item()
    expected = -share * math.log2(probability) - (1 - share) * math.log2(1 - probability)
    result = reconstruction_bits(subject_of(StubBase(logit=math.log(4))), x, batch_size=7)
    assert result.per_dimension.value == pytest.approx(expected, rel=1e-5)
    of_images = -torch.where(x == 1, math.log2(0.8), math.log2(0.2)).mean((1, 2, 3))
    half_width = 1.96 * of_images.std().item() / math.sqrt(40)
    assert result.per_dimension.high - result.per_dimension.value == pytest.approx(half_width, rel=1e-3)


@pytest.mark.parametrize("latent", [RAW, LatentSpec((5,), scale=0.18, shift=0.7)])
def test_kl_terms_of_a_base_count_in_its_raw_latents(latent):
    base = StubBase(mean=1.5, log_var=math.log(0.25), kl=2.0, latent=latent)
    nats = 5 * 0.5 * (1.5**2 + 0.25 - math.log(0.25) - 1) + 2.0
    result = reconstruction_bits(subject_of(base), binary(1000), batch_size=1000)
    assert result.per_pixel.value == pytest.approx(3 + nats / math.log(2) / 16, rel=1e-5)
    assert base.latents.mean().item() == pytest.approx(1.5, abs=0.03)  # drawn, not the mean
    assert base.latents.std().item() == pytest.approx(0.5, abs=0.02)


def test_a_wrapped_base_counts_the_noise_instead_of_the_embedding():
    model = wrap_decoder(StubBase(mean=1.5, kl=2.0), ["a", "b"], noise_width=2, concept_width=2, free_blocks=0)
    for head in (model.posterior_heads.mean, model.posterior_heads.log_var):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    nn.init.ones_(model.posterior_heads.mean.bias)  # N(1, 1) over 4 values
    result = reconstruction_bits(subject_of(model), binary(12), "a")
    assert result.per_pixel.value == pytest.approx(3 + (4 * 0.5 + 2.0) / math.log(2) / 16, rel=1e-5)


def data_set(concepts=("a", "b"), per_context=6):
    names = ("obs", "a", "b")
    x = (binary(3 * per_context) * 255).to(torch.uint8)
    return ArrayContextDataset(x, torch.arange(3).repeat_interleave(per_context), names, concepts)


def test_contexts_are_the_data_sets_own_whatever_its_order_of_concepts():
    torch.manual_seed(0)
    model = wrap_decoder(StubBase(), ["a", "b"], noise_width=2, concept_width=2)
    x, names = data_set().read(torch.arange(18)), ["obs"] * 6 + ["a"] * 6 + ["b"] * 6
    own = reconstruction_bits(subject_of(model), data_set(), batch_size=4)
    assert own == reconstruction_bits(subject_of(model), data_set(concepts=("b", "a")), batch_size=4)
    assert own == reconstruction_bits(subject_of(model), x, names, batch_size=4)
    assert own == reconstruction_bits(subject_of(model), x, model.concepts.mask(names), batch_size=4)
    observational = reconstruction_bits(subject_of(model), x, batch_size=4)
    assert own != observational
    assert observational == reconstruction_bits(subject_of(model), data_set(), "obs", batch_size=4)
    assert observational == reconstruction_bits(subject_of(model), data_set().pooled(), batch_size=4)


@pytest.mark.parametrize("latent_noise", [False, True])
def test_every_family_scores_as_its_forward_pass_says(base, latent_noise):
    model = wrap_decoder(base, ["a", "b"], noise_width=2, concept_width=2, latent_noise=latent_noise).train()
    x, state = binary(10, model.base.image_shape), torch.get_rng_state()
    result = reconstruction_bits(subject_of(model), x, "a+b")
    assert model.training
    assert model.module.training
    assert not any(part.training for part in model.base.modules())
    assert torch.equal(torch.get_rng_state(), state)
    loss = model.eval()(x, "a+b", generator=seeded(0)).loss
    channels, height, width = model.base.image_shape
    assert result.per_pixel.value == pytest.approx(loss.mean().item() / math.log(2) / (height * width), rel=1e-5)
    assert result.per_dimension.value == pytest.approx(result.per_pixel.value / channels)
    assert result == reconstruction_bits(subject_of(model), x, "a+b")
    assert result != reconstruction_bits(subject_of(model), x, "a+b", seed=1)


@pytest.mark.parametrize("family", ["lightweight", "nvae"])
def test_a_base_alone_is_reproducible_and_keeps_its_modes(make_base, family):
    net = make_base(family)
    base = adapt(net)
    x, state = binary(10, base.image_shape), torch.get_rng_state()
    assert base.training
    assert not net.training
    result = reconstruction_bits(subject_of(net), x)
    assert result == reconstruction_bits(subject_of(base), x)
    assert result != reconstruction_bits(subject_of(base), x, seed=1)
    assert base.training
    assert not any(part.training for part in net.modules())
    assert torch.equal(torch.get_rng_state(), state)
    base.train()
    assert reconstruction_bits(subject_of(base), x) == result
    assert all(part.training for part in base.modules())


def test_the_bound_lies_above_the_exact_likelihood():
    """One image per value of a latent sign: p(x) is an average of two products."""

    class Signed(StubBase):
        def decode(self, latent, encoding=None, residuals=(), temperature=1.0, generator=None):
            logits = 3 * latent[:, 0].sign()[:, None, None, None].expand(-1, *SHAPE)
            return Decoding(BernoulliLikelihood(logits), torch.zeros(len(latent)))

    x = torch.ones(500, *SHAPE)
    likelihoods = [48 * torch.tensor(sign * 3.0).sigmoid().log2().item() for sign in (1, -1)]
    exact = -math.log2(sum(2.0**each / 2 for each in likelihoods)) / 16
    good, bad = Signed(mean=3.0, log_var=math.log(0.1)), Signed(mean=0.0)
    for base in (good, bad):
        assert reconstruction_bits(subject_of(base), x).per_pixel.low > exact
    assert (
        reconstruction_bits(subject_of(good), x).per_pixel.value
        < reconstruction_bits(subject_of(bad), x).per_pixel.value
    )


def test_refuses_what_has_no_bound(make_base):
    with pytest.raises(DataError, match="the 'modules' base encodes deterministically, so it has no ELBO"):
        reconstruction_bits(subject_of(make_base("modules")), binary(10, (1, 8, 8)))
    with pytest.raises(DataError, match="at least 10 items, got 9"):
        reconstruction_bits(subject_of(StubBase()), binary(9))
    with pytest.raises(ShapeError, match=r"takes images of shape \(batch, 3, 4, 4\)"):
        reconstruction_bits(subject_of(StubBase()), binary(10, (3, 4, 5)))
    with pytest.raises(ShapeError, match=r"must be finite and in \[0, 1\]"):
        reconstruction_bits(subject_of(StubBase()), binary(10) * 255)
    with pytest.raises(TypeError, match="no adapter for a base of type Linear"):
        reconstruction_bits(subject_of(nn.Linear(2, 2)), binary(10))
    model = wrap_decoder(StubBase(), ["a", "c"], noise_width=2, concept_width=2)
    with pytest.raises(ConceptError, match="unknown concept 'b'"):
        reconstruction_bits(subject_of(model), data_set())
