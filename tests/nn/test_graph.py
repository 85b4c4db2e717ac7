"""The learned graph, the graph that is given, and the penalty on cycles."""

import json
import math
import sys

import networkx
import pytest
import torch

from context_module import ContextModule, ContextModuleConfig, adapt, wrap_decoder
from context_module.adapters.lightweight import LightweightVAE
from context_module.data import ArrayContextDataset
from context_module.errors import ConceptError, ShapeError
from context_module.nn.graph import CausalGraph, learned_graph
from context_module.training.encodings import encode_dataset
from context_module.training.objectives.edges import acyclicity
from context_module.training.objectives.latent import LATENT_TERMS, LatentObjective, latent_terms
from context_module.training.objectives.norms import relative_norms
from helpers.draws import seeded

NEEDED = {"concepts": ("a", "b", "c"), "latent_shape": (6,), "num_features": 4}
FORMS = ("structural", "reduced")
# strongest first: c -> a, a -> b, c -> b
GRAPH = CausalGraph(("a", "b", "c"), torch.tensor([[9.0, 0.0, 0.5], [0.2, 9.0, 0.1], [0.05, 0.0, 9.0]]))


def make_module(**options):
    torch.manual_seed(0)
    module = ContextModule(ContextModuleConfig(**NEEDED, noise_width=4, concept_width=2, **options)).eval()
    module.embedding.interventional.bias.data.normal_()  # else interventions do nothing yet
    return module


def move_values(module, shift, spread=1.0):
    """Let interventions move the concepts' own values and spread them out, and leave what edges do as it is."""
    layer, own = module.intervention, type(module).exogenous
    if layer.interventional_effects is not None:
        layer.interventional_effects.data.copy_(layer.effects)

    def exogenous(noise, mask):
        values = own(module, noise, torch.zeros_like(mask))
        concepts = values[:, : mask.shape[1]]
        moved = spread * (concepts - concepts.mean(0)) + concepts.mean(0) + shift
        return torch.cat([torch.where(mask[..., None], moved, concepts), values[:, mask.shape[1] :]], 1)

    module.exogenous = exogenous


def set_edges(module, *edges):
    """Leave the effects along these edges alone."""
    names, width = module.config.concepts, module.config.concept_width
    effects = torch.zeros_like(module.intervention.effects)
    for cause, effect in edges:
        i, j = width * names.index(effect), width * names.index(cause)
        effects[j : j + width, i : i + width] = torch.tensor([[1.0, -0.5], [0.5, 1.0]])
    module.intervention.effects.data.copy_(effects)
    return module


def observational(module, n):
    return module.sample_noise(n, generator=seeded(0)), torch.zeros(n, 3, dtype=torch.bool)


# --- strengths


@pytest.mark.parametrize("form", FORMS)
def test_strength_is_how_far_an_intervention_reaches_along_an_edge(form):
    """A chain a -> b -> c by hand, where interventions move values: what do(a) does to c goes through b."""
    module = set_edges(make_module(form=form, free_blocks=1), ("a", "b"), ("b", "c"))
    move_values(module, torch.tensor([[1.0, 2.0], [-2.0, 0.5], [9.0, 9.0]]))
    out = module(*observational(module, 1000))
    block, weight = torch.tensor([[1.0, -0.5], [0.5, 1.0]]), module.inversion.linear.weight
    to_b = weight[:, 2:4] @ (torch.tensor([1.0, 2.0]) @ block)
    to_c = weight[:, 4:6] @ (torch.tensor([-2.0, 0.5]) @ block)
    expected = torch.stack([to_b, to_c]).norm(dim=1) / out.var(0).sum().sqrt()
    found = learned_graph(module).strengths
    torch.testing.assert_close(torch.stack([found[1, 0], found[2, 1]]), expected, rtol=0.2, atol=0)
    assert found.count_nonzero() == 2


@pytest.mark.parametrize("form", FORMS)
def test_what_an_edge_carries_without_an_intervention_does_not_count(form):
    module = set_edges(make_module(form=form), ("a", "b"))
    move_values(module, torch.zeros(3, 2))
    assert learned_graph(module).edges(0) == ()
    move_values(module, torch.zeros(3, 2), spread=3.0)  # the mean is as it was
    assert learned_graph(module).edges(0) == (("a", "b"),)


