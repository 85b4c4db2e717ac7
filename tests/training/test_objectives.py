"""The losses, in pixels and in embeddings."""

import dataclasses
import math

import pytest
import torch

from context_module import adapt, wrap_decoder
from context_module.cli import parse_arguments, terms_of
from context_module.training.encodings import encode_dataset
from context_module.training.objectives.critic import Adversarial
from context_module.training.objectives.latent import LATENT_TERMS, LatentObjective, latent_terms
from context_module.training.objectives.matching import Matching
from context_module.training.objectives.pixel import PixelObjective
from context_module.training.objectives.terms import LatentStep
from helpers.pictures import random_data

CONTEXTS = ("obs", "a", "b", "a+b")
TERMS = ("matching", "adversarial", "interaction", "overlap", "sparsity", "acyclicity")


@pytest.fixture
def make_base(make_base):
    """The adapters around the tiny bases."""
    return lambda family: adapt(make_base(family))


@pytest.fixture
def base(family, make_base):
    return make_base(family)


def make_model(base, **options):
    torch.manual_seed(0)
    return wrap_decoder(base, ["a", "b"], noise_width=4, concept_width=2, **options)


def make_latent(base, **options):
    """A latent objective and a batch of all its encodings."""
    encodings = encode_dataset(base, random_data(base.image_shape), progress=False)
    weights = {name: options.pop(name) for name in TERMS if name in options}
    terms = options.pop("terms", None) or latent_terms(**weights)
    objective = LatentObjective(make_model(base, latent_noise=True), encodings, terms, **options)
    return objective, encodings.batch(torch.arange(len(encodings)))


def critic_of(objective):
    """The term with the critic, None without."""
    return next((term for term in objective.terms if isinstance(term, Adversarial)), None)


def pixel_batch(base):
    data = random_data(base.image_shape)
    return torch.utils.data.default_collate(data.__getitems__(list(range(len(data)))))


# --- pixel objective


def test_pixel_terms_add_up(base):
    objective = PixelObjective(make_model(base), beta=0.5).eval()
    with torch.no_grad():
        out = objective(pixel_batch(base), 0.0)
    assert list(out) == ["loss", "neg_log_likelihood", "kl_noise", "kl_base"]
    assert all(value.shape == (32,) and value.isfinite().all() for value in out.values())
    expected = out["neg_log_likelihood"] + 0.5 * out["kl_noise"] + out["kl_base"]
    torch.testing.assert_close(out["loss"], expected)


@pytest.mark.parametrize(("progress", "beta"), [(0.0, 0.0), (0.15, 1.0), (0.3, 2.0), (1.0, 2.0)])
def test_beta_warms_up_in_training_only(progress, beta, make_base):
    base = make_base("modules")
    objective = PixelObjective(make_model(base), beta=2.0)
    for training in (True, False):
        with torch.no_grad():
            out = objective.train(training)(pixel_batch(base), progress)
        expected = out["neg_log_likelihood"] + (beta if training else 2.0) * out["kl_noise"]
        torch.testing.assert_close(out["loss"], expected)


def test_without_warm_up(make_base):
    base = make_base("modules")
    out = PixelObjective(make_model(base), beta=2.0, warmup_share=0.0)(pixel_batch(base), 0.0)
    torch.testing.assert_close(out["loss"], out["neg_log_likelihood"] + 2 * out["kl_noise"])


# --- latent objective


def test_latent_objective_needs_latent_noise(make_base):
    base = make_base("nvae")
    encodings = encode_dataset(base, random_data(base.image_shape), progress=False)
    with pytest.raises(ValueError, match="wrap the base with latent_noise=True"):
        LatentObjective(make_model(base), encodings)


def test_latent_objective_wants_embeddings(make_base):
    with pytest.raises(
        ValueError,
        match="a 'denoiser' base has no decoder inputs of its own.*leave it out, for the likelihood",
    ):
        make_latent(make_base("denoiser"))


def test_latent_terms_add_up(base):
    """For every family, those with a deterministic encoder among them."""
    weights = {"matching": 7.0, "interaction": 5.0, "overlap": 4.0, "sparsity": 3.0, "acyclicity": 2.0}
    objective, batch = make_latent(base, beta=0.5, **weights)
    with torch.no_grad():
        out = objective.eval()(batch, 0.0)
    assert all(value.shape == (32,) and value.isfinite().all() for value in out.values())
    expected = out["neg_log_likelihood"] + 0.5 * out["kl_noise"] + 7 * out["matching"]
    expected += 5 * out["interaction"] + 4 * out["overlap"] + 3 * out["sparsity"] + 2 * out["acyclicity"]
    torch.testing.assert_close(out["loss"], expected)


