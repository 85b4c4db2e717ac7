"""What `do` accepts, and interventions of any strength."""

import pytest
import torch
from torch.nn import functional as F

from context_module import Concepts, ContextModule, ContextModuleConfig, Value
from context_module.errors import ConceptError, ShapeError
from context_module.interventions import parse_interventions, read_interventions, spell_interventions
from helpers.draws import seeded
from helpers.models import generate, wrapped_at_random

FORMS = {
    "structural": {"form": "structural", "free_blocks": 1},
    "do": {"form": "reduced", "composition": "do", "free_blocks": 1},
    "published": {"form": "reduced", "composition": "published"},
    "reference do": {"form": "reduced", "composition": "do", "reference": True},
    "reference published": {"form": "reduced", "composition": "published", "reference": True},
}
ABC = Concepts(["a", "b", "c"])


@pytest.fixture(params=FORMS)
def module(request):
    """A small module of every form, in which nothing is zero."""
    torch.manual_seed(0)
    widths = {"noise_width": 4, "concept_width": 3, "latent_shape": (2, 3), "num_features": 5}
    module = ContextModule(ContextModuleConfig(concepts=tuple(ABC), **widths, **FORMS[request.param]))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return module.eval()


@pytest.fixture
def model(make_base):
    return wrapped_at_random(make_base("nvae"), ABC)


def noise_of(module, n=8):
    return module.sample_noise(n, generator=seeded(0))


def literal(module, noise, strengths):
    """Concept values of one sample with a strength per concept, by the formulas, each linear in each strength."""
    config, embedding, layer = module.config, module.embedding, module.intervention
    z = noise.unflatten(0, (-1, config.noise_width))
    dense = torch.zeros_like(noise)
    if embedding.dense is not None:
        for j in range(3):
            dense += F.linear(z[j], (embedding.dense * embedding.off_diagonal)[4 * j : 4 * j + 4].T)
        dense = dense * (1 - strengths[0]) * (1 - strengths[1]) * (1 - strengths[2])
    dense = dense.unflatten(0, (-1, config.noise_width))
    eps = []
    for j in range(len(z)):
        h = z[j] @ embedding.observational.weight[j] + embedding.observational.bias[j, 0] + dense[j]
        if j < 3:
            forced = z[j] @ embedding.interventional.weight[j] + embedding.interventional.bias[j, 0]
            h = (1 - strengths[j]) * h + strengths[j] * forced
        h = F.gelu(h)
        for deeper, norm in zip(embedding.layers, embedding.norms, strict=True):
            h = h @ deeper.weight[j] + deeper.bias[j, 0]
            if config.reference:
                width = h.numel()
                scale, shift = (p[width * j : width * (j + 1)] for p in (norm.weight, norm.bias))
                h = h / (1 + norm.eps) ** 0.5 * scale + shift
            h = F.gelu(h)
        eps.append(h)

    def effects(weight, i, values, shares):
        blocks = [weight[3 * j : 3 * j + 3, 3 * i : 3 * i + 3] for j in every]
        return sum(shares[j] * values[j] @ blocks[j] for j in every if j != i)

    every = range(len(eps))
    strengths = F.pad(strengths, (0, config.free_blocks))  # nothing intervenes on a free block
    own = [eps[i] + layer.bias[3 * i : 3 * i + 3] for i in every]
    if config.form == "structural":
        c = eps
        for _ in every:
            c = [own[i] + (1 - strengths[i]) * effects(layer.effects, i, c, [1] * len(eps)) for i in every]
    else:
        c = []
        for i in every:
            forced = effects(layer.interventional_effects, i, eps, strengths)
            observed = effects(layer.effects, i, eps, 1 - strengths)
            cut = 1 if config.composition == "published" else 1 - strengths[i]
            c.append(own[i] + (1 - strengths[i]) * observed + cut * forced)
    return torch.stack(c)


# --- strengths in the module