@pytest.mark.parametrize("form", FORMS)
def test_strengths_do_not_depend_on_the_scale_of_concept_values(form):
    module = make_module(form=form)
    module.intervention.effects.data.normal_()
    strengths, norms = learned_graph(module).strengths, module.intervention.effect_norms()
    assert (strengths > 0).sum() == 6
    scale = torch.tensor([1.0, 1.0, 50.0, 50.0, 0.1, 0.1])
    module.embedding.register_forward_hook(lambda _, args, out: out * scale.view(3, 1, 2))
    with torch.no_grad():
        for effects in (module.intervention.effects, module.intervention.interventional_effects):
            if effects is not None:
                effects.mul_(scale / scale[:, None])
        module.inversion.linear.weight.div_(scale)
    torch.testing.assert_close(learned_graph(module).strengths, strengths, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(module.intervention.effect_norms(), norms, rtol=0.5)


@pytest.mark.parametrize("reference", [False, True])
def test_asking_for_the_graph_changes_nothing(make_base, reference):
    options = {"form": "reduced", "reference": True} if reference else {"inversion_width": 8, "free_blocks": 1}
    model = wrap_decoder(make_base("modules"), ["a", "b"], noise_width=4, concept_width=2, **options).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    first, drawn = model.graph(samples=50, seed=3), torch.rand(1)
    torch.manual_seed(1)
    assert drawn == torch.rand(1)
    assert model.module.training
    calls = []

    def fails(module, args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt

    hook = model.module.inversion.register_forward_pre_hook(fails)
    with pytest.raises(KeyboardInterrupt):
        model.graph(samples=50)
    hook.remove()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert isinstance(model.module.intervention.effects, torch.nn.Parameter)
    assert not first.strengths.requires_grad
    assert torch.equal(model.graph(samples=50, seed=3).strengths, first.strengths)
    assert not torch.equal(model.graph(samples=50, seed=4).strengths, first.strengths)


def test_decoder_inputs_that_never_change():
    module = make_module()
    torch.nn.init.zeros_(module.inversion.linear.weight)
    assert learned_graph(module).edges(0) == ()


def test_no_concepts_no_graph(make_base):
    graph = wrap_decoder(make_base("modules"), [], free_blocks=1).graph()
    assert (graph.edges(), graph.strengths.shape) == ((), (0, 0))


def test_one_sample_has_no_distribution():
    with pytest.raises(ValueError, match="at least 2 are needed, got 1"):
        learned_graph(make_module(), samples=1)


# --- edges


def test_edges_are_those_near_the_strongest_strongest_first():
    assert GRAPH.edges() == (("c", "a"), ("a", "b"), ("c", "b"))  # a fifth of the strongest counts
    assert GRAPH.edges(0.3) == (("c", "a"), ("a", "b"))
    assert GRAPH.edges(1) == (("c", "a"),)
    assert GRAPH.edges(0) == (("c", "a"), ("a", "b"), ("c", "b"), ("a", "c"))
    for threshold in (-0.1, 20, math.nan):
        with pytest.raises(ValueError, match=r"threshold .* must lie in \[0, 1\], got"):
            GRAPH.edges(threshold)


def test_the_strongest_edge_may_be_nothing():
    graph = CausalGraph(("a", "b"), torch.tensor([[0.0, 0.009], [0.005, 0.0]]))
    assert graph.edges() == graph.edges(0) == ()
    assert graph.structural_hamming_distance([]) == 0


def test_strengths_of_another_shape():
    with pytest.raises(ShapeError, match=r"strengths must have shape \(2, 2\), got \(3, 3\)"):
        CausalGraph(("a", "b"), torch.zeros(3, 3))


def test_as_a_graph_of_networkx():
    drawn = GRAPH.to_networkx(0.3)
    assert list(drawn) == ["a", "b", "c"]
    assert dict(drawn.edges) == {
        ("c", "a"): {"strength": 0.5},
        ("a", "b"): {"strength": pytest.approx(0.2)},
    }
    assert CausalGraph(("a", "b"), torch.zeros(2, 2)).to_networkx().number_of_nodes() == 2


def test_says_how_to_get_networkx(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ImportError, match="networkx, which torch depends on .*: pip install networkx"):
        GRAPH.to_networkx()


def test_goes_to_json():
    content = json.loads(json.dumps(GRAPH.to_dict()))
    assert content["concepts"] == ["a", "b", "c"]
    assert content["strengths"][0] == [9.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("true", "missing", "extra", "turned"),
    [
        ("ca ab cb", "", "", ""),
        ("ca ab", "", "cb", ""),
        ("ca ab cb ba", "ba", "", ""),
        ("ac ab cb", "", "", "ac"),
        ("ac ca ab cb", "ac", "", ""),
        ("bc", "", "ca ab", "bc"),
        ("", "", "ca ab cb", ""),
    ],
)
def test_hamming_distance_counts_a_reversed_edge_once(true, missing, extra, turned):
    found = GRAPH.differences(map(tuple, true.split()))
    expected = {"missing": missing, "extra": extra, "reversed": turned}
    assert found == {kind: tuple(map(tuple, edges.split())) for kind, edges in expected.items()}
    distance = len(f"{missing} {extra} {turned}".split())
    assert GRAPH.structural_hamming_distance(map(tuple, true.split())) == distance


def test_true_edges_of_other_concepts():
    with pytest.raises(ConceptError, match="unknown concepts in the true edges: d, e; the graph's are a, b, c"):
        GRAPH.structural_hamming_distance([("a", "e"), ("d", "b")])


# --- a given graph


def test_a_given_graph_goes_to_json_and_back():
    config = ContextModuleConfig(**NEEDED, graph=[["a", "b"], ["c", "b"]])
    assert config.graph == (("a", "b"), ("c", "b"))
    assert ContextModuleConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert ContextModuleConfig.from_dict(NEEDED).graph is None  # written before there were any
    assert ContextModuleConfig(**NEEDED, graph=()).graph == ()


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ([("a", "x")], "unknown concept 'x' in the graph's edge a -> x: the concepts are a, b, c"),
        ([("b", "b")], "the graph has an edge from 'b' to itself"),
        ([("a", "b"), ("b", "a")], r"the graph has a cycle, (a -> b -> a|b -> a -> b): leave out one of its edges"),
        (
            [("a", "b"), ("b", "c"), ("c", "a")],
            "a cycle, (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c): leave out",
        ),
        ([("a", "b", "c")], r"graph must hold \(cause, effect\) pairs of concepts, got \('a', 'b', 'c'\)"),
        (["ab"], r"graph must hold \(cause, effect\) pairs of concepts, got 'ab'"),
    ],
)
def test_impossible_graphs(graph, message):
    with pytest.raises(ConceptError, match=message):
        ContextModuleConfig(**NEEDED, graph=graph)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_acts_along_an_edge_that_is_not_given(form):
    module = make_module(form=form, graph=(("a", "b"), ("b", "c")))
    layer = module.intervention
    layer.effects.data.normal_()
    exogenous, mask = torch.randn(8, 6), torch.rand(8, 3) < 0.5
    layer(exogenous, mask).square().sum().backward()
    for parameter in (layer.effects, layer.interventional_effects):
        if parameter is not None:
            blocks = parameter.grad.unflatten(1, (3, 2)).unflatten(0, (3, 2)).abs().sum((1, 3))
            assert {(j, i) for j, i in blocks.nonzero().tolist()} == {(0, 1), (1, 2)}  # cause, effect
    assert (layer.effect_norms() > 1e-3).nonzero().tolist() == [[1, 0], [2, 1]]  # effect, cause
    assert set(learned_graph(module).edges(0)) == {("a", "b"), ("b", "c")}


