"""The VAE of vectors: its likelihoods, as a base, its training, and what it refuses."""

import math

import pytest
import torch
from torch.distributions import NegativeBinomial, Normal, Poisson

from context_module import ContextualDecoder, adapt, wrap_decoder
from context_module.adapters import get_adapter, load_base
from context_module.adapters.vector_likelihoods import VectorOutput
from context_module.adapters.vector_vae import VectorPretraining, VectorVAE
from context_module.data import VectorContextDataset
from context_module.errors import CheckpointError, DataError, ShapeError
from context_module.training import fit_maps
from helpers.draws import seeded
from helpers.screens import screen, tiny_vector_vae


def likelihood(name, columns=3, rows=2, library=100.0):
    output = VectorOutput(columns, name)
    if output.log_spread is not None:
        output.log_spread.data.copy_(torch.tensor([0.3, 1.0, 2.0]))
    return output, output(torch.randn(rows, columns, generator=seeded(0)), torch.full((rows,), library))


def test_densities_are_those_of_torch():
    x = torch.tensor([[3.0, 0.0, 40.0], [1.0, 7.0, 2.0]])
    output, found = likelihood("negative_binomial")
    t = output.log_spread.exp()
    expected = NegativeBinomial(t, logits=(found.mean / t).log()).log_prob(x).sum(1)
    torch.testing.assert_close(found.log_prob(x), expected, rtol=1e-4, atol=1e-4)
    _, found = likelihood("poisson")
    torch.testing.assert_close(found.log_prob(x), Poisson(found.mean).log_prob(x).sum(1))
    output, found = likelihood("gaussian")
    torch.testing.assert_close(found.log_prob(x), Normal(found.mean, output.log_spread.exp()).log_prob(x).sum(1))


@pytest.mark.parametrize("name", ["negative_binomial", "poisson", "gaussian"])
def test_draws_have_their_moments_and_follow_the_generator(name):
    output, found = likelihood(name, rows=20_000)
    found = output(torch.zeros(20_000, 3), torch.full((20_000,), 60.0))
    drawn = found.sample(seeded(1))
    assert torch.equal(drawn, found.sample(seeded(1)))
    torch.testing.assert_close(drawn.mean(0), found.mean[0], rtol=0.05, atol=0.2)
    spread = {"negative_binomial": 20 + 400 / output.log_spread.exp() if name[0] == "n" else 0, "poisson": 20.0}
    variance = spread.get(name, output.log_spread.exp() ** 2 if name[0] == "g" else 0)
    torch.testing.assert_close(drawn.var(0), torch.as_tensor(variance).expand(3), rtol=0.1, atol=0)
    if name != "gaussian":
        assert torch.equal(drawn, drawn.round())


def test_counts_of_columns_share_the_library():
    _, found = likelihood("poisson", library=250.0)
    torch.testing.assert_close(found.mean.sum(1), torch.full((2,), 250.0))


def test_it_starts_from_the_rows():
    """So that columns of all sizes are as likely as a model of independent ones has them."""
    rates = torch.tensor([[1.0, 20.0, 400.0]]).expand(500, 3)
    counts = torch.poisson(rates, generator=seeded(0))
    output = VectorOutput(3, "negative_binomial")
    found = output(output.fit(counts).expand(500, 3), counts.sum(1))
    torch.testing.assert_close(found.mean, rates, rtol=0.3, atol=0.1)
    assert found.log_prob(counts).mean() > Poisson(counts.mean(0)).log_prob(counts).sum(1).mean() - 2
    assert output.fit(torch.zeros(5, 3)).isfinite().all()


def test_it_is_a_base_of_vectors():
    base = adapt(tiny_vector_vae())
    assert (base.kind, base.name, base.takes) == ("vectors", "vector_vae", "vectors of 12 columns")
    assert isinstance(base, get_adapter("vector_vae"))
    data = screen()
    x = data.train.select("obs", 5)
    encoding = base.encode(base.check_inputs(x))
    decoding = base.decode(encoding.mean, encoding)
    torch.testing.assert_close(decoding.mean.sum(1), x.sum(1), rtol=1e-3, atol=0)
    # what is behind a row stays in its counterfactuals
    again = base.decode(encoding.mean + 1, residuals=decoding.residuals)
    torch.testing.assert_close(again.mean.sum(1), x.sum(1), rtol=1e-3, atol=0)
    drawn = base.decode(encoding.mean, generator=seeded(0)).mean.sum(1).log()
    assert (drawn - 9.2).abs().max() < 0.5
    assert drawn.std() > 0
    assert base.decode(encoding.mean, temperature=0.0).mean.sum(1).log().std() < 1e-4
    deep = base.encode(3 * x)
    torch.testing.assert_close(deep.mean, encoding.mean, rtol=1e-4, atol=1e-5)  # depth is not in the embedding