def test_critic_adds_its_terms_in_training_only(make_base):
    weights = {**dict.fromkeys(TERMS, 0.0), "adversarial": 7.0}
    objective, batch = make_latent(make_base("nvae"), **weights)
    with torch.no_grad():
        assert not {"adversarial", "critic"} & set(objective.eval()(batch))
    out = objective.train()(batch)
    bound = out["neg_log_likelihood"] + objective.beta * out["kl_noise"]
    torch.testing.assert_close(out["loss"], bound + 7 * out["adversarial"] + out["critic"])
    out["loss"].mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in critic_of(objective).critic.parameters())
    without, batch = make_latent(make_base("nvae"), adversarial=0.0)
    assert critic_of(without) is None
    assert "critic" not in without.train()(batch)


def test_critic_sees_coordinates_of_unit_variance(family, make_base):
    objective, batch = make_latent(make_base(family))
    step = LatentStep(objective.model.module, objective.directions, objective.spread, *[None] * 3, True)
    seen = critic_of(objective).scale * step.along(objective.target(batch))
    assert seen.var(0).mean().item() == pytest.approx(1, rel=0.2)


def test_latent_objective_without_concepts(base):
    observational = random_data(base.image_shape).of_concepts([])
    encodings = encode_dataset(base, observational, progress=False)
    model = wrap_decoder(base, [], noise_width=4, concept_width=2, free_blocks=2, latent_noise=True)
    out = LatentObjective(model, encodings, latent_terms(sparsity=1.0))(encodings.batch(torch.arange(8)))
    assert all(value.shape == (8,) and value.isfinite().all() for value in out.values())
    out["loss"].mean().backward()


def test_latent_warm_up_in_training_only(make_base):
    objective, batch = make_latent(make_base("nvae"), beta=2.0, **dict.fromkeys(TERMS, 0.0))
    for training, progress, beta in [(True, 0.0, 0.0), (True, 0.15, 1.0), (False, 0.0, 2.0)]:
        out = objective.train(training)(batch, progress)
        torch.testing.assert_close(out["loss"], out["neg_log_likelihood"] + beta * out["kl_noise"])


def test_latent_likelihood_is_that_of_a_normal(make_base):
    """In the standardised latents, with a posterior without spread and nothing random besides."""
    objective, batch = make_latent(make_base("modules"), posterior_share=0.0)
    model = objective.eval().model
    with torch.no_grad():
        model.posterior_heads.log_var.weight.zero_()
        model.posterior_heads.log_var.bias.fill_(-200.0)
        out = objective(batch)
        noise = model.posterior_heads(batch["features"], batch["mask"]).mean
        latents = model.module(noise, batch["mask"]).flatten(1)
        density = torch.distributions.Normal(latents, model.module.scale.flatten()).log_prob(batch["mean"].flatten(1))
    expected = -(density + objective.spread.log()).sum(1)
    torch.testing.assert_close(out["neg_log_likelihood"], expected, rtol=1e-4, atol=1e-4)


def test_module_starts_from_the_encodings(make_base):
    objective, batch = make_latent(make_base("nvae"))
    module = objective.model.module
    torch.testing.assert_close(module.inversion.linear.bias, batch["mean"].flatten(1).mean(0))
    torch.testing.assert_close(module.scale.flatten(), objective.spread)
    noisy = batch["mean"].flatten(1).var(0) + 0.3**2 * batch["log_var"].flatten(1).exp().mean(0)
    torch.testing.assert_close(objective.spread, noisy.sqrt())
    assert all(name.startswith(("model.", "terms.", "kept_edges")) for name in objective.state_dict())


def test_gradient_reaches_module_heads_and_scale_but_not_the_base(base):
    objective, batch = make_latent(base)
    objective.train()(batch, 0.5)["loss"].mean().backward()
    assert all(parameter.grad is None for parameter in objective.model.base.parameters())
    model = objective.model
    for parameter in (model.module.log_scale, model.module.inversion.linear.weight, model.posterior_heads.mean.weight):
        assert parameter.grad.abs().sum() > 0


