"""Methods of vectors: on the loop's batches, under perturbations, saved and loaded, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from context_module.baselines import available_baselines, get_baseline, load_baseline
from context_module.baselines.ada_vae import gaussian_kl
from context_module.baselines.discrepancy_vae import matched_mmd
from context_module.baselines.sams_vae import bernoulli_kl
from context_module.baselines.svae import hard_masks
from context_module.baselines.transfer import fitted_to, importance_bound
from context_module.data import VectorContextDataset
from context_module.errors import DataError
from context_module.evaluation import evaluate
from context_module.metrics import target_scores
from helpers.draws import seeded
from helpers.screens import screen

NAMES = [name for name in available_baselines() if get_baseline(name).kind == "vectors"]
TOLD = [name for name in NAMES if name != "vector_vae"]


@pytest.fixture(scope="module")
def data():
    return screen()


def make(name, data, **settings):
    torch.manual_seed(0)
    method = get_baseline(name)
    return method.build(method.settings_class(**{"latents": 3, "width": 8, **settings}), data.train)


def batch_of(model, data, every=4):
    items = model.view(data.train).__getitems__(list(range(0, len(data.train), every)))
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def trained(model, data, steps=60, lr=1e-2):
    groups = [{"params": list(group.parameters), "lr": lr * group.lr_scale} for group in model.parameter_groups()]
    optimizer, batch, found = torch.optim.Adam(groups), batch_of(model, data), []
    for step in range(steps):
        losses = model(batch, step / steps)
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        optimizer.step()
        found.append(losses)
    return found


def test_there_are_methods_of_vectors():
    assert NAMES == ["vector_vae", "ivae", "svae", "svae_plus", "sams_vae", "discrepancy_vae"]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_learns(name, data):
    model = make(name, data)
    found = trained(model, data)
    assert {"loss", "error", "kl"} <= set(found[0])
    assert {value.shape for value in found[0].values()} == {(50,)}
    assert found[-1]["error"].mean() < found[0]["error"].mean() - 0.5
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    one = model({"x": data.train[60]["x"][None], "mask": data.train[60]["mask"][None]}, 1.0)
    assert set(one) == {"loss", "error", "kl"}
    torch.testing.assert_close(one["loss"], one["error"] + one["kl"])


@pytest.mark.parametrize("name", NAMES)
def test_its_groups_hold_every_parameter_once(name, data):
    model = make(name, data)
    held = [id(one) for group in model.parameter_groups() for one in group.parameters]
    assert sorted(held) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_to_any_set_of_perturbations(name, data, tmp_path):
    model = make(name, data).eval()
    subject = model.subject(data.train)
    for context in ("obs", "p1", data.held_out.context_names[0], "p1+p2+p3"):
        rows = subject.sample(7, context, seeded(1))
        assert rows.shape == (7, 12)
        assert torch.equal(rows, rows.round())
        assert torch.equal(rows, subject.sample(7, context, seeded(1)))
    assert subject.targets().shape == (4, 3)
    model.save(tmp_path)
    again = load_baseline(tmp_path)
    assert type(again) is type(model)
    assert again.takes == "vectors of 12 columns"
    assert torch.equal(again.subject(data.train).sample(7, "p1+p2", seeded(1)), subject.sample(7, "p1+p2", seeded(1)))
    with torch.no_grad():
        found = evaluate(subject, data, samples=15, contexts=["p1", data.held_out.context_names[0]], progress=False)
    assert {"perturbation", "latents"} - set(found.skipped) == {"perturbation", "latents"}
    assert found.whole["latents"].keys() == {
        "mcc",
        "mcc_spearman",
        "r2",
    }  # of four perturbations no F1 has an interval


def shifted(model, value):
    """Perturbation p2 shifts the first dimension, and p3 the second."""
    with torch.no_grad():
        model.shifts.zero_()
        model.shifts[1, 0] = model.shifts[2, 1] = value
        model.logits.fill_(-5)
        model.logits[1, 0] = model.logits[2, 1] = 5
    return model


@pytest.mark.parametrize("name", ["svae", "svae_plus", "sams_vae"])
def test_shifts_add_up(name, data):
    model = shifted(make(name, data), 4.0).eval()
    mask = data.concepts.mask(["obs", "p2", "p2+p3", "p1"])
    mean, _ = model.prior_of(mask)
    assert mean.tolist() == [[0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 0, 0]]
    assert model.targets().tolist() == [[False] * 3, [True, False, False], [False, True, False], [False] * 3]
    # in the order of the method's concepts, whatever the data's
    other = data.of_concepts(data.concepts)
    turned = VectorContextDataset(
        other.train.read(torch.arange(len(other.train))).int(),
        other.train.labels,
        other.train.context_names,
        list(data.concepts)[::-1],
        columns=other.train.columns,
    )
    assert torch.equal(model.subject(turned).targets(), model.targets())


def test_masks_are_drawn_of_every_row_while_it_trains(data):
    model = shifted(make("svae_plus", data), 4.0)
    with torch.no_grad():
        model.logits.zero_()
    mask = data.concepts.mask("p2", 400)
    drawn = model.prior_of(mask)[0][:, 0]
    assert 0.4 < (drawn > 0).float().mean() < 0.6
    torch.testing.assert_close(drawn.detach().round(), drawn.detach())
    assert model.train(False).prior_of(mask)[0].unique().tolist() == [0.0]


def test_a_prior_of_probabilities_is_what_makes_shifts_few(data):
    """By the gradient of the logits where nothing is shifted: none with a uniform prior, and more with a larger K."""
    pulls = []
    for sparsity in (1.0, 10.0, 100.0):
        model = make("svae_plus", data, sparsity=sparsity)
        (pull,) = torch.autograd.grad(model.penalty(), model.logits)
        pulls.append(pull.mean().item())
    assert pulls[0] == 0
    assert 0 < pulls[1] < pulls[2]
    assert make("svae", data, sparsity=0.0).penalty() == 0


def test_hard_masks_have_soft_gradients():
    logits = torch.tensor([0.3, -1.0], requires_grad=True)
    mask = hard_masks(logits, torch.tensor([0.5, 0.5]))
    assert mask.tolist() == [1.0, 0.0]
    (slope,) = torch.autograd.grad(mask.sum(), logits)
    torch.testing.assert_close(slope, logits.sigmoid() * (1 - logits.sigmoid()))


def test_kls_of_masks():
    assert bernoulli_kl(torch.tensor([0.0]), 0.5).item() == pytest.approx(0, abs=1e-7)
    expected = 0.5 * torch.log(torch.tensor(0.5 / 0.01)) + 0.5 * torch.log(torch.tensor(0.5 / 0.99))
    torch.testing.assert_close(bernoulli_kl(torch.tensor([0.0]), 0.01)[0], expected)


def test_ivae_learns_a_mean_or_none(data):
    mask = data.concepts.mask(["obs", "p1"])
    assert make("ivae", data).prior_of(mask)[0].abs().sum() > 0
    mean, log_var = make("ivae", data, prior_mean=False).prior_of(mask)
    assert not mean.any()
    assert not torch.equal(log_var[0], log_var[1])
    annealed = make("ivae", data, annealed=True)
    assert annealed.stages == (0.625,)
    batch = batch_of(annealed, data)
    assert annealed(batch, 0.1)["loss"].mean() > 40 * annealed(batch, 0.9)["error"].mean()
    found = annealed.posterior(annealed.values(batch["x"]), batch["mask"])[0]
    assert not torch.equal(found, annealed.posterior(annealed.values(batch["x"]), ~batch["mask"])[0])  # it is told


def test_a_graph_of_latents_carries_shifts_on(data):
    model = make("discrepancy_vae", data)
    with torch.no_grad():
        model.edges.copy_(torch.tensor([[9.0, 2.0, 0.0], [9.0, 9.0, 3.0], [9.0, 9.0, 9.0]]))
    assert model.endogenous(torch.tensor([[1.0, 0.0, 0.0]])).tolist() == [[1.0, 2.0, 6.0]]
    assert model.targets().sum(1).tolist() == [1, 1, 1, 1]


def test_the_mmd_is_of_rows_of_the_same_perturbation():
    a, b = torch.randn(80, 3, generator=seeded(0)), torch.randn(80, 3, generator=seeded(1))
    mask = torch.arange(80)[:, None] % 2 == torch.arange(2)
    shift = 3 * mask[:, :1].float()
    assert abs(matched_mmd(a + shift, b + shift, mask).item()) < 0.02
    assert matched_mmd(a + shift, b, mask) > 0.1
    assert matched_mmd(a[:1], b[:1], mask[:1]) == 0  # no pair


def test_the_targets_of_perturbations_are_found():
    """Of latents that are known: masks close where nothing is shifted, and stay open where something is."""
    data = screen(perturbations=20, latents=6, samples_per_context=60)
    model = make("svae_plus", data, latents=6)
    latents, mask = data.train.factors, data.concepts.mask(["obs", *data.concepts])[data.train.labels]
    optimizer = torch.optim.Adam([model.shifts, model.logits], lr=0.1)
    for _ in range(150):
        mean, log_var = model.prior_of(mask)
        optimizer.zero_grad()
        (gaussian_kl(latents, log_var, mean, log_var).sum() + model.penalty()).backward()
        optimizer.step()
    assert (model.targets() == data.targets).float().mean() > 0.97
    found = target_scores(model.targets(), data.targets, latents, latents)
    assert found["f1"].value > 0.95


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("svae_plus", {"sparsity": 0.5}, "sparsity must be at least 1, got 0.5"),
        ("svae", {"sparsity": -1}, "sparsity must be at least 0, got -1"),
        ("sams_vae", {"mask_probability": 0.0}, r"mask_probability must be in \(0, 1\), got 0.0"),
        ("discrepancy_vae", {"alpha": -1}, "alpha must be at least 0"),
        ("ivae", {"latents": 0}, "latents must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range(name, settings, message):
    with pytest.raises(ValueError, match=message):
        get_baseline(name).settings_class(**settings)


def test_data_that_does_not_fit(data):
    method = get_baseline("svae_plus")
    rows = VectorContextDataset(torch.zeros(4, 3), [0, 0, 1, 1], ["obs", "a"], ["a"])
    with pytest.raises(DataError, match="likelihood poisson is of counts, this data has none: use gaussian"):
        method.build(method.settings_class(likelihood="poisson"), rows)
    assert method.build(method.settings_class(), rows).likelihood == "gaussian"
    model = make("svae_plus", data)
    with pytest.raises(DataError, match=r"trained on the perturbations p1, p2, p3, ... \(4\), this data has a, ..."):
        model.subject(rows)
    with pytest.raises(DataError, match="no 'obs' rows, the control"):
        model.subject(data.train.only(["p1", "p2", "p3", "p4"]))
    with pytest.raises(DataError, match="have no image shape: use a base, or a method, of vectors"):
        get_baseline("beta_vae").build(get_baseline("beta_vae").settings_class(), rows)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_knows_is_transferred_to_further_perturbations(name, data):
    learned = ["obs", "p1", "p2"]
    torch.manual_seed(0)
    method = get_baseline(name)
    model = method.build(method.settings_class(latents=3, width=8), data.train.only(learned))
    assert model.learned == tuple(learned)
    trained(model, replace(data, train=data.train.only(learned)), steps=40)
    before = {key: tensor.clone() for key, tensor in model.eval().state_dict().items()}
    fitted = fitted_to(model, data.train, ["p3", "p4"], steps=30)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    for (ours, axis), (theirs, _) in zip(fitted.own_parameters(), model.own_parameters(), strict=True):
        known = [data.concepts.index(concept) for concept in ("p1", "p2")]
        places = torch.tensor(known)
        assert torch.equal(ours.index_select(axis, places), theirs.index_select(axis, places))
        assert not torch.equal(ours, theirs)
    x, mask = data.test.select("p3"), data.concepts.mask("p3", 40)
    if fitted.own_parameters():
        start = fitted_to(model, data.train, ["p3", "p4"], steps=0)
        with torch.no_grad():
            ends = [sum(part.mean() for part in each.bound_in(x, mask, seeded(0))) for each in (fitted, start)]
        assert ends[0] < ends[1] + 0.05
    bound = importance_bound(model, x, mask, 50, seeded(0)).mean()
    with torch.no_grad():
        assert bound > -sum(part.mean() for part in model.bound_in(x, mask, seeded(0)))
    found = evaluate(model.subject(data.train), data, samples=15, metrics=["transfer"], progress=False)
    assert found.whole["transfer"].keys() == {"nll_elbo", "nll_iwelbo"}
    assert found.whole["transfer"]["nll_iwelbo"].value < found.whole["transfer"]["nll_elbo"].value
    everything = evaluate(make(name, data).subject(data.train), data, samples=15, contexts=["p1"], progress=False)
    assert everything.skipped["transfer"] == "the model was trained on all perturbations: leave some out, --contexts"