def test_strengths_of_zero_and_one_are_the_bool_mask_bit_for_bit(module):
    noise = noise_of(module)
    mask = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    assert torch.equal(module.concepts(noise, mask.float()), module.concepts(noise, mask))
    assert torch.equal(module(noise, mask.double()), module(noise, mask))


def test_strengths_between_and_beyond_follow_the_formulas(module):
    noise, strengths = noise_of(module), torch.rand(8, 3, generator=seeded(1))
    strengths[0], strengths[1], strengths[2] = 0.5, torch.tensor([0.0, 0.3, 1.0]), torch.tensor([3.0, -2.0, 0.4])
    found = module.concepts(noise, strengths)
    for k in range(8):
        assert torch.allclose(found[k], literal(module, noise[k], strengths[k]), atol=1e-5)


def test_a_weak_intervention_does_little_and_a_strong_one_nearly_all(module):
    noise = noise_of(module)
    none, full = (module(noise, torch.tensor([[on, False, False]] * 8)) for on in (False, True))
    weak, strong = (module(noise, torch.tensor([[strength, 0.0, 0.0]] * 8)) for strength in (1e-4, 1 - 1e-4))
    gap = (full - none).norm()
    assert 0 < (weak - none).norm() < 1e-3 * gap
    assert 0 < (full - strong).norm() < 1e-3 * gap


@pytest.mark.parametrize("value", [3.5, -2.1, float("nan"), float("inf")])
def test_the_module_refuses_strengths_out_of_range(module, value):
    strengths = torch.zeros(8, 3)
    strengths[5, 1] = value
    with pytest.raises(ConceptError, match=rf"an intervention on 'b' must be in \[-2, 3\], .* got {value:g}"):
        module(noise_of(module), strengths)


# --- generate


@pytest.mark.parametrize(
    ("do", "same"),
    [
        ({}, None),
        ({"a": 0}, "obs"),
        ({"b": 1}, "b"),
        ({"c": 1.0, "a": True, "b": 0.0}, ("a", "c")),
        ({"a": [1, 1, 1]}, "a"),
        (torch.tensor([1.0, 0.0, 1.0]), "a+c"),
        (torch.tensor([[1.0, 0.0, 1.0]] * 3), torch.tensor([[True, False, True]] * 3)),
    ],
)
def test_strengths_of_zero_and_one_generate_what_names_do(do, same, model):
    assert torch.equal(generate(model, do), generate(model, same))


def test_each_image_has_its_own_strength(model):
    together = model.generate(3, do={"a": torch.tensor([0.0, 0.5, 1.0]), "b": 0.3}, temperature=0)
    for k, strength in enumerate((0.0, 0.5, 1.0)):
        alone = model.generate(1, do={"a": strength, "b": 0.3}, temperature=0)
        assert torch.allclose(together[k : k + 1], alone, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-4)
    assert not torch.allclose(together[1], together[2], atol=1e-4)


@pytest.mark.parametrize(
    ("do", "error", "message"),
    [
        ({"a": 3.5}, ConceptError, r"strength of an intervention on 'a' must be in \[-2, 3\], .* got 3.5"),
        ({"a": 0.5, "b": -3}, ConceptError, "an intervention on 'b' must be .* got -3"),
        ({"a": float("nan")}, ConceptError, "got nan"),
        ({"a": [0.5, 4, 0.5]}, ConceptError, "an intervention on 'a' .* got 4"),
        ({"a": "half"}, ConceptError, r"'a' must be a number, got 'half'; .* write Value"),
        ({"a": None}, ConceptError, "'a' must be a number, got None"),
        ({"z": 0.5}, ConceptError, "unknown concept 'z'; known concepts: a, b, c"),
        ({"obs": 1.0}, ConceptError, "unknown concept 'obs'"),
        ({"a+b": 1.0}, ConceptError, r"unknown concept 'a\+b'"),
        ({"a": [0.5, 0.5]}, ShapeError, r"'a' is given numbers of shape \(2,\) for 3 images: give one for all"),
        ({"a": torch.zeros(3, 1)}, ShapeError, r"numbers of shape \(3, 1\)"),
        (torch.full((3, 3), 4.0), ConceptError, "an intervention on 'a' must be .* got 4"),
        (torch.zeros(3, 2), ShapeError, r"must have shape \(batch, 3\) for the concepts a, b, c, got \(3, 2\)"),
        (torch.zeros(2, 3), ShapeError, "has 2 rows for a batch of 3"),
        (torch.zeros(3, 3).long(), ShapeError, "must be torch.bool, got torch.int64"),
    ],
)
def test_generate_refuses(do, error, message, model):
    with pytest.raises(error, match=message):
        generate(model, do)


