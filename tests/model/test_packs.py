"""Concept packs. `base` runs a test on a tiny base of every family; see conftest.py."""

import dataclasses
import functools
import itertools
import json

import pytest
import safetensors
import safetensors.torch
import torch

from context_module import ContextualDecoder, adapt
from context_module.base.fingerprint import fingerprint
from context_module.data import ArrayContextDataset, ContextData
from context_module.errors import CheckpointError, ConceptError, ShapeError
from context_module.evaluation import evaluate, subject_of
from context_module.interventions import Value
from context_module.metrics import Case, get_metric, inapplicable
from context_module.nn.pack import ConceptPack, ConceptPackConfig
from context_module.training.encodings import EncodedDataset, EncodingLayout
from context_module.training.objectives.pack import PackObjective, new_pack
from helpers.draws import seeded
from helpers.models import wrapped_at_random

OWN = ["a", "b"]
DOES = [None, "obs", "a", "b+a", {"a": 0.3}, torch.eye(4, 2, dtype=torch.bool), torch.full((2,), 0.5)]


wrapped = functools.partial(wrapped_at_random, free_blocks=1, latent_noise=True)


def at_random(model, concept, seed=0):
    """A pack for a model that changes everything."""
    torch.manual_seed(seed)
    pack = new_pack(model, concept, rank=3, noise_width=2, hidden_width=8)
    with torch.no_grad():
        for parameter in pack.edit.parameters():
            parameter.normal_(std=0.7)
    return pack.eval().requires_grad_(False)


@pytest.fixture
def model(make_base):
    return wrapped(make_base("nvae"))


@pytest.fixture
def file(model, tmp_path):
    """A pack in a file."""
    at_random(model, "smile").save(tmp_path / "smile.safetensors")
    return tmp_path / "smile.safetensors"


def images(model, n=4):
    return torch.rand(n, *model.base.image_shape, generator=seeded(2))


def moved(one, other):
    """Per image, whether it differs."""
    return (one != other).flatten(1).any(dim=1).tolist()


# --- what a model does without its packs


@pytest.mark.parametrize("concepts", [OWN, ()])
@pytest.mark.parametrize("latent_noise", [True, False])
def test_adding_a_concept_changes_nothing_without_it(base, concepts, latent_noise):
    model = wrapped(base, concepts, latent_noise=latent_noise)
    x, does = images(model), DOES if concepts else [None, "obs", torch.zeros(4, 0, dtype=torch.bool)]

    def everything():
        for do, sample in itertools.product(does, (False, True)):
            generator = seeded()
            yield model.generate(4, do=do, sample=sample, temperature=0.8, generator=generator)
            yield generator.get_state()
            torch.manual_seed(5)
            yield model.generate(noise=model.abduct(x, "obs"), do=do)
            yield torch.get_rng_state()
        mask = torch.ones(4, len(concepts), dtype=torch.bool)
        with torch.no_grad():
            yield model(x, mask, generator=seeded()).loss
            yield model.posterior(x, mask).mean
        yield model.abduct(x, mask).noise

    before = list(everything())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.add_concept(at_random(model, "smile"))
    assert model.concepts == [*concepts, "smile"]
    assert all(torch.equal(one, other) for one, other in zip(before, everything(), strict=True))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())
    assert all(moved(model.generate(4, do="smile", generator=seeded()), model.generate(4, generator=seeded())))


def test_loading_draws_nothing(model, file):
    state = torch.get_rng_state()
    model.add_concept(file)
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_without_a_pack_keep_their_bits_beside_samples_with_one(model):
    before = model.generate(4, do=torch.eye(4, 2), generator=seeded())
    model.add_concept(at_random(model, "smile"))
    mask = torch.zeros(4, 3)
    mask[:, :2], mask[1, 2], mask[3, 2] = torch.eye(4, 2), 1, 0.5
    assert moved(before, model.generate(4, do=mask, generator=seeded())) == [False, True, False, True]


# --- generating with packs