def test_the_structural_form_is_exact_on_a_given_graph():
    module = make_module(graph=(("a", "b"), ("b", "c"), ("a", "c")))
    layer = module.intervention
    layer.effects.data.normal_()
    layer.bias.data.normal_()
    exogenous, mask = torch.randn(8, 6), torch.rand(8, 3) < 0.5
    concepts = layer(exogenous, mask)
    uncut = 1 - mask.repeat_interleave(2, 1).float()
    fixed_point = exogenous + layer.bias + uncut * (concepts @ (layer.effects * layer.edge_mask))
    torch.testing.assert_close(concepts, fixed_point)


# --- the penalty on cycles


def test_acyclicity_of_known_graphs():
    chain = torch.tensor([[0.0, 0, 0], [2, 0, 0], [3, 4, 0]])
    assert acyclicity(chain) == pytest.approx(0, abs=1e-5)
    loop = torch.tensor([[0.0, 1.1], [0.7, 0]], requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = acyclicity(loop)
    assert penalty.item() == pytest.approx(2 * math.cosh(1.1 * 0.7) - 2, rel=1e-5)
    penalty.backward()
    assert loop.grad[0, 1].item() == pytest.approx(2 * 0.7 * math.sinh(1.1 * 0.7), rel=1e-4)
    assert acyclicity(torch.zeros(0, 0)) == 0


@pytest.fixture
def objective(make_base):
    """A latent objective on noise, and a batch of it."""

    def make(**options):
        base = adapt(make_base("modules"))
        images = torch.randint(0, 256, (16, *base.image_shape), dtype=torch.uint8)
        data = ArrayContextDataset(images, torch.arange(2).repeat_interleave(8), ("obs", "a"), ("a", "b"))
        encodings = encode_dataset(base, data, progress=False)
        model = wrap_decoder(base, ["a", "b"], noise_width=4, concept_width=2, latent_noise=True)
        weights = {term.name: options.pop(term.name) for term in LATENT_TERMS if term.name in options}
        return LatentObjective(model, encodings, latent_terms(**weights), **options), encodings.batch(torch.arange(16))

    return make


def test_terms_of_the_graph_are_reported_if_they_have_a_weight(objective):
    losses, batch = objective(acyclicity=5.0, sparsity=0.0, matching=0.0, beta=0.0)
    layer = losses.model.module.intervention
    layer.effects.data.normal_()
    out = losses.eval()(batch)
    assert "sparsity" not in out
    assert out["acyclicity"].shape == out["loss"].shape
    cycles = acyclicity(relative_norms(losses.model.module, 20_000)).expand(16)
    assert cycles[0] > 0.1
    torch.testing.assert_close(out["acyclicity"], cycles, rtol=0.5, atol=0)
    torch.testing.assert_close(out["loss"], out["neg_log_likelihood"] + 5 * out["acyclicity"])
    losses, batch = objective(acyclicity=0.0)
    out = losses.eval()(batch)
    assert "acyclicity" not in out
    edges = relative_norms(losses.model.module, 20_000).sum()
    torch.testing.assert_close(out["sparsity"], edges.expand(16), rtol=0.5, atol=0)


def test_relative_norms_are_of_what_an_edge_joins():
    """Not of the scale that its cause and its effect are written in."""
    module = set_edges(make_module(free_blocks=1), ("a", "b"), ("b", "c"))
    layer, last = module.intervention, module.embedding.layers[-1]
    torch.manual_seed(0)
    before, plain = relative_norms(module, 50_000), layer.effect_norms()
    noise, mask = observational(module, 50_000)
    deviation = module.concepts(noise, mask).var(0).sum(1).sqrt()
    assert before[1, 0].item() == pytest.approx((plain[1, 0] * deviation[0] / deviation[1]).item(), rel=0.05)
    with torch.no_grad():  # far in the linear part of GELU, b ten times as large, and its edges with it
        last.bias += 1000
        last.weight[1] *= 10
        layer.effects[:, 2:4] *= 10
        layer.effects[2:4] /= 10
    shifted = relative_norms(module, 50_000)
    torch.testing.assert_close(layer.effect_norms()[1, 0], 10 * plain[1, 0])
    with torch.no_grad():
        last.weight[1] /= 10
        layer.effects[:, 2:4] /= 10
        layer.effects[2:4] *= 10
    torch.testing.assert_close(shifted, relative_norms(module, 50_000), rtol=0.05, atol=1e-4)
    relative_norms(module, 10).sum().backward()
    assert [name for name, value in module.named_parameters() if value.grad is not None] == ["intervention.effects"]


def test_the_penalty_breaks_cycles():
    module = make_module()
    effects = module.intervention.effects
    effects.data.normal_(std=0.7)
    wanted = effects.detach().clone()
    optimizer = torch.optim.Adam([effects], lr=0.05)

    def acyclic():
        graph = CausalGraph(NEEDED["concepts"], module.intervention.effect_norms().detach())
        return networkx.is_directed_acyclic_graph(graph.to_networkx(0.3))

    assert not acyclic()
    for _ in range(200):
        optimizer.zero_grad()
        norms = module.intervention.effect_norms()
        ((effects - wanted).square().sum() + 100 * acyclicity(norms)).backward()
        optimizer.step()
    assert acyclic()
    assert module.intervention.effect_norms().max() > 0.5


# --- from the penalties' edges to a graph


def test_acyclic_edges_are_the_strongest_ones():
    strengths = torch.tensor([[0.0, 0.0, 0.6], [0.9, 0.0, 0.1], [0.0, 0.8, 0.0]])  # a -> b -> c -> a, and c -> b
    graph = CausalGraph(NEEDED["concepts"], strengths)
    assert graph.edges(0) == (("a", "b"), ("b", "c"), ("c", "a"), ("c", "b"))
    assert graph.acyclic_edges(0) == (("a", "b"), ("b", "c"))
    assert graph.acyclic_edges(0.95) == (("a", "b"),)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 2"):
        graph.acyclic_edges(2)


def test_a_model_keeps_the_edges_of_a_graph_alone(make_base, tmp_path):
    model = wrap_decoder(make_base("modules"), ["a", "b", "c"], free_blocks=1, noise_width=4, concept_width=2).eval()
    layer = model.module.intervention
    layer.effects.data.normal_()
    before = layer.effect_norms().detach()
    model.fix_graph([("a", "b")])
    assert model.graph().edges(0) == (("a", "b"),)
    kept = torch.ones(4, 4, dtype=torch.bool)
    kept[:3, :3] = False
    kept[1, 0] = True
    kept.fill_diagonal_(False)
    torch.testing.assert_close(layer.effect_norms()[kept], before[kept])
    assert (layer.effect_norms()[~kept] < 1e-5).all()
    layer.effects.data += 1  # as an optimiser's momentum does
    assert (layer.effect_norms()[~kept] < 1e-5).all()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, base=model.base)
    assert again.config.graph == (("a", "b"),)
    torch.testing.assert_close(again.graph().strengths, model.graph().strengths)
    with pytest.raises(ConceptError, match="unknown concept 'd' in the graph's edge a -> d"):
        model.fix_graph([("a", "d")])
    with pytest.raises(ConceptError, match="cycle"):
        model.fix_graph([("a", "b"), ("b", "a")])


