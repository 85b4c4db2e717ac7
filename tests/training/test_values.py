"""Setting a concept to a value: the maps, fitting them, the module under a fixed concept, saving."""

import json
import math

import pytest
import torch

from context_module import ContextualDecoder, Value
from context_module.data.dataset import ArrayContextDataset
from context_module.errors import CheckpointError, ConceptError
from context_module.io.files import load_tensors
from context_module.nn.value_maps import ValueMap
from context_module.training.values import _choose, _curve, _reader, fit_values
from helpers.draws import seeded
from helpers.models import generate, randomise, wrapped_at_random

FORMS = {
    "structural": {"form": "structural", "free_blocks": 1},
    "do": {"form": "reduced"},
    "published": {"form": "reduced", "composition": "published"},
    "reference": {"form": "reduced", "reference": True},
}


@pytest.fixture
def make_model(make_base):
    """A wrapped base whose module is at random; one concept is called as a method of torch's modules is."""

    def make(family="modules", **options):
        model = wrapped_at_random(make_base(family), ["a", "train", "c"], **options)
        randomise(model.posterior_heads)
        return model

    return make


@pytest.fixture
def make_data():
    """120 images in four contexts, with factors that a function of (model, data) gives."""

    def make(factors, names, n=120, channels=1):
        images = torch.randint(0, 256, (n, channels, 8, 8), generator=seeded(0), dtype=torch.uint8)
        labels, contexts = torch.arange(n) % 4, ["obs", "a", "train", "c"]
        return ArrayContextDataset(images, labels, contexts, ["a", "train", "c"], factors, names)

    return make


def shown_by(model, data, column):
    """The first of a block's values behind each image: a factor that the block tells exactly."""
    x = torch.stack([data[i]["x"] for i in range(len(data))])
    mask = torch.stack([data[i]["mask"] for i in range(len(data))])
    with torch.no_grad():
        return model.module.concepts(model.posterior(x, mask).mean, mask)[:, column, 0]


@pytest.fixture
def fitted(make_model, make_data):
    """A model with maps of two concepts, and the data: `train` is what the block shows, `c` is one of 0, 1, 2."""
    model = make_model()
    factors = torch.stack([shown_by(model, make_data(None, ()), 1), torch.arange(120) % 3 + 0.0], dim=1)
    data = make_data(factors, ("train", "c"))
    assert list(fit_values(model, data, draws=0)) == ["train", "c"]
    return model, data


# --- one map


def test_a_map_gives_the_block_of_the_closest_number():
    table = ValueMap(torch.tensor([0.0, 2.0, 5.0]), torch.tensor([[1.0], [3.0], [7.0]]))
    assert table.range == (0, 5)
    assert table(torch.tensor([-1.0, 0.9, 1.1, 2.0, 3.4, 3.6, 9.0])).flatten().tolist() == [1, 1, 3, 3, 3, 7, 7]


def test_a_curve_through_noise():
    generator = seeded(0)
    numbers = torch.rand(4000, generator=generator) * 3 - 1
    blocks = torch.stack([numbers.sin(), numbers.abs(), 1 - 2 * numbers], dim=1)
    table = _curve(numbers, blocks + 0.2 * torch.randn(blocks.shape, generator=generator))
    assert table.blocks.shape == (128, 3)
    assert table.range == (numbers.min().item(), numbers.max().item())
    at = table.numbers
    assert (table.blocks - torch.stack([at.sin(), at.abs(), 1 - 2 * at], dim=1)).abs().max() < 0.08


def test_a_curve_is_exact_for_what_is_linear_also_across_a_gap():
    numbers = torch.cat([torch.linspace(0.2, 0.5, 600), torch.linspace(0.7, 1.0, 100)])
    table = _curve(numbers, torch.stack([3 * numbers, 1 - numbers], dim=1))
    assert torch.allclose(table.blocks, torch.stack([3 * table.numbers, 1 - table.numbers], dim=1), atol=1e-5)


