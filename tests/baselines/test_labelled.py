"""Methods that learn from labels: what they are told, what they set, and a prior in which factors cause each other."""

import pytest
import torch

from context_module.baselines import BaselineSubject, get_baseline
from context_module.baselines.labels import LabelScale, cross_entropy, mean_of_known
from context_module.baselines.structural_prior import StructuralPrior, allowed_edges
from context_module.data import ArrayContextDataset, ContextData
from context_module.errors import ConceptError, DataError
from helpers.draws import seeded

SHAPE = (1, 28, 28)
SMALL = {"architecture": "conv3", "latents": 4, "factors": ["row", "column"]}
NAMES = ("supervised_vae", "dear", "causal_vae")


def make(name, **settings):
    torch.manual_seed(0)
    kind = get_baseline(name)
    graph = {} if name == "supervised_vae" else {"graph": ["row:column"]}
    return kind(kind.settings_class(**{**SMALL, **graph, **settings}), SHAPE, 100)


def images_of(factors, names=("row", "column")):
    pixels = torch.zeros(len(factors), *SHAPE, dtype=torch.uint8)
    return ArrayContextDataset(
        pixels, torch.zeros(len(factors), dtype=torch.int64), ["obs"], ["row", "column"], factors, names
    )


@pytest.fixture
def factors():
    return torch.rand(40, 2, generator=seeded(1)) * torch.tensor([4.0, 10.0]) + torch.tensor([2.0, -3.0])


# --- labels


def test_labels_in_the_units_of_codes(factors):
    scale = LabelScale(["row", "column"])
    holes = factors.clone()
    holes[::2, 1] = torch.nan
    scale.fit(holes)
    known = holes[1::2, 1]
    assert (scale.low[1], scale.high[1]) == (known.min(), known.max())
    assert scale.mean[1] == pytest.approx(known.mean().item(), rel=1e-5)
    unit, standard = scale.unit(factors[:, :1].expand(-1, 2)), scale.standard(factors)
    assert (unit[:, 0].min(), unit[:, 0].max()) == (0, 1)
    assert standard[:, 0].std(correction=0).item() == pytest.approx(1, rel=1e-5)


def test_what_is_not_known_takes_no_part():
    labels = torch.tensor([[0.2, torch.nan], [0.7, 1.0]])
    means = torch.randn(2, 2, generator=seeded(0)).requires_grad_()
    error = mean_of_known(cross_entropy(means, labels), labels)
    by_hand = [cross_entropy(means[i, j], labels[i, j]) for i, j in ((0, 0), (1, 0), (1, 1))]
    torch.testing.assert_close(error, torch.stack(by_hand).mean())
    assert torch.autograd.grad(error, means)[0][0, 1] == 0
    nothing = torch.full((2, 2), torch.nan)
    assert mean_of_known(cross_entropy(means, nothing), nothing) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_share_of_the_images_has_labels(name, factors):
    model = make(name, labels=0.25)
    view = model.view(images_of(factors), seed=3)
    known = view.factors.isfinite().all(1)
    assert known.sum() == 10
    assert torch.equal(view.factors[known], factors[known])
    assert torch.equal(model.scale.high, factors[known].amax(0))
    assert not torch.equal(known, make(name, labels=0.25).view(images_of(factors), seed=4).factors.isfinite().all(1))


@pytest.mark.parametrize("name", NAMES)
def test_missing_labels_leave_gradients_finite(name, factors):
    model = make(name, labels=0.25)
    view = model.view(images_of(factors))
    batch = {"x": torch.rand(40, *SHAPE, generator=seeded(0)), "factors": view.factors}
    model(batch, 0.5)["loss"].mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["ce", "l2", "covariance", "embedding"])
