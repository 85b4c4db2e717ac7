"""Every method on the loop's batches, as a subject, saved and loaded, and what it refuses."""

import pytest
import torch

from context_module.baselines import (
    Baseline,
    BaselineSubject,
    available_baselines,
    get_baseline,
    load_baseline,
    register_baseline,
    regularizer_of,
    traversals,
)
from context_module.baselines.cascade_vae import assigned
from context_module.baselines.networks import make_networks
from context_module.data import ArrayContextDataset, cross_pairs, triplets
from context_module.errors import CheckpointError, ContextModuleError, DataError, ShapeError
from helpers.draws import seeded

SMALL = {"architecture": "conv3", "latents": 3}
SHAPE = (1, 28, 28)
NAMES = [name for name in available_baselines() if get_baseline(name).kind == "images"]
OF_LABELS = {
    "clap": {"factors": ["row", "column"], "core": 2},
    "supervised_vae": {"factors": ["row", "column"]},
    "dear": {"factors": ["row", "column"], "graph": ["full"]},
    "causal_vae": {"factors": ["row", "column"], "graph": ["full"], "latents": 4},
}


def make(name, images=100, **settings):
    torch.manual_seed(0)
    kind = get_baseline(name)
    return kind(kind.settings_class(**{**SMALL, **OF_LABELS.get(name, {}), **settings}), SHAPE, images)


@pytest.fixture(scope="module")
def data():
    """White squares: lower in context a, further right in b."""
    images, places = torch.zeros(36, *SHAPE, dtype=torch.uint8), torch.zeros(36, 2)
    g = seeded(0)
    for number, context in enumerate(torch.arange(3).repeat_interleave(12).tolist()):
        top, left = (2 + torch.randint(6, (2,), generator=g)).tolist()
        top, left = top + 12 * (context == 1), left + 12 * (context == 2)
        images[number, :, top : top + 8, left : left + 8] = 255
        places[number] = torch.tensor([top, left])
    labels = torch.arange(3).repeat_interleave(12)
    return ArrayContextDataset(images, labels, ["obs", "a", "b"], ["a", "b"], places, ["row", "column"])