def test_a_curve_of_few_values_is_their_means():
    table = _curve(torch.tensor([0.0, 2.0, 2.0, 5.0]), torch.tensor([[1.0], [2.0], [4.0], [7.0]]))
    assert table.numbers.tolist() == [0, 2, 5]
    assert torch.allclose(table.blocks, torch.tensor([[1.0], [3.0], [7.0]]))


def test_a_curve_of_one_value():
    table = _curve(torch.full((3,), 2.0), torch.tensor([[1.0], [2.0], [6.0]]))
    assert table.range == (2, 2)
    assert torch.allclose(table(torch.tensor([2.0, 2.0])), torch.full((2, 1), 3.0))


# --- curve or drawn blocks


@pytest.mark.parametrize("width", [5, 300])
def test_readings_of_features(width):
    """With fewer features than images and with more, one of them constant."""
    generator = seeded(0)
    numbers = torch.rand(200, generator=generator) * 4
    features = 0.1 * torch.randn(200, width, generator=generator) + numbers[:, None] * torch.linspace(1, 2, width)
    features[:, 2] = 7
    read = _reader(features[:100], numbers[:100])
    assert (read(features[100:]) - numbers[100:]).abs().mean() < 0.05


class Pictures:
    """Shows the size of a block, whatever its sign; counts the blocks shown."""

    def __init__(self):
        self.shown = 0

    def __call__(self, table, entries):
        self.shown += len(entries)
        return table.blocks[entries].norm(dim=1)


def test_drawn_blocks_where_the_mean_shows_nothing():
    generator = seeded(0)
    numbers = torch.rand(1000, generator=generator) + 1
    directions = torch.randn(1000, 3, generator=generator)
    blocks = numbers[:, None] * directions / directions.norm(dim=1, keepdim=True)
    curve = _curve(numbers, blocks)
    assert curve.blocks.norm(dim=1).max() < 0.9  # asked for 1 to 2
    table, error = _choose(curve, numbers, blocks[:200], Pictures())
    assert error < 0.03
    assert (table.blocks.norm(dim=1) - table.numbers).abs().max() < 0.03


def test_a_good_curve_is_kept_and_no_block_is_tried():
    numbers = torch.linspace(1, 2, 500)
    curve, pictures = _curve(numbers, numbers[:, None] * torch.tensor([[0.0, 0.6, 0.8]])), Pictures()
    kept, error = _choose(curve, numbers, torch.randn(100, 3), pictures)
    assert kept is curve
    assert error < 0.01
    assert pictures.shown == 128


def test_a_bad_curve_is_kept_where_drawn_blocks_are_no_better():
    numbers = torch.linspace(1, 2, 500)
    curve = _curve(numbers, torch.zeros(500, 3))
    assert _choose(curve, numbers, torch.zeros(100, 3), Pictures())[0] is curve


def test_values_in_a_gap_of_the_data_do_not_judge_a_curve():
    """A curve that is right where data is, and whose blocks show nothing where none is."""
    numbers = torch.cat([torch.linspace(1, 1.2, 100), torch.linspace(1.8, 2, 100)])
    curve = _curve(numbers, numbers[:, None])
    curve.blocks[(curve.numbers > 1.25) & (curve.numbers < 1.75)] = 0
    assert _choose(curve, numbers, torch.linspace(1, 2, 200)[:, None], Pictures())[0] is curve


# --- the module


@pytest.mark.parametrize("form", FORMS)
def test_a_fixed_concept_has_its_value_and_no_causes(form, make_model):
    module = make_model(**FORMS[form]).module
    mask = torch.tensor([[True, True, False], [False, True, False]])
    value = torch.tensor([[1.0, -2.0, 3.0], [0.3, 0.2, 0.1]])
    noises = [module.sample_noise(2, generator=seeded(seed)) for seed in (0, 1)]
    one, other = (module.concepts(noise, mask, {"train": value}) for noise in noises)
    assert torch.equal(one[:, 1], value)
    assert torch.equal(other[:, 1], value)
    assert not torch.equal(one[:, 2], other[:, 2])
    assert not mask[:, 2].any()  # the caller's mask is as it was