@pytest.mark.parametrize(
    ("contexts", "error", "message"),
    [
        ({"a": 0.5}, ConceptError, r"strengths and values are for generate\(do=...\); images are seen in contexts"),
        (torch.full((2, 3), 0.5), ShapeError, r"use mask.bool\(\); strengths are for generate\(do=...\)"),
    ],
)
def test_images_are_seen_in_no_context_of_half_strength(contexts, error, message, model):
    x = torch.rand(2, 3, 8, 8)
    for call in (model.forward, model.posterior, model.abduct):
        with pytest.raises(error, match=message):
            call(x, contexts)


# --- parsing


def test_names_and_masks_stay_bool():
    for do in (None, "obs", "a", ("a", "b"), [], torch.zeros(3).bool()):
        parsed = parse_interventions(do, ABC, 4)
        assert parsed.strengths.dtype == torch.bool
        assert parsed.strengths.shape == (4, 3)
        assert parsed.values == {}


def test_values_are_full_interventions():
    parsed = parse_interventions({"c": Value([1, 2]), "a": Value(-3), "b": 0.25}, ABC, 2)
    assert torch.equal(parsed.strengths, torch.tensor([[1.0, 0.25, 1.0]] * 2))
    assert {name: value.tolist() for name, value in parsed.values.items()} == {"c": [1, 2], "a": [-3, -3]}


def test_values_are_numbers():
    assert Value(0.7) == Value(torch.tensor(0.7, dtype=torch.float64))
    assert Value(0.7).value == 0.7
    assert Value(torch.tensor([1.0, 2.0])).value == (1.0, 2.0)
    for wrong in ("big", None, float("nan"), [[1.0]], [1.0, float("inf")]):
        with pytest.raises(ConceptError, match="Value takes a finite number, or one per image, got"):
            Value(wrong)
    with pytest.raises(ShapeError, match=r"'a' is given numbers of shape \(2,\) for 3 images"):
        parse_interventions({"a": Value([1, 2])}, ABC, 3)


@pytest.mark.parametrize(
    ("words", "do", "spelt"),
    [
        (["obs"], {}, "obs"),
        (["c", "a"], {"a": 1.0, "c": 1.0}, "a+c"),
        (["a+c"], {"a": 1.0, "c": 1.0}, "a+c"),
        (["b=0.7", "a:0.5"], {"a": 0.5, "b": Value(0.7)}, "a:0.5+b=0.7"),
        (["b=-1e+05", "a:1"], {"a": 1.0, "b": Value(-1e5)}, "a+b=-100000"),
    ],
)
def test_words_of_a_command_line(words, do, spelt):
    read = read_interventions(words, ABC)
    assert list(read.items()) == list(do.items())
    assert spell_interventions(read) == spelt


def test_a_name_may_hold_the_marks():
    assert read_interventions(["x=1", "y:2=3"], Concepts(["x=1", "y:2"])) == {"x=1": 1.0, "y:2": Value(3)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["d=1"], "unknown concept 'd'"),
        (["a", "a:0.5"], "names a concept more than once"),
        (
            ["a="],
            "'a=' needs a number after '=': a:0.5 for an intervention of half strength, a=0.5 to set",
        ),
        (["a:half"], "'a:half' needs a number after ':'"),
        (["a=nan"], "'a=nan' needs a number"),
    ],
)
def test_words_that_are_refused(words, message):
    with pytest.raises(ConceptError, match=message):
        read_interventions(words, ABC)
