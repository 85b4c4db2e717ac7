import pytest
import torch

from context_module import ContextModule, ContextModuleConfig
from context_module.errors import ShapeError
from helpers.draws import seeded
from helpers.models import randomise as randomise_all

FORMS = {
    "structural": {"form": "structural"},
    "do": {"form": "reduced", "composition": "do"},
    "published": {"form": "reduced", "composition": "published"},
}
VARIANTS = [*((form, {}) for form in FORMS), ("do", {"reference": True}), ("published", {"reference": True})]


def build(form="structural", num_concepts=3, randomise=True, **options):
    """A small module; nothing in it is zero or equal by initialisation, unless asked."""
    torch.manual_seed(0)
    widths = {"noise_width": 6, "concept_width": 3}
    names = tuple("abcde"[:num_concepts])
    options = {"concepts": names, "latent_shape": (2, 3, 4), "num_features": 7, **widths, **FORMS[form], **options}
    module = ContextModule(ContextModuleConfig(**options))
    if randomise:
        randomise_all(module, 0.4)
    return module


def inputs(module, n=12):
    """Noise, and contexts of 0 to K simultaneous interventions in one batch."""
    generator = seeded(0)
    num_concepts = len(module.config.concepts)
    mask = torch.rand(n, num_concepts, generator=generator) < torch.linspace(0, 1, n)[:, None]
    mask[0], mask[-1] = False, True
    return module.sample_noise(n, generator=generator), mask


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def literal(module, noise, mask):
    """The formulas, one sample and one block at a time: exogenous values, concept values, decoder inputs."""
    config, embedding, layer = module.config, module.embedding, module.intervention
    num_concepts, w_z, w_c = len(config.concepts), config.noise_width, config.concept_width

    def effect(weight, cause, on, value):  # the (on, cause) block of A or B, applied to a block
        block = weight[cause * w_c : (cause + 1) * w_c, on * w_c : (on + 1) * w_c]
        return value @ block

    stages = []
    for z, m in zip(noise, mask, strict=True):
        eps = []
        for j in range(config.num_blocks):
            first = embedding.interventional if j < num_concepts and m[j] else embedding.observational
            h = gelu(z[j * w_z : (j + 1) * w_z] @ first.weight[j] + first.bias[j, 0])
            for deeper in embedding.layers:
                h = gelu(h @ deeper.weight[j] + deeper.bias[j, 0])
            eps.append(h)
        blocks = range(config.num_blocks)  # free blocks are causes and effects, too, and never intervened on
        m = [*m.tolist(), *[False] * config.free_blocks]
        bias = layer.bias.unflatten(0, (-1, w_c))
        a, b = layer.effects, layer.interventional_effects
        c = eps
        if config.form == "structural":
            for _ in blocks:
                causes = [sum(effect(a, j, i, c[j]) for j in blocks if j != i) for i in blocks]
                c = [eps[i] + bias[i] + (0 if m[i] else causes[i]) for i in blocks]
        else:
            observed = [sum(effect(a, j, i, eps[j]) for j in blocks if j != i and not m[j]) for i in blocks]
            forced = [sum(effect(b, j, i, eps[j]) for j in blocks if j != i and m[j]) for i in blocks]
            if config.composition == "do":
                forced = [0 if m[i] else forced[i] for i in blocks]
            c = [eps[i] + bias[i] + (0 if m[i] else observed[i]) + forced[i] for i in blocks]
        inversion = module.inversion.linear
        e = inversion.weight @ torch.cat(c) + inversion.bias
        stages.append((torch.stack(eps), torch.stack(c), e.reshape(config.latent_shape)))
    return [torch.stack(stage) for stage in zip(*stages, strict=True)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth": 1, "concept_width": 6},
        {"depth": 3},
        {"depth": 5},
        {"depth": 3, "noise_width": 2, "concept_width": 7},
        {"free_blocks": 1},
        {"free_blocks": 3, "depth": 3},
        {"num_concepts": 1},
        {"num_concepts": 1, "free_blocks": 1},
        {"num_concepts": 5},
        {"latent_shape": (5,)},
        {"latent_shape": (1, 2, 2, 2)},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_agrees_with_the_formulas(form, options):
    module = build(form, **options)
    noise, mask = inputs(module)
    exogenous, concepts, latent = literal(module, noise, mask)
    assert torch.allclose(module.exogenous(noise, mask), exogenous, atol=1e-5)
    assert torch.allclose(module.concepts(noise, mask), concepts, atol=1e-5)
    assert torch.allclose(module(noise, mask), latent, atol=1e-5)
    assert latent.shape == (len(noise), *module.config.latent_shape)


@pytest.mark.parametrize(("form", "options"), [*VARIANTS, ("structural", {"free_blocks": 2})], ids=str)
@torch.no_grad()
def test_a_mixed_batch_is_its_contexts_one_at_a_time(form, options):
    module = build(form, **options).eval().double()  # in single precision, cycles of random edges lose digits
    noise, mask = inputs(module)
    one_by_one = torch.empty(len(noise), *module.config.latent_shape).double()
    for context in mask.unique(dim=0):
        rows = (mask == context).all(1)
        one_by_one[rows] = module(noise[rows], mask[rows])
    assert torch.allclose(module(noise, mask), one_by_one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_all_contexts_start_close(form):
    module = build(form, randomise=False)
    noise = module.sample_noise(1, generator=seeded(0)).expand(8, -1)
    latent = module(noise, torch.cartesian_prod(*[torch.tensor([False, True])] * 3))
    assert (latent - latent[:1]).std() < 0.2 * latent.std()


@pytest.mark.parametrize(("form", "options"), [*VARIANTS, ("structural", {"free_blocks": 2, "depth": 4})], ids=str)
def test_gradients_reach_every_parameter(form, options):
    module = build(form, **options)
    module(*inputs(module)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert torch.equal(
        module.intervention.effects.grad, module.intervention.effects.grad * module.intervention.edge_mask
    )


@pytest.mark.parametrize("form", ["structural", "reduced"])
def test_a_module_of_free_blocks_alone(form):
    config = ContextModuleConfig(
        concepts=(), latent_shape=(2, 2, 2), num_features=5, noise_width=4, form=form, free_blocks=2
    )
    module = ContextModule(config)
    noise = module.sample_noise(3, generator=seeded(0))
    for mask in (torch.zeros(3, 0, dtype=torch.bool), torch.zeros(3, 0)):
        assert module(noise, mask).shape == (3, 2, 2, 2)
    assert module.concepts(noise, mask).shape == (3, 2, 8)
    assert module.intervention.effect_norms().shape == (2, 2)
    module(noise, mask).sum().backward()
    assert module.embedding.observational.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("form", "options"), [*VARIANTS, *((form, {"free_blocks": 1}) for form in FORMS)], ids=str)
@torch.no_grad()
def test_precision(form, options):
    module = build(form, **options)
    noise, mask = inputs(module)
    latent = module(noise, mask)
    assert latent.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(module(noise, mask).float(), latent, atol=0.1)
    low = module.bfloat16()(noise.bfloat16(), mask)
    assert low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), latent, atol=0.1)
    assert module.sample_noise(2).dtype == torch.bfloat16