def test_every_label_loss_holds_codes_to_labels(kind):
    """Codes that are trained alone: in the end each knows its label, or has nothing of the other's."""
    values = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)).repeat(4, 1)
    values[:, 1] = 0.5 * values[:, 0] + values[:, 1]
    if kind == "embedding":
        values[:, 1] = values[:, 1].round()
    data = ContextData(images_of(values))
    settings = get_baseline("supervised_vae").settings_class(**SMALL, label_loss=kind, label_weight=1).completed(data)
    model = get_baseline("supervised_vae")(settings, SHAPE, 36)
    labels = model.view(data.train).factors
    codes = torch.randn(36, 4, generator=seeded(0)).requires_grad_()
    optimizer = torch.optim.Adam([codes, *(model.embedding.parameters() if model.embedding else ())], 0.1)
    errors = []
    for _ in range(150):
        error = model.label_error(codes, labels, 1.0)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.9 * errors[0]
    if kind == "covariance":
        assert errors[-1] < 1e-3
        return
    wanted = model.latents_of(labels)
    assert wanted.shape == (36, 2)
    correlations = [torch.corrcoef(torch.stack([codes[:, j], wanted[:, j]]))[0, 1] for j in range(2)]
    assert min(correlations) > 0.8


def test_the_weight_of_labels_has_a_schedule():
    strengths = {
        kind: [
            make("supervised_vae", label_schedule=kind, label_weight=8).label_strength(share) for share in (0.25, 0.75)
        ]
        for kind in ("fixed", "anneal", "fine_tune")
    }
    assert strengths == {"fixed": [8, 8], "anneal": [4, 8], "fine_tune": [0, 8]}


# --- setting factors


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_do_sets_a_factor_and_what_follows_by_the_methods_own_lights(name, factors):
    model = make(name).eval()
    model.view(images_of(factors))
    code = model.prior(6, seeded(0))
    if name == "dear":
        model.structure.effects.fill_(0.7)
        value = torch.linspace(2.5, 5.5, 6)
        changed = model.intervene(code, {"row": value})
        torch.testing.assert_close(changed[:, 0], model.latents_of(torch.stack([value, value], 1))[:, 0])
        assert not torch.allclose(changed[:, 1], code[:, 1])  # row acts on column
        assert torch.equal(changed[:, 2:], code[:, 2:])
        other = model.intervene(code, {"column": 0.0})
        torch.testing.assert_close(other[:, 0], code[:, 0])  # and is not acted on
        assert not torch.allclose(other[:, 1], code[:, 1])
    if name == "supervised_vae":
        changed = model.intervene(code, {"row": 3.0})
        assert torch.equal(changed[:, 1:], code[:, 1:])
    images = model.do(code, {"row": 3.0, "column": torch.zeros(6)})
    assert images.shape == (6, *SHAPE)
    assert 0 <= images.min() <= images.max() <= 1
    with pytest.raises(ConceptError, match="no factor 'size' here; its factors: row, column"):
        model.do(code, {"size": 1.0})


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_counterfactuals_of_given_images(name, factors):
    model = make(name).eval()
    data = images_of(factors)
    model.view(data)
    subject = BaselineSubject(model, data)
    assert subject.concepts == ("row", "column")
    assert subject.labelled == (4 if name == "causal_vae" else 2)
    found = subject.counterfactuals(torch.rand(3, *SHAPE), ["obs", "row", "row+column"], seeded(0))
    assert {context: images.shape for context, images in found.items()} == dict.fromkeys(found, (3, *SHAPE))
    assert not torch.equal(found["obs"], found["row"])
    drawn = subject.sample(4, "row", seeded(0))
    assert torch.equal(drawn, subject.sample(4, "row", seeded(0)))
    values = model.draw_values(["column"], 500, seeded(0))["column"]
    assert factors[:, 1].min() <= values.min() <= values.max() <= factors[:, 1].max()


@torch.no_grad()
def test_a_causal_vae_keeps_the_noise_of_what_is_not_set(factors):
    """Its own code, set to what it is already, changes nothing but what the networks of causes get wrong."""
    model = make("causal_vae", attention=False).eval()
    model.view(images_of(factors))
    code = model.prior(5, seeded(2))
    value = torch.full((5,), 3.0)
    one, two = (model.do(code, {"column": value}), model.do(code + 0, {"column": value}))
    assert torch.equal(one, two)
    z = model._blocks(code)
    wanted = model.scale.standard(torch.stack([value, value], 1))[:, 1]
    cause = z[:, 0]  # row has no cause: its own block and noise stay
    decoded = torch.stack(
        [model.nets.nets[0](torch.zeros_like(cause)) + cause, wanted[:, None].expand_as(cause)], dim=1
    )
    torch.testing.assert_close(one, model._decoded(decoded).sigmoid())