def test_strengths_are_exact_at_zero_and_one(model):
    model.add_concept(at_random(model, "smile"))
    one, full = (model.generate(4, do=do, generator=seeded()) for do in ({"smile": 1.0}, "smile"))
    assert torch.equal(one, full)
    none, obs = (model.generate(4, do=do, generator=seeded()) for do in ({"smile": 0.0}, "obs"))
    assert torch.equal(none, obs)
    both, own = (model.generate(4, do=do, generator=seeded()) for do in ({"smile": 0, "a": 0.4}, {"a": 0.4}))
    assert torch.equal(both, own)
    half = model.generate(4, do={"smile": 0.5}, generator=seeded())
    assert all(moved(half, full))
    assert all(moved(half, obs))
    with pytest.raises(ConceptError, match=r"strength of an intervention on 'smile' must be in \[-2, 3\].*got 3.5"):
        model.generate(4, do={"smile": 3.5})


def test_strength_multiplies_the_change_of_the_decoder_input(model):
    model.add_concept(at_random(model, "smile"))
    latent, noises = torch.randn(5, *model.config.latent_shape), model.packs.sample_noise(5, 1.0, seeded())
    strengths = torch.tensor([[0.0], [0.25], [-1.0], [1.0], [2.5]])
    change = model.packs["smile"](latent, noises[0])
    expected = latent + strengths.view(-1, 1, 1, 1) * change
    torch.testing.assert_close(model.packs(latent, strengths, noises), expected)