def test_beta_is_chosen_by_the_dimensions_that_carry_signal(make_base, monkeypatch):
    objective, _ = make_latent(make_base("modules"))  # a deterministic encoder: all 8 of them
    assert objective.beta == pytest.approx(8 / 50, rel=1e-3)
    noisy, _ = make_latent(make_base("lightweight"), posterior_share=100.0)
    assert 0 < noisy.beta < 0.01
    monkeypatch.setattr("context_module.training.objectives.latent._DIMENSIONS_PER_BETA", 4)
    assert make_latent(make_base("modules"))[0].beta == 1.5


def test_scale_is_learned(make_base):
    """A module whose mean is the encoding itself needs hardly any scale."""
    objective, batch = make_latent(make_base("modules"), posterior_share=0.0, matching=0.0, adversarial=0.0)
    scale = objective.model.module.log_scale
    constant = {name: value[:1].expand_as(value) for name, value in batch.items()}  # one image, again and again
    optimizer = torch.optim.Adam([scale, objective.model.module.inversion.linear.bias], lr=0.02)
    before = scale.detach().exp().mean()
    with torch.no_grad():
        objective.model.module.inversion.linear.weight.zero_()
    for _ in range(100):
        optimizer.zero_grad()
        objective.train()(constant, 0.0)["loss"].mean().backward()
        optimizer.step()
    assert scale.exp().mean() < 0.6 * before


def test_matching_is_the_squared_distance_of_generated_and_encoded(make_base):
    """All embeddings in one point and all generated in another: their squared distance as the decoder shows it."""
    objective, batch = make_latent(make_base("modules"), posterior_share=0.0, terms=[Matching(projections=2000)])
    batch = {**batch, "mean": objective.center.view(1, 2, 2, 2).expand_as(batch["mean"])}
    module, shift = objective.model.module, torch.linspace(-1, 2, 8)
    with torch.no_grad():
        module.inversion.linear.weight.zero_()
        module.log_scale.fill_(-30.0)
        assert (objective.eval()(batch)["matching"] < 1e-6).all()
        for factor in (1, 2):
            module.inversion.linear.bias.copy_(objective.center + factor * shift * objective.spread)
            expected = objective.directions.energy((factor * shift * objective.spread)[None]).item()
            assert objective(batch)["matching"].tolist() == pytest.approx([expected] * 32, rel=0.15)


def test_reconstruction_is_the_bases_own_with_latent_noise(base):
    objective, _ = make_latent(base)
    model, x = objective.model.eval(), pixel_batch(base)["x"][:4]
    with torch.no_grad():
        encoding = base.encode(x)
        expected = base.decode(encoding.mean, encoding, temperature=0.0).mean
    replayed = model.generate(noise=model.abduct(x, "a"), do="a")
    torch.testing.assert_close(replayed, expected, rtol=1e-4, atol=1e-4)
    assert math.isfinite(replayed.sum().item())


def test_directions_are_those_of_pictures_where_a_sketch_explains_them(make_base, monkeypatch):
    for explained, shape in ((0.6, (8, 3)), (0.4, (8,))):
        monkeypatch.setattr(
            "context_module.training.objectives.embedding.decoder_sketch",
            lambda *_, e=explained, **__: (torch.ones(8, 3), e),
        )
        assert make_latent(make_base("modules"))[0].directions.matrix.shape == shape


def test_terms_by_name():
    terms = {term.name: term.weight for term in latent_terms(sparsity=2.0, matching=0.0)}
    assert set(terms) == set(TERMS)
    assert (terms["sparsity"], terms["matching"], terms["overlap"]) == (2.0, 0.0, 0.2)
    with pytest.raises(TypeError, match="unknown term 'sparse' of the latent objective; its terms: matching, "):
        latent_terms(sparse=1.0)


def test_every_term_has_a_flag(load_recipe):
    """Made from the term itself: name, weight and help."""
    kind = load_recipe("finetune").FinetuneArguments
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for term in LATENT_TERMS:
        assert fields[term.name].default == term.weight
        assert term.help in fields[term.name].metadata["help"]
    args = parse_arguments(kind, description="", argv=["--sparsity", "2", "--adversarial", "0"])
    weights = {term.name: term.weight for term in terms_of(args)}
    assert (weights["sparsity"], weights["adversarial"], weights["matching"]) == (2.0, 0.0, 300.0)