@pytest.mark.parametrize("form", FORMS)
def test_a_concept_fixed_to_what_it_is_changes_nothing(form, make_model):
    module = make_model(**FORMS[form]).module
    mask = torch.tensor([[False, True, False]] * 4)
    noise = module.sample_noise(4, generator=seeded(0))
    free = module.concepts(noise, mask)
    assert torch.allclose(module.concepts(noise, mask, {"train": free[:, 1]}), free, atol=1e-5)


def test_effects_of_a_fixed_concept_travel_along_the_graph(make_model):
    """With the only edges a -> train -> c, c moves by the effect of what train was moved by."""
    module = make_model().module
    layer = module.intervention
    with torch.no_grad():
        edges = torch.zeros(module.config.num_blocks, module.config.num_blocks)
        edges[0, 1] = edges[1, 2] = 1
        layer.effects.mul_(edges.repeat_interleave(3, 0).repeat_interleave(3, 1))
    mask = torch.tensor([[False, True, False]])
    noise = module.sample_noise(1, generator=seeded(0))
    before, value = module.concepts(noise, mask)[0], torch.tensor([[5.0, -1.0, 2.0]])
    after = module.concepts(noise, mask, {"train": value})[0]
    assert torch.allclose(after[0], before[0])
    assert torch.allclose(after[2] - before[2], (value[0] - before[1]) @ layer.effects[3:6, 6:9], atol=1e-5)


# --- fitting


def test_the_fitted_block_shows_the_value(fitted):
    model, _ = fitted
    asked = model.value_maps.maps[0].numbers[::6]
    block = model.value_maps({"train": asked})["train"]
    assert block.shape == (20, 3)
    assert torch.allclose(block[:, 0], asked, atol=1e-4)


def test_few_images_of_each_context_are_explained(fitted, monkeypatch):
    model, data = fitted
    monkeypatch.setattr("context_module.training.values._PER_CONTEXT", 3)
    assert list(fit_values(model, data, draws=0)) == ["train", "c"]
    assert model.value_maps.sizes == {"train": 12, "c": 3}


def test_fitting_is_reproducible_and_leaves_modes_statistics_and_the_random_state(make_model, make_data):
    model = make_model("nvae", form="reduced", reference=True).train()
    data = make_data(torch.rand(120, 1), ("a",), channels=3)
    before, state = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    maps = []
    for _ in range(2):
        assert 0 < fit_values(model, data, draws=12, batch_size=50)["a"] < 100
        maps.append(model.value_maps.maps[0].blocks)
    assert torch.equal(*maps)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert model.module.training
    assert not model.base.training