def test_packs_add_up_whatever_their_order(make_base):
    """Bit for bit: sums of three numbers depend on their order."""
    made = {}
    for order in itertools.permutations(["x", "y", "z"]):
        model = wrapped(make_base("modules"))
        for concept in order:
            model.add_concept(at_random(model, concept, seed=ord(concept)))
        assert model.concepts == [*OWN, *order]
        made[order] = [model.generate(4, do=do, generator=seeded()) for do in ("x+y+z", "a+z+x", {"y": 0.5, "z": 1})]
    first, *others = made.values()
    for other in others:
        assert all(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    latent, noises = torch.randn(4, *model.config.latent_shape), model.packs.sample_noise(4, 1.0, seeded())
    changes = [pack(latent, noise) for pack, noise in zip(model.packs.packs, noises, strict=True)]
    torch.testing.assert_close(model.packs(latent, torch.ones(4, 3), noises), latent + sum(changes))


def test_a_pack_is_the_same_with_others_loaded(model):
    model.add_concept(at_random(model, "smile"))
    alone = model.generate(4, do="a+smile", generator=seeded())
    model.add_concept(at_random(model, "age", seed=3))
    assert torch.equal(model.generate(4, do="smile+a", generator=seeded()), alone)
    mask = torch.tensor([[1, 0, 1, 0]] * 3 + [[1, 0, 1, 1]]).bool()
    assert moved(model.generate(4, do=mask, generator=seeded()), alone) == [False, False, False, True]


def test_counterfactuals_keep_the_noise_of_the_rest(model):
    model.add_concept(at_random(model, "smile"))
    behind = model.abduct(images(model), "a")
    generator = seeded()
    one, another = (model.generate(noise=behind, do="smile", generator=generator) for _ in range(2))
    assert torch.equal(model.generate(noise=behind, do="smile", generator=seeded()), one)
    assert all(moved(one, another))  # the pack's own noise is fresh in each call
    cold = [model.generate(noise=behind, do="smile", temperature=0.0, generator=generator) for _ in range(2)]
    assert torch.equal(*cold)


def test_the_pack_reads_and_writes_its_own_directions_only(model):
    pack = at_random(model, "smile")
    directions = pack.directions
    torch.testing.assert_close(directions.t() @ directions, torch.eye(3))
    latent, noise = torch.randn(6, *model.config.latent_shape), torch.randn(6, 2)
    change = pack(latent, noise).flatten(1) / pack.spread
    torch.testing.assert_close(change @ directions @ directions.t(), change)
    beside = torch.randn(6, len(pack.spread))
    beside = (beside - beside @ directions @ directions.t()) * pack.spread
    torch.testing.assert_close(pack(latent + beside.view_as(latent), noise).flatten(1) / pack.spread, change)


def test_a_new_pack_changes_nothing_and_knows_what_the_module_makes(model):
    pack = new_pack(model, "smile", rank=2)
    made = model.module(model.module.sample_noise(4000), torch.zeros(4000, 2).bool())
    made = (made + model.module.scale * torch.randn_like(made)).flatten(1)
    torch.testing.assert_close(pack.spread, made.std(0), rtol=0.1, atol=0.0)
    assert ((pack.center - made.mean(0)).abs() < 0.1 * pack.spread).all()
    assert not pack(torch.randn(3, *model.config.latent_shape), torch.randn(3, 16)).any()


def test_half_precision(model):
    model.to(torch.bfloat16)
    model.add_concept(at_random(model.float(), "smile"))
    model.to(torch.bfloat16)
    assert model.generate(2, do="smile", generator=seeded()).isfinite().all()


# --- what packs do not do


@pytest.mark.parametrize("context", ["smile", "a+smile", torch.tensor([[True, False, True]]).expand(4, -1)])
def test_images_seen_in_a_packs_context_are_not_explained(context, model):
    model.add_concept(at_random(model, "smile"))
    x = images(model)
    for explain in (model, model.posterior, model.abduct):
        with pytest.raises(ConceptError, match=r"context '(a\+)?smile' cannot be explained.*alone, obs, a, b"):
            explain(x, context)


def test_a_pack_takes_no_values(model):
    model.add_concept(at_random(model, "smile"))
    with pytest.raises(ConceptError, match="'smile' cannot be set to a value"):
        model.generate(2, do={"smile": Value(0.5)})


@pytest.mark.parametrize("columns", [1, 4])
def test_masks_have_columns_for_the_modules_concepts_or_for_all(columns, model):
    model.add_concept(at_random(model, "smile"))
    with pytest.raises(ShapeError, match=r"shape \(batch, 3\) for the concepts a, b, smile"):
        model.generate(2, do=torch.zeros(2, columns))


def test_packs_are_not_saved_with_the_module(model, file, tmp_path):
    model.save_pretrained(tmp_path / "before")
    model.add_concept(file)
    with pytest.warns(UserWarning, match="saved without the concept packs smile, which are files of their own"):
        model.save_pretrained(tmp_path / "after")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()
    again = ContextualDecoder.from_pretrained(tmp_path / "after", base=model.base)
    again.add_concept(file)
    one, other = (some.generate(3, do="smile+b", generator=seeded()) for some in (model, again))
    assert torch.equal(one, other)


# --- files


def test_a_file_holds_the_pack(model, file):
    pack, loaded = at_random(model, "smile"), ConceptPack.load(file)
    assert loaded.config == pack.config
    assert loaded.config.module_fingerprint == fingerprint(model.module)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in pack.state_dict().items())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert [path.name for path in file.parent.iterdir()] == ["smile.safetensors"]


def test_refuses_another_base_and_another_module(model, file, make_base):
    other = wrapped(make_base("nvae", seed=3))
    with pytest.raises(CheckpointError, match="smile.safetensors was trained on another base.*has [0-9a-f-]{65}. Add"):
        other.add_concept(file)
    with torch.no_grad():
        model.module.embedding.observational.bias.add_(0.1)
    with pytest.raises(CheckpointError, match="smile.safetensors was trained on another module: one with fingerprint"):
        model.add_concept(file)
    assert model.concepts == other.concepts == OWN


def test_other_posterior_heads_make_no_other_module(model, file):
    with torch.no_grad():
        model.posterior_heads.mean.bias.add_(1)
    model.add_concept(file)
    assert "smile" in model.concepts


def test_refuses_a_concept_that_there_is(model, file):
    model.add_concept(file)
    with pytest.raises(ConceptError, match="there is a concept 'smile' already; concepts: a, b, smile"):
        model.add_concept(file)
    with pytest.raises(ConceptError, match="already.*Train the concept pack 'a' under another name"):
        model.add_concept(at_random(model, "a"))