def batch_of(model, data, n=12):
    view = model.view(data)
    items = view.__getitems__(list(range(0, 36, 36 // n)))
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


@pytest.mark.parametrize("name", NAMES)
def test_a_method_learns(name, data):
    """Its error falls, or that of labels; each term is of single items, and all that trains gets a gradient."""
    model = make(name)
    batch = batch_of(model, data)
    groups = [
        {"params": list(group.parameters), **({"betas": group.betas} if group.betas else {})}
        for group in model.parameter_groups()
    ]
    optimizer = torch.optim.Adam(groups, lr=3e-3)
    errors = []
    for _ in range(15):
        losses = model(batch, progress=0.9)
        falls = "error" if model.comparable else "labels"
        assert {"loss", falls} <= set(losses)
        assert {value.shape for value in losses.values()} == {(12,)}
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        errors.append(losses[falls].mean().item())
    assert errors[-1] < 0.9 * errors[0]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_scored_by_the_elbo_of_single_images(name, data):
    model = make(name).eval()
    one = model({"x": data[0]["x"][None]}, 1.0)
    assert set(one) == {"loss", "error", "kl"}
    assert one["kl"] >= 0 or name == "dear"  # whose KL is estimated from a draw
    torch.testing.assert_close(one["loss"], one["error"] + one["kl"])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_saved_and_loaded(name, tmp_path):
    model = make(name).eval()
    model.save(tmp_path)
    again = load_baseline(tmp_path)
    assert (again.settings, again.image_shape, again.images) == (model.settings, SHAPE, 100)
    x = torch.rand(2, *SHAPE, generator=seeded(0))
    assert torch.equal(model.centre(x), again.centre(x))
    assert not again.training


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_it_is_a_subject(name, data):
    subject = BaselineSubject(make(name).eval(), data)
    assert subject.concepts == data.concepts
    for context in ("obs", "a", "a+b"):
        drawn = subject.sample(5, context, seeded(0))
        assert drawn.shape == (5, *SHAPE)
        assert 0 <= drawn.min() <= drawn.max() <= 1
        assert torch.equal(drawn, subject.sample(5, context, seeded(0)))
    x = data.select("obs")
    codes = subject.codes(x)
    discrete = len(subject.model.categories)
    assert codes.shape == (12, subject.model.settings.latents + discrete)
    assert subject.categorical == ((3,) if discrete else ())
    if subject.model.comparable:
        assert (subject.nats(x, torch.zeros(12, 2, dtype=torch.bool), seeded(0)) > 0).all()
    else:
        assert subject.unable("nats") == "the method has no likelihood"
    if name in OF_LABELS:
        return
    assert subject.unable("counterfactuals") == "the method knows no interventions on given images"
    unconditional = BaselineSubject(subject.model)
    assert unconditional.concepts is None
    assert unconditional.sample(4, "a", seeded(1)).shape == (4, *SHAPE)


def test_compositions_take_each_part_from_where_it_moved(data, monkeypatch):
    """An encoder that finds the places: of a+b the row is a's, the column b's."""
    model = make("beta_vae").eval()

    def places(x):
        rows, columns = (x.sum(dims).squeeze(1).argmax(1).float() for dims in (3, 2))
        mean = torch.stack([rows, columns, torch.zeros_like(rows)], dim=1)
        return mean, torch.full_like(mean, -20.0)

    monkeypatch.setattr(model, "encode", places)
    seen = []
    monkeypatch.setattr(model, "decode", lambda code: seen.append(code) or torch.zeros(len(code), *SHAPE))
    subject = BaselineSubject(model, data)
    for context, low, right in (("obs", False, False), ("a", True, False), ("a+b", True, True)):
        seen.clear()
        subject.sample(20, context, seeded(0))
        code = torch.cat(seen)
        assert ((code[:, 0] > 12) == low).all()
        assert ((code[:, 1] > 12) == right).all()


def test_traversals_change_one_part(data):
    model = make("joint_vae").eval()
    rows = traversals(model, data[0]["x"], columns=5)
    assert list(rows) == ["z1", "z2", "z3", "category 1"]
    assert [len(images) for images in rows.values()] == [5, 5, 5, 3]
    code = model.centre(data[0]["x"][None])
    at_two = code.clone()
    at_two[:, 0] = 2.0
    torch.testing.assert_close(rows["z1"][-1:], model.decode(at_two).detach().sigmoid())


@pytest.mark.parametrize("channels", [1, 3])
def test_the_common_networks(channels):
    encoder, decoder = make_networks("conv64", (channels, 64, 64), 20, 10)
    assert encoder(torch.zeros(2, channels, 64, 64)).shape == (2, 20)
    assert decoder(torch.zeros(2, 10)).shape == (2, channels, 64, 64)
    if channels == 1:  # by hand: the convolutions, the linear layers, and their biases
        sizes = tuple(sum(p.numel() for p in net.parameters()) for net in (encoder, decoder))
        assert sizes == (_conv(1) + 1024 * 256 + 256 + 256 * 20 + 20, _conv(1, up=True) + 10 * 256 + 256 + 257 * 1024)


def _conv(channels, up=False):
    weights = 16 * (channels * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    return weights + (64 + 32 + 32 + channels if up else 32 + 32 + 64 + 64)


def test_relief_of_dimensions_goes_by_stages():
    model = make("cascade_vae", discrete_stage=2, stage_share=0.2)
    assert [model.stage(share) for share in (0.0, 0.19, 0.2, 0.6, 1.0)] == [0, 0, 1, 3, 5]
    assert model.stages == (0.2, 0.4, pytest.approx(0.6))
    z = torch.zeros(4, 3)
    x = torch.rand(4, *SHAPE)
    assert not model.completed(x, z, 1)[:, 3:].any()
    assert torch.equal(model.completed(x, z, 2)[:, 3:].sum(1), torch.ones(4))


def test_a_balanced_assignment():
    """All like the first code best; the balance makes them share."""
    unary = torch.tensor([[0.0, 1.0]]).repeat(6, 1)
    assert assigned(unary, 0.0).sum(0).tolist() == [6, 0]
    assert assigned(unary, 10.0).sum(0).tolist() == [3, 3]


def test_pairs_and_triplets_of_contexts(data):
    couples, triples = cross_pairs(data, seed=1), triplets(data, seed=1)
    names = data.context_names
    for number, (first, second) in enumerate(zip(couples.first.tolist(), couples.second.tolist(), strict=True)):
        contexts = {names[data.labels[first]], names[data.labels[second]]}
        assert first == number
        assert "obs" in contexts
        assert len(contexts) == 2
    assert torch.equal(data.labels[triples.positive], data.labels)
    assert (triples.positive != torch.arange(len(data))).all()
    assert (data.labels[triples.negative] != data.labels).all()
    assert torch.equal(triples[3]["negative"], data[int(triples.negative[3])]["x"])


def test_a_method_of_somebody_else(tmp_path):
    @register_baseline
    class Plain(Baseline):
        name = "plain"

        def losses(self, batch, progress):
            error, kl = self.bound(batch["x"])
            return {"loss": error + kl, "error": error}

    assert "plain" in available_baselines()
    Plain(Plain.settings_class(**SMALL), SHAPE, 1).save(tmp_path)
    assert type(load_baseline(tmp_path)) is Plain
    with pytest.raises(TypeError, match="the method 'int' must be a subclass of Baseline whose name is 'int'"):
        register_baseline(type("Int", (int,), {"name": "int"}))
    with pytest.raises(ContextModuleError, match="a method named 'tvae' exists already"):
        register_baseline(type("Own", (Baseline,), {"name": "tvae"}))


def test_a_penalty_on_another_posterior():
    torch.manual_seed(0)
    mean = torch.randn(6, 5)
    for method in ("beta_vae", "tc_vae", "dip_vae", "factor_vae"):
        found = regularizer_of(method, [], 5, 100)(mean, torch.zeros(6, 5), mean, 0.5)
        assert found["penalty"].shape == (6,)
    doubled = regularizer_of("beta_vae", ["beta=2"], 5, 100)(mean, torch.zeros(6, 5), mean, 0.5)
    torch.testing.assert_close(doubled["penalty"], mean.square().sum(1))


# --- what is refused


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("beta_vae", {"capacity": -1.0}, "capacity must be at least 0, got -1"),
        ("beta_vae", {"capacity_share": 0.0}, r"capacity_share must be in \(0, 1\], got 0.0"),
        ("beta_vae", {"latents": 0}, "latents must be at least 1, got 0"),
        ("joint_vae", {"categories": [3, 1]}, "categories must be at least 2, got 1"),
        ("joint_vae", {"categories": []}, "a JointVAE without discrete codes is a beta-VAE"),
        ("joint_vae", {"discrete_capacity": -0.5}, "discrete_capacity must be at least 0, got -0.5"),
        ("cascade_vae", {"categories": 1}, "categories must be at least 2, got 1"),
        ("cascade_vae_c", {"stage_share": 2.0}, "stage_share must be in"),
        ("ada_vae", {"beta": -1.0}, "beta must be at least 0, got -1"),
        (
            "beta_vae",
            {"architecture": "resnet"},
            "unknown architecture 'resnet'; known: conv64, simple64bn, simple32bn, conv3",
        ),
    ],
)
def test_settings_that_make_no_sense(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make(name, **settings)


def test_images_that_networks_do_not_take():
    with pytest.raises(ShapeError, match="conv64 networks take images of 64x64 pixels, got 1x28x28: load the data at"):
        make("beta_vae", architecture="conv64")
    with pytest.raises(ShapeError, match="simple64bn networks take images of 3x64x64, got 1x28x28"):
        make("beta_vae", architecture="simple64bn")


@pytest.mark.parametrize(
    ("name", "items", "message"),
    [
        (
            "tc_vae",
            1,
            "the total correlation is estimated over the items of a batch and needs at least 2 of them, got 1",
        ),
        (
            "factor_vae",
            3,
            "between codes and permuted ones, is estimated .* at least 4 of them, got 3: raise train_batch",
        ),
        ("dip_vae", 1, "the covariance of codes is estimated .* at least 2 of them, got 1"),
    ],
)
def test_batches_too_small_for_an_estimate(name, items, message):
    mean = torch.zeros(items, 3)
    with pytest.raises(DataError, match=message):
        regularizer_of(name, [], 3, 100)(mean, mean, mean, 0.5)


def test_a_batch_larger_than_the_data():
    with pytest.raises(DataError, match="a batch of 12 items is larger than the 5 images it is drawn from"):
        make("tc_vae", images=5)({"x": torch.rand(12, *SHAPE)})


def test_pairs_without_a_changed_factor(data):
    one = data.only(["obs"])
    bare = ArrayContextDataset(torch.zeros(4, *SHAPE, dtype=torch.uint8), [0] * 4, ["obs"], ["a"])
    with pytest.raises(DataError, match="changed_factors must be at least 1, got 0"):
        make("ada_vae", changed_factors=0).view(one)
    with pytest.raises(DataError, match="the data has no factors"):
        make("ada_vae").view(bare)
    with pytest.raises(DataError, match="triplets of different contexts need at least two, the data has 'obs' alone"):
        make("tvae").view(one)
    with pytest.raises(DataError, match="no factor changes"):
        cross_pairs(one)
    with pytest.raises(DataError, match="context 'obs' has one image, "):
        triplets(data.subset([0, 12, 13, 24, 25]))


def test_folders_and_names_that_hold_no_baseline(tmp_path):
    (tmp_path / "config.json").write_text('{"base": "lightweight"}')
    with pytest.raises(CheckpointError, match="does not hold a baseline"):
        load_baseline(tmp_path)
    with pytest.raises(ValueError, match="unknown method 'vqvae': expected some of beta_vae, tc_vae"):
        get_baseline("vqvae")
    with pytest.raises(ValueError, match="'tvae' is more than a penalty on the posterior"):
        regularizer_of("tvae", [], 3, 10)
    with pytest.raises(DataError, match="the beta_vae regularizer takes no option 'latents'; its options: beta, "):
        regularizer_of("beta_vae", ["latents=3"], 3, 10)