def test_strong_edges_become_the_graph_halfway(objective):
    losses, batch = objective(sparsity=1.0, acyclicity=1.0, edge_threshold=0.5)
    model = losses.model
    model.module.intervention.effects.data.normal_()
    searched = losses.train()(batch, 0.49)
    assert {"sparsity", "acyclicity"} <= searched.keys()
    assert model.config.graph is None
    losses.eval()(batch, 1.0)
    assert model.config.graph is None  # a validation changes nothing
    strongest = model.graph().edges(0)[:1]
    state = losses.state_dict()
    found = losses.train()(batch, 0.5)
    assert not {"sparsity", "acyclicity"} & found.keys()
    assert model.config.graph == strongest
    state |= {name: value.clone() for name, value in losses.state_dict().items()}

    again, _ = objective(edge_threshold=0.5)
    assert again.model.config.graph is None
    again.load_state_dict(state)
    assert again.model.config.graph == strongest


def test_edges_are_kept_where_there_is_nothing_to_find(objective):
    losses, batch = objective(edge_threshold=0.0)
    assert losses.stages == ()
    assert "sparsity" in losses.train()(batch, 0.9)
    assert losses.model.config.graph is None
    with pytest.raises(ValueError, match=r"edge_threshold is a share .* in \[0, 1\]: 1.5"):
        objective(edge_threshold=1.5)