def test_refuses_another_shape(model):
    config = dataclasses.replace(at_random(model, "smile").config, latent_shape=(3, 1, 1), rank=2)
    with pytest.raises(CheckpointError, match=r"for decoder inputs of shape \(3, 1, 1\), this model's have"):
        model.add_concept(ConceptPack(config))


def rewrite(file, change, drop=()):
    """Write the file again with another header, as one of before there were seals."""
    with safetensors.safe_open(file, "pt") as opened:
        header = opened.metadata()
    (key,) = [key for key in header if key not in ("format", "context_module_sha256")]
    fields = json.loads(header[key])
    change(fields)
    tensors = {name: value for name, value in safetensors.torch.load_file(file).items() if name not in drop}
    safetensors.torch.save_file(tensors, file, {key: json.dumps(fields)})


DAMAGE = [
    (lambda file: file.unlink(), "does not exist"),
    (lambda file: file.write_bytes(file.read_bytes()[:-50]), "truncated or foreign"),
    (lambda file: file.write_bytes(b"PNG"), "truncated or foreign"),
    (lambda file: safetensors.torch.save_file({"t": torch.zeros(1)}, file), "is no concept pack"),
    (lambda file: rewrite(file, lambda fields: fields.update(version=2)), "version 2 of the format.*upgrade"),
    (lambda file: rewrite(file, lambda fields: fields.update(rank=0)), "unusable header: rank must hold integers"),
    (lambda file: rewrite(file, lambda fields: fields.update(rank=999)), "unusable header: rank must be at most"),
    (lambda file: rewrite(file, lambda fields: fields.update(concept="a+b")), "unusable header: 'a.b' cannot name"),
    (lambda file: rewrite(file, lambda fields: fields.update(more=1)), "unusable header: .*'more'"),
    (lambda file: rewrite(file, lambda fields: fields.pop("concept")), "unusable header: .*'concept'"),
    (lambda file: rewrite(file, lambda fields: fields.update(rank=2)), r"directions: shape \(\d+, 3\) in the file"),
    (lambda file: rewrite(file, lambda fields: None, drop=["spread"]), "missing: spread"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_refuses_damaged_and_foreign_files(damage, message, model, file):
    damage(file)
    with pytest.raises(CheckpointError, match=message) as caught:
        model.add_concept(file)
    assert "smile.safetensors" in str(caught.value)
    assert model.concepts == OWN


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("concept", "obs", "'obs' cannot name a concept"),
        ("noise_width", 0, "noise_width must hold integers of at least 1, got 0"),
        ("latent_shape", (2, 0), "latent_shape must hold integers of at least 1, got 0"),
        ("rank", 33, "rank must be at most 32, the latent's size, got 33"),
    ],
)
def test_refuses_configurations(field, value, message):
    with pytest.raises(ValueError, match=message):
        ConceptPackConfig(**{"concept": "smile", "latent_shape": (2, 4, 4), field: value})


# --- training


def encoded(base, shift=0.0, n=64, spread=1.0):
    """Encodings of a context 'smile' whose every second latent is that much higher than a standard normal's."""
    torch.manual_seed(4)
    size = torch.Size(base.latent.shape).numel()
    mean = spread * torch.randn(n, size) + shift * (torch.arange(size) % 2)
    pictures = ArrayContextDataset(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), [0] * n, ["smile"], ["smile"])
    layout = EncodingLayout(tuple(base.latent.shape), base.num_features if base.num_features != size else None, True)
    features = [] if layout.num_features is None else [torch.zeros(n, layout.num_features)]
    return EncodedDataset(pictures, torch.cat([mean, *features, torch.full((n, size), -4.0)], dim=1), layout)


def make_objective(base, **options):
    """An objective on a new pack, and a batch of all its encodings."""
    model = wrapped(adapt(base))
    pack = new_pack(model, "smile", rank=4, hidden_width=16)
    model.add_concept(pack)
    encodings = encoded(model.base, shift=2.0)
    return PackObjective(model, "smile", encodings, **options), encodings.batch(torch.arange(len(encodings)))