# --- the prior


@pytest.mark.parametrize("nonlinear", [False, True])
@torch.no_grad()
def test_do_follows_paths_of_any_length(nonlinear):
    """a -> b -> c -> d: by hand, one equation after the other."""
    torch.manual_seed(0)
    prior = StructuralPrior(allowed_edges("abcd", ["a:b", "b:c", "c:d"]), nonlinear).double()
    prior.effects.copy_(torch.randn(4, 4))
    z = prior(torch.randn(7, 4, generator=seeded(0), dtype=torch.float64))
    torch.testing.assert_close(prior(prior.noise(z)), z)
    values = torch.zeros(7, 4, dtype=torch.float64)
    values[:, 1] = 1.5
    changed = prior.do(z, values, torch.tensor([False, True, False, False]))
    noise, u = prior.noise(z), prior.map.inverse(z)
    u[:, 1] = prior.map.inverse(values)[:, 1]
    for effect in (2, 3):
        u[:, effect] = prior.graph[effect - 1, effect] * u[:, effect - 1] + noise[:, effect]
    expected = prior.map(u)
    expected[:, 1] = 1.5
    torch.testing.assert_close(changed, expected)
    torch.testing.assert_close(changed[:, 0], z[:, 0])


@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_density_of_the_prior(nonlinear):
    """By the change of variables, with the Jacobian that autograd finds."""
    torch.manual_seed(0)
    prior = StructuralPrior(allowed_edges("abc", ["full"]), nonlinear).double()
    prior.effects.data.copy_(torch.randn(3, 3))
    noise = torch.randn(4, 3, generator=seeded(0), dtype=torch.float64)
    found = prior.log_density(prior(noise))
    for row, value in zip(noise, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda e: prior(e[None])[0], row)
        expected = torch.distributions.Normal(0, 1).log_prob(row).sum() - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(value, expected)


def test_a_prior_that_fits_is_nearer_than_an_independent_one(factors):
    """Trained as a VAE: with strong correlations among labels, the KL to a prior without edges is larger."""
    settings = {"match": "likelihood", "label_loss": "l2"}
    tied = factors.clone()
    tied[:, 1] = 2 * tied[:, 0]
    kls = {}
    for graph in (["row:column"], []):
        model = make("dear", graph=graph, **settings)
        assert model.comparable
        model.view(images_of(tied))
        code = torch.cat([model.latents_of(tied), torch.zeros(40, 2)], dim=1)
        optimizer = torch.optim.Adam(model.structure.parameters(), 0.05)
        for _ in range(100):
            kl = model._kl(code, torch.full((40, 4), -2.0)).mean()
            optimizer.zero_grad()
            kl.backward()
            optimizer.step()
        kls[bool(graph)] = kl.item()
    assert kls[True] < kls[False] - 0.5


def test_a_monotone_map_and_its_inverse():
    prior = StructuralPrior(allowed_edges("ab", []), nonlinear=True)
    u = torch.linspace(-7, 7, 101)[:, None].expand(-1, 2)
    z = prior.map(u)
    assert (z.diff(dim=0) > 0).all()
    torch.testing.assert_close(prior.map.inverse(z), u, rtol=1e-4, atol=1e-4)


def test_edges_that_are_not_allowed_stay_out():
    prior = StructuralPrior(allowed_edges("abc", ["full"]))
    prior.effects.data.fill_(1.0)
    assert torch.equal(prior.graph, torch.ones(3, 3).triu(1))
    prior.sample(4, seeded(0)).sum().backward()
    assert (prior.effects.grad.tril() == 0).all()