def test_a_fixed_graph_leaves_no_other_configuration_behind():
    """There is one, of the module: no part keeps another that would be stale."""
    model = wrap_decoder(LightweightVAE("conv3"), ["a", "b", "c"], noise_width=4, concept_width=4)
    model.fix_graph([("a", "b")])
    held = [
        value for part in model.modules() for value in vars(part).values() if isinstance(value, ContextModuleConfig)
    ]
    assert held == [model.config]
    assert model.config is model.module.config
    assert model.config.graph == (("a", "b"),)


def test_of_many_concepts_the_likeliest_edges_are_measured(monkeypatch):
    names = tuple(f"c{k}" for k in range(40))
    torch.manual_seed(0)
    module = ContextModule(
        ContextModuleConfig(concepts=names, latent_shape=(40,), num_features=4, noise_width=4, concept_width=2)
    ).eval()
    module.embedding.interventional.bias.data.normal_()
    edges = [("c3", "c20"), ("c20", "c7"), ("c30", "c31")]
    move_values(set_edges(module, *edges), shift=2.0)
    passes, invert = [], module.inversion.forward
    monkeypatch.setattr(module.inversion, "forward", lambda concepts: passes.append(1) or invert(concepts))
    found = learned_graph(module, samples=200)
    assert sorted(found.edges()) == sorted(edges)
    assert len(passes) <= 2 * 16 * 40 + 1
    every = torch.zeros(40, 40)
    monkeypatch.setattr("context_module.nn.graph._FEW", 40)
    every = learned_graph(module, samples=200).strengths
    torch.testing.assert_close(found.strengths, every)