def test_terms_add_up(base):
    objective, batch = make_objective(base, matching=7.0, change=3.0)
    with torch.no_grad():
        for parameter in objective.model.packs.parameters():
            parameter.normal_()
        out = objective.eval()(batch)
    assert list(out) == ["loss", "matching", "change"]
    assert all(value.shape == (64,) and value.isfinite().all() for value in out.values())
    torch.testing.assert_close(out["loss"], 7 * out["matching"] + 3 * out["change"])


def test_only_the_pack_trains(base):
    objective, batch = make_objective(base)
    model = objective.train().model
    assert not model.module.training
    assert not model.base.training
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        objective(batch)["loss"].mean().backward()
        optimizer.step()
        model.packs["smile"].orthonormalise()
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name, _ in model.named_parameters() if name.startswith("slot.packs.")
    }
    directions = model.packs["smile"].directions
    torch.testing.assert_close(directions.t() @ directions, torch.eye(4))


def test_orthonormal_directions_stay_where_they_are(model):
    pack = at_random(model, "smile")
    before = pack.directions.clone()
    pack.orthonormalise()
    torch.testing.assert_close(pack.directions, before)


def test_learns_to_shift(make_base):
    """A context that is the module's own outputs, but for a shift of every second latent: that and no more is done."""
    model = wrapped(make_base("modules"))
    model.add_concept(new_pack(model, "smile", rank=4, hidden_width=16))
    made = model.module(model.module.sample_noise(512), torch.zeros(512, 2).bool())
    made = (made + model.module.scale * torch.randn_like(made)).flatten(1).detach()
    shift = 2 * made.std(0) * (torch.arange(made.shape[1]) % 2)
    pictures = ArrayContextDataset(torch.zeros(512, 1, 2, 2, dtype=torch.uint8), [0] * 512, ["smile"], ["smile"])
    layout = EncodingLayout(tuple(model.base.latent.shape), None, True)
    table = torch.cat([made + shift, torch.full_like(made, -20.0)], dim=1)
    encodings = EncodedDataset(pictures, table, layout)
    objective = PackObjective(model, "smile", encodings, change=0.01)
    pack, batch = model.packs["smile"], encodings.batch(torch.arange(512))
    before = objective.eval()(batch)["matching"].mean().item()
    optimizer = torch.optim.Adam(pack.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        objective.train()(batch)["loss"].mean().backward()
        optimizer.step()
        pack.orthonormalise()
    with torch.no_grad():
        assert objective.eval()(batch)["matching"].mean().item() < 0.05 * before
        change = pack(made.view(512, 2, 2, 2), torch.randn(512, 16)).flatten(1).mean(0)
    torch.testing.assert_close(change / made.std(0), shift / made.std(0), atol=0.5, rtol=0.0)


def test_a_module_without_latent_noise_takes_no_pack_objective(make_base):
    model = wrapped(make_base("modules"), latent_noise=False)
    model.add_concept(new_pack(model, "smile", rank=2))
    with pytest.raises(ValueError, match="wrap the base with latent_noise=True"):
        PackObjective(model, "smile", encoded(model.base))


# --- scoring


def test_scores_data_of_all_concepts_in_any_order(make_base):
    model = wrapped(make_base("modules"))
    model.add_concept(at_random(model, "smile"))

    def part(contexts):
        pixels = torch.randint(0, 256, (40 * len(contexts), *model.base.image_shape), dtype=torch.uint8)
        return ArrayContextDataset(
            pixels, torch.arange(len(contexts)).repeat_interleave(40), contexts, ["smile", "b", "a"]
        )

    training = ["obs", "smile", "b", "a"]
    data = ContextData(part(training), part(["a+smile"]), part(training))
    scored = evaluate(model, data, samples=20, metrics=["sliced_wasserstein"], progress=False)
    assert list(scored.contexts) == ["smile+a", *training]
    reason = inapplicable(get_metric("reconstruction"), Case(subject_of(model), data))
    assert reason == "the module does not explain images that take a concept pack"