def test_covariates_move_the_decoder_and_not_the_encoder():
    net = tiny_vector_vae(covariates=["batch=1", "batch=2"])
    net.frequencies.copy_(torch.tensor([0.0, 1.0]))
    base = adapt(net)
    x = torch.cat([screen().train.select("obs", 4), torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 2)], dim=1)
    other = torch.cat([x[:, :12], x[:, 12:].flip(1)], dim=1)
    encoding, second = base.encode(base.check_inputs(x)), base.encode(other)
    assert torch.equal(encoding.mean, second.mean)
    assert not torch.allclose(base.decode(encoding.mean, encoding).mean, base.decode(encoding.mean, second).mean)
    assert base.decode(encoding.mean, generator=seeded(0)).residuals[1].tolist() == [[0.0, 1.0]] * 4
    with pytest.raises(ShapeError, match=r"takes vectors of shape \(batch, 14\): 12 columns, g1, g2, g3, ..., and 2"):
        base.check_inputs(x[:, :12])


def test_what_it_does_not_take():
    base = adapt(tiny_vector_vae())
    x = screen().train.select("obs", 4)
    with pytest.raises(DataError, match="not finite"):
        base.check_inputs(x * math.nan)
    with pytest.raises(DataError, match="vectors for a vector_vae base of counts must be counts.*got -1"):
        base.check_inputs(-torch.ones_like(x))
    with pytest.raises(DataError, match="a row has no count at all"):
        base.check_inputs(0 * x)
    with pytest.raises(ShapeError, match="got list"):
        base.check_inputs([1, 2])
    assert base.check_inputs(x.long()).dtype == torch.float32
    with pytest.raises(ValueError, match="likelihood must be one of negative_binomial, poisson, gaussian, got 'zi'"):
        VectorVAE(["a"], likelihood="zi")
    with pytest.raises(ValueError, match="must be at least 1, got 1, 0"):
        VectorVAE(["a"], latents=0)


def test_it_is_saved_and_read(tmp_path):
    net = tiny_vector_vae(covariates=["batch=1", "batch=2"])
    net.save_pretrained(tmp_path)
    base = load_base("vector_vae", tmp_path)
    assert base.columns == net.columns
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), base.net.state_dict().values(), strict=True)
    )
    (tmp_path / "config.json").write_text('{"base": "lightweight"}')
    with pytest.raises(CheckpointError, match="does not hold a VAE of vectors"):
        load_base("vector_vae", tmp_path)


def test_it_learns():
    data = screen(samples_per_context=100)
    torch.manual_seed(0)
    base, objective = VectorPretraining(latents=3, width=16, kl_warmup=0.5).build(data.train)
    assert base.net.library[0] == pytest.approx(math.log(1e4), abs=0.02)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    batch = {"x": data.train.read(torch.arange(len(data.train)))}
    losses = []
    for step in range(150):
        found = objective(batch, step / 150)
        optimizer.zero_grad()
        found["loss"].mean().backward()
        optimizer.step()
        losses.append(found["neg_log_likelihood"].mean().item())
    assert losses[-1] < losses[0] - 5
    assert found["kl"].mean() > 1  # it tells rows apart


def test_what_it_is_not_pretrained_on():
    rows = VectorContextDataset(torch.zeros(2, 3), [0, 0], ["obs"], ["a"])
    with pytest.raises(DataError, match="likelihood poisson is of counts, this data has none: use gaussian"):
        VectorPretraining(likelihood="poisson").build(rows)
    base, _ = VectorPretraining().build(rows)
    assert not base.net.of_counts


def test_a_module_composes_on_it(tmp_path):
    """The shifts of two perturbations add up: of combinations means come nearer than those of the control."""
    data = screen(samples_per_context=300, held_out_samples=300, library=1e6, latents=9, genes=24)
    torch.manual_seed(0)
    base, objective = VectorPretraining(latents=9, width=32).build(data.train)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    rows = data.train.read(torch.arange(len(data.train)))
    for _ in range(600):
        chosen = rows[torch.randint(len(rows), (256,))]
        optimizer.zero_grad()
        objective({"x": chosen})["loss"].mean().backward()
        optimizer.step()
    model = wrap_decoder(base.eval(), data.concepts, form="edits", latent_noise=True, graph=())
    fit_maps(model, data.train)
    drawn = model.generate(300, do=data.held_out.context_names[0], seed=0)
    assert torch.equal(drawn, drawn.round())  # counts, without being asked for
    assert not torch.equal(model.generate(300, sample=False, seed=0), model.generate(300, seed=0))
    seen = base.seen
    control = seen(data.train.select("obs")).mean(0)
    ratios = []
    for context in data.held_out.context_names:
        real = seen(data.held_out.select(context)).mean(0)
        ours = seen(model.generate(300, do=context, seed=0)).mean(0)
        ratios.append(((ours - real).norm() / (control - real).norm()).item())
    assert sum(ratios) / len(ratios) < 0.5
    model.save_pretrained(tmp_path / "module")
    base.save(tmp_path / "base")
    again = ContextualDecoder.from_pretrained(tmp_path / "module", base=load_base("vector_vae", tmp_path / "base"))
    assert torch.equal(again.generate(3, do="p1", seed=1), model.generate(3, do="p1", seed=1))
    x = data.test.select("obs", 3)
    edited = model.generate(noise=model.abduct(x), do="p1", sample=False)
    torch.testing.assert_close(edited.sum(1), x.sum(1), rtol=1e-2, atol=1)  # as deep as the cell was