def test_an_interruption_leaves_the_maps_there_were(fitted, monkeypatch):
    model, data = fitted
    before = model.value_maps

    def interrupt(*_):
        model.slot.value_maps = None
        raise KeyboardInterrupt

    monkeypatch.setattr("context_module.training.values._choose", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit_values(model, data)
    assert model.value_maps is before


def test_values_that_are_not_known_are_left_out(make_model, make_data):
    model = make_model()
    factors = torch.stack([shown_by(model, make_data(None, ()), 0), torch.full((120,), torch.nan)], dim=1)
    factors[::3, 0] = torch.nan
    assert math.isnan(*fit_values(model, make_data(factors, ("a", "c")), draws=0).values())
    asked = factors[1:2, 0]
    assert torch.allclose(model.value_maps({"a": asked})["a"][:, 0], asked, atol=1e-4)


@pytest.mark.parametrize(("factors", "names"), [(None, ()), (torch.rand(120, 1), ("hue",))])
def test_data_without_values_leaves_no_map(factors, names, fitted, make_data):
    model, _ = fitted
    assert fit_values(model, make_data(factors, names)) == {}
    assert model.value_maps.sizes == {}


# --- generating


def test_generate_sets_the_concept_and_nothing_else(fitted):
    model, _ = fitted
    noise = model.module.sample_noise(2, generator=seeded(3))
    made = model.generate(noise=noise, do={"c": Value([0, 2]), "a": 0.5})
    fixed = model.value_maps({"c": torch.tensor([0.0, 2.0])})
    with torch.no_grad():
        latent = model.module(noise, torch.tensor([[0.5, 0.0, 1.0]] * 2), fixed)
        assert torch.equal(made, model.base.decode(latent).mean)


def test_other_values_make_other_images(fitted):
    model, _ = fitted
    made = [generate(model, {"c": Value(value)}) for value in (0, 1, 2, 0)]
    assert torch.equal(made[0], made[3])
    assert not torch.allclose(made[0], made[1], atol=1e-4)
    assert not torch.allclose(made[1], made[2], atol=1e-4)


def test_values_a_little_beyond_the_range_are_its_end(fitted):
    model, _ = fitted
    assert torch.equal(generate(model, {"c": Value(2.015)}), generate(model, {"c": Value(2)}))


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ({"c": Value(2.5)}, "'c' cannot be set to 2.5: the training data has values from 0 to 2"),
        ({"c": Value([0, 1, -1])}, "'c' cannot be set to -1"),
        ({"a": Value(0.5)}, "'a' cannot be set to a value: the training data carried no values for it; it did for "),
        ({"z": Value(0.5)}, "unknown concept 'z'"),
    ],
)
def test_values_that_cannot_be_set(do, message, fitted):
    with pytest.raises(ConceptError, match=message):
        generate(fitted[0], do)


def test_a_model_without_maps(make_model):
    with pytest.raises(
        ConceptError, match=r"no values for it\. Intervene without a value, or fit_values\(model, data"
    ):
        generate(make_model(), {"a": Value(0.5)})


# --- saving


def test_maps_are_saved_with_the_module(fitted, make_base, tmp_path):
    model, _ = fitted
    model.save_pretrained(tmp_path)
    again = ContextualDecoder.from_pretrained(tmp_path, base=make_base("modules"))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["value_maps"] == {"train": 120, "c": 3}
    assert again.value_maps.sizes == {"train": 120, "c": 3}
    do = {"c": Value(1.5), "train": Value(sum(model.value_maps.maps[0].range) / 2)}
    assert torch.equal(generate(again, do), generate(model, do))


def test_a_model_without_maps_is_saved_as_ever(make_model, make_base, tmp_path):
    make_model().save_pretrained(tmp_path)
    assert "value_maps" not in json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_tensors(tmp_path / "adapter_model.safetensors")
    assert {name.partition(".")[0] for name in tensors} == {"module", "posterior_heads"}
    assert ContextualDecoder.from_pretrained(tmp_path, base=make_base("modules")).value_maps.sizes == {}


@pytest.mark.parametrize(
    ("value_maps", "message"),
    [
        ({"z": 3}, r"value_maps must be the sizes of maps of some of the concepts a, train, c, got \{'z': 3\}"),
        (["c"], r"got \['c'\]"),
        ({"c": 0}, "got .*0"),
        ({"train": 120}, "unexpected: value_maps"),
        ({"train": 120, "c": 4}, r"value_maps.maps.1.numbers: shape \(3,\) in the file, \(4,\) in the model"),
    ],
)
def test_a_configuration_that_does_not_fit(value_maps, message, fitted, make_base, tmp_path):
    fitted[0].save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "value_maps": value_maps}))
    with pytest.raises(CheckpointError, match=message):
        ContextualDecoder.from_pretrained(tmp_path, base=make_base("modules"))