@torch.no_grad()
def test_dear_says_where_its_graph_may_miss_an_edge(monkeypatch):
    model = make("dear", graph=["row:column"], factors=["row", "column", "size"]).eval()
    mean = torch.randn(500, 4, generator=seeded(0))
    mean[:, 2] = mean[:, 0] + 0.3 * mean[:, 2]
    monkeypatch.setattr(model, "centre", lambda x: mean[: len(x)])
    (note,) = model.notes(torch.zeros(250, *SHAPE))
    assert note.startswith("row and size go together (+0.9")
    assert note.endswith("without an edge between them: the graph may miss one, or a common cause")


@torch.no_grad()
def test_dears_own_networks():
    settings = get_baseline("dear").settings_class(factors=["row"], architecture="resnet_sagan64", latents=5)
    model = get_baseline("dear")(settings, (3, 64, 64), 10)
    x = torch.rand(2, 3, 64, 64, generator=seeded(0))
    mean, log_var = model.encode(x)
    assert mean.shape == log_var.shape == (2, 5)
    assert model.decode(mean).shape == x.shape
    assert model.critic(x, mean).shape == (2,)


# --- what is refused


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (["a:b", "b:c", "c:a"], "the graph of the prior has a cycle, .*: leave one of its edges out"),
        (["a:d"], "the edge 'a:d' names 'd', which is no factor; factors: a, b, c"),
        (["a"], "'a' is no edge: expected cause:effect, such as light:length, or full"),
        (["full", "c:a"], "has a cycle"),
    ],
)
def test_graphs_that_are_none(edges, message):
    with pytest.raises(ConceptError, match=message):
        allowed_edges(["a", "b", "c"], edges)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": 0.0}, r"labels must be a share in \(0, 1\], got 0: without any label take a method .* tc_vae"),
        ({"labels": 1.5}, r"labels must be a share in \(0, 1\], got 1.5"),
        ({"label_share": 0.0}, r"label_share must be in \(0, 1\], got 0"),
        ({"label_weight": -1.0}, "label_weight must be at least 0, got -1"),
        ({"factors": []}, "supervised_vae learns from labels: give the names of its factors"),
        ({"latents": 1}, "latents must be at least 2, got 1"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        make("supervised_vae", **settings)


def test_blocks_of_concepts_and_a_loss_of_its_own():
    with pytest.raises(ValueError, match="latents must be a multiple of the 2 factors, got 5"):
        make("causal_vae", latents=5)
    with pytest.raises(ValueError, match="causal_vae has a label loss of its own: label_loss must stay ce, got l2"):
        make("causal_vae", label_loss="l2")


def test_labels_that_teach_nothing(factors):
    alike, none = factors.clone(), factors.clone()
    alike[:, 1], none[:, 0] = 4.0, torch.nan
    with pytest.raises(DataError, match="all labels of 'column' are 4: nothing can be learned of it"):
        make("dear").view(images_of(alike))
    with pytest.raises(DataError, match="no image has a label of 'row': leave it out of the factors, or give labels"):
        make("dear").view(images_of(none))
    with pytest.raises(DataError, match=r"labels must lie in \[0, 1\] for a cross-entropy, got values from -2"):
        cross_entropy(factors, factors)


def test_data_without_what_is_asked_for(factors):
    settings = get_baseline("dear").settings_class(**SMALL)
    with pytest.raises(DataError, match="the graph of the data is not known: give the edges, each cause:effect"):
        settings.completed(ContextData(images_of(factors)))
    known = settings.completed(ContextData(images_of(factors), graph=(("row", "column"),)))
    assert known.graph == ["row:column"]
    with pytest.raises(DataError, match="the data has no labels of 'row'; it has those of top, left"):
        settings.completed(ContextData(images_of(factors, ("top", "left"))))
    bare = ArrayContextDataset(torch.zeros(4, *SHAPE, dtype=torch.uint8), [0] * 4, ["obs"], ["row"])
    with pytest.raises(DataError, match="learns from labels, and the data has no factors"):
        settings.completed(ContextData(bare))
    many = get_baseline("supervised_vae").settings_class(**SMALL, label_loss="embedding")
    with pytest.raises(DataError, match="an embedding of 'row' would have 40 values: take the ce or l2 loss"):
        many.completed(ContextData(images_of(factors)))