@torch.no_grad()
def test_a_seed_determines_everything():
    module, twin = build(randomise=False), build(randomise=False)
    noise, mask = inputs(module)
    assert torch.equal(module(noise, mask), twin(noise, mask))
    assert torch.equal(module(noise, mask), module(noise, mask))


def test_sample_noise():
    module = build(free_blocks=1)

    def draw(n=5, temperature=1.0, seed=3):
        return module.sample_noise(n, temperature, seeded(seed))

    assert draw().shape == (5, 24)
    assert torch.equal(draw(), draw())
    assert not torch.equal(draw(), draw(seed=4))
    assert torch.equal(draw(temperature=0.5), 0.5 * draw())
    assert torch.equal(draw(temperature=0), torch.zeros(5, 24))
    assert draw(4000).std().item() == pytest.approx(1, abs=0.02)
    torch.manual_seed(0)
    first = module.sample_noise(2)
    torch.manual_seed(0)
    assert torch.equal(module.sample_noise(2), first)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:Using `torch.compile")  # shapes are checked by a hook (helpers/shapes.py)
def test_compiles_as_one_graph(form, backend):
    module = build(form, free_blocks=1)
    noise, mask = inputs(module)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    assert torch.allclose(compiled(noise, mask), module(noise, mask), atol=1e-6)


@pytest.mark.parametrize("free_blocks", [0, 2])
def test_concepts_start_quietly_beside_free_blocks(free_blocks):
    module = build(randomise=False, free_blocks=free_blocks)
    noise, mask = module.sample_noise(500), torch.zeros(500, 3, dtype=torch.bool)
    other = noise.clone()
    other[:, :6] = torch.randn(500, 6)  # of the first concept

    def moved():
        return [(module(other, given) - module(noise, given)).square().mean().item() for given in (mask, ~mask)]

    before = moved()
    module.fit_latents(torch.zeros(24), torch.ones(24))
    for now, then in zip(moved(), before, strict=True):  # by either mechanism
        assert now < 0.05 * then if free_blocks else now == pytest.approx(then)


def test_repr_says_widths_and_concepts():
    text = repr(build("do", depth=3, free_blocks=2))
    for part in (
        "concepts=['a', 'b', 'c']",
        "noise_width=6, concept_width=3, depth=3, free_blocks=2",
        "form='reduced'",
    ):
        assert part in text
    assert "widths=6-4-3" in text
    assert "composition='do'" in text
    assert "composition" not in repr(build())


@pytest.mark.parametrize(
    ("noise_shape", "mask", "message"),
    [
        (
            (2, 17),
            torch.zeros(2, 3).bool(),
            r"noise must have shape \(batch, 18\): 3 blocks of width 6; got \(2, 17\)",
        ),
        ((18,), torch.zeros(1, 3).bool(), r"got \(18,\)"),
        ((2, 18), torch.zeros(2, 4).bool(), r"torch.bool of shape \(2, 3\), got torch.bool of shape \(2, 4\)"),
        ((2, 18), torch.zeros(1, 3).bool(), r"got torch.bool of shape \(1, 3\)"),
        ((2, 18), torch.zeros(3).bool(), r"got torch.bool of shape \(3,\)"),
        ((2, 18), torch.zeros(2, 3).long(), r"got torch.int64 of shape \(2, 3\)"),
    ],
)
def test_refuses_inputs_that_do_not_fit(noise_shape, mask, message):
    with pytest.raises(ShapeError, match=message):
        build()(torch.zeros(noise_shape), mask)
