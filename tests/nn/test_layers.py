import pytest
import torch
from torch.nn import functional as F

from context_module import ContextModuleConfig
from context_module.nn.layers import BlockLinear, ConceptInversionLayer, EmbeddingLayer, InterventionLayer
from helpers.models import randomise

MASKS = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)  # every context of three concepts
FORMS = {
    "structural": {"form": "structural"},
    "do": {"form": "reduced", "composition": "do"},
    "published": {"form": "reduced", "composition": "published"},
}


def config(num_concepts=3, **options):
    options = {"latent_shape": (5,), "num_features": 3, "noise_width": 4, "concept_width": 2, **options}
    return ContextModuleConfig(concepts=tuple("abcdef"[:num_concepts]), **options)


def randomised(layer):
    """The layer with every parameter and statistic at random: nothing is zero or equal by initialisation."""
    torch.manual_seed(1)
    randomise(layer)
    for name, buffer in layer.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return layer.eval()


def test_block_linear_is_a_linear_map_per_block():
    layer = randomised(BlockLinear(3, 4, 2))
    blocks = torch.randn(3, 5, 4)
    expected = torch.stack([F.linear(blocks[k], layer.weight[k].t(), layer.bias[k, 0]) for k in range(3)])
    assert torch.allclose(layer(blocks), expected, atol=1e-6)
    assert repr(layer) == "BlockLinear(blocks=3, in_width=4, out_width=2)"


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("free_blocks", [0, 2])
def test_embedding_never_mixes_blocks(depth, free_blocks):
    layer = randomised(EmbeddingLayer(config(depth=depth, free_blocks=free_blocks)))
    noise = torch.randn(1, (3 + free_blocks) * 4)
    for mask in MASKS:
        jacobian = torch.autograd.functional.jacobian(lambda z: layer(z, mask[None])[:, 0], noise)[:, :, 0]  # noqa: B023
        norms = jacobian.unflatten(2, (-1, 4)).square().sum((1, 3))  # (block out, block in)
        assert torch.equal(norms > 0, torch.eye(3 + free_blocks).bool())


def test_an_intervention_changes_its_own_exogenous_block_only():
    layer = randomised(EmbeddingLayer(config(free_blocks=1)))
    noise = torch.randn(1, 16).expand(8, -1)
    exogenous = layer(noise, MASKS)  # (4, 8, 2)
    changed = (exogenous != exogenous[:, :1]).any(-1).t()
    assert torch.equal(changed[:, :3], MASKS)
    assert not changed[:, 3].any()


def test_interventional_weights_start_as_a_copy():
    layer = EmbeddingLayer(config(free_blocks=1))
    assert torch.equal(layer.interventional.weight, layer.observational.weight[:3])
    noise = torch.randn(1, 16).expand(8, -1)
    exogenous = layer(noise, MASKS)
    assert torch.allclose(exogenous, exogenous[:, :1].expand_as(exogenous))


@pytest.mark.parametrize("depth", [1, 3])
def test_embedding_is_linear_in_the_number_of_concepts(depth):
    def count(num_concepts):
        layer = EmbeddingLayer(config(num_concepts, depth=depth, concept_width=4))
        return sum(tensor.numel() for tensor in [*layer.parameters(), *layer.buffers()])

    assert count(6) == 2 * count(3)


@pytest.mark.parametrize("form", FORMS)
def test_concepts_do_not_act_on_themselves(form):
    layer = randomised(InterventionLayer(config(**FORMS[form])))
    exogenous = torch.randn(8, 6)
    before = layer(exogenous, MASKS)
    with torch.no_grad():
        for effects in (layer.effects, layer.interventional_effects):
            if effects is not None:
                for k in range(0, 6, 2):
                    effects[k : k + 2, k : k + 2] = 100
    assert torch.equal(layer(exogenous, MASKS), before)


@pytest.mark.parametrize("form", ["structural", "do"])
def test_an_intervention_cuts_incoming_edges(form):
    layer = randomised(InterventionLayer(config(**FORMS[form])))
    exogenous = torch.randn(1, 6)
    for mask in MASKS:
        jacobian = torch.autograd.functional.jacobian(lambda eps: layer(eps, mask[None])[0], exogenous)[:, 0]  # noqa: B023
        acts = jacobian.unflatten(0, (3, 2)).unflatten(2, (3, 2)).square().sum((1, 3)) > 0  # (effect, cause)
        assert torch.equal(acts[mask], torch.eye(3).bool()[mask])
        assert acts[~mask].all()


def test_published_composition_keeps_edges_between_interventions():
    published, do = (randomised(InterventionLayer(config(**FORMS[name]))) for name in ("published", "do"))
    exogenous = torch.randn(8, 6)
    difference = (published(exogenous, MASKS) - do(exogenous, MASKS)).abs().unflatten(1, (3, 2)).sum(2)
    joint = MASKS.sum(1, keepdim=True) > 1
    assert torch.equal(difference > 1e-5, MASKS & joint)


@pytest.mark.parametrize("num_concepts", [1, 2, 3, 5])
def test_structural_form_is_the_exact_fixpoint_of_an_acyclic_graph(num_concepts):
    layer = randomised(InterventionLayer(config(num_concepts)))
    size = 2 * num_concepts
    order = torch.randperm(num_concepts)
    acyclic = torch.kron((order[:, None] < order).float(), torch.ones(2, 2))  # a complete graph: as deep as can be
    with torch.no_grad():
        layer.effects *= acyclic
    masks = torch.rand(16, num_concepts) < 0.4
    exogenous = torch.randn(16, size)
    for row, mask, concepts in zip(exogenous, masks, layer(exogenous, masks), strict=True):
        uncut = (~mask).float().repeat_interleave(2)
        expected = torch.linalg.solve(torch.eye(size) - uncut[:, None] * layer.effects.t(), row + layer.bias)
        assert torch.allclose(concepts, expected, atol=1e-5)


def test_structural_effects_travel_along_a_chain():
    layer = InterventionLayer(config(concept_width=1, noise_width=1))
    with torch.no_grad():
        layer.effects.copy_(torch.tensor([[0, 2, 0], [0, 0, 3], [0, 0, 0]]))  # a -> b -> c
    ones = torch.ones(4, 3)
    masks = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).bool()
    assert layer(ones, masks).tolist() == [[1, 3, 10], [1, 3, 10], [1, 1, 4], [1, 3, 1]]


def test_effects_start_small_and_the_paper_clamps_them():
    layer = InterventionLayer(config(form="reduced"))
    exogenous = torch.randn(8, 6)
    assert torch.allclose(layer(exogenous, MASKS), exogenous, atol=0.5)
    layer = randomised(layer)
    layer.clamp_effects()
    for effects in (layer.effects, layer.interventional_effects):
        assert effects.min() == 0
        assert 0 < effects.max() <= 1
    structural = randomised(InterventionLayer(config()))
    structural.clamp_effects()
    assert structural.effects.min() == 0


@pytest.mark.parametrize("latent_shape", [(5,), (2, 3, 4), (1, 2, 2, 2)])
def test_inversion_is_one_linear_map_of_concepts_and_free_blocks(latent_shape):
    layer = randomised(ConceptInversionLayer(config(latent_shape=latent_shape, free_blocks=1)))
    concepts = torch.randn(4, 8)
    latent = layer(concepts)
    assert latent.shape == (4, *latent_shape)
    assert torch.equal(latent.flatten(1), layer.linear(concepts))


# The paper's module assembles dense matrices, one context at a time; these follow its description word for word.


def paper_embedding(layer, noise, mask):
    blocks, w_z = len(mask), layer.widths[0]
    observational = torch.block_diag(*layer.observational.weight) + layer.dense * layer.off_diagonal  # (in, out)
    weight = observational
    if mask.any():
        interventional = torch.block_diag(*layer.interventional.weight)
        forced = mask.repeat_interleave(w_z)
        weight = torch.where(forced[:, None], interventional, observational)  # by the block that goes in
        weight = weight * torch.block_diag(*[torch.ones(w_z, w_z)] * blocks)
    bias = torch.where(mask[:, None], layer.interventional.bias[:, 0], layer.observational.bias[:, 0]).flatten()
    hidden = F.gelu(noise @ weight + bias)
    for linear, norm in zip(layer.layers, layer.norms, strict=True):
        hidden = F.gelu(norm(hidden @ torch.block_diag(*linear.weight) + linear.bias.flatten()))
    return hidden


def paper_intervention(layer, exogenous, mask):
    forced = mask.repeat_interleave(layer.concept_width)
    kept = torch.where(forced, torch.zeros_like(layer.effects), layer.effects)  # columns: the concept acted on
    learned = torch.where(forced[:, None], layer.interventional_effects, kept)
    weight = torch.where(layer.edge_mask.bool(), learned, torch.eye(len(forced)))
    return exogenous @ weight + layer.bias


@pytest.mark.parametrize("depth", [2, 3])
def test_reference_agrees_with_the_papers_dense_matrices(depth):
    shape = config(form="reduced", composition="published", reference=True, depth=depth)
    embedding, intervention = randomised(EmbeddingLayer(shape)), randomised(InterventionLayer(shape))
    noise = torch.randn(8, 12)
    exogenous = embedding(noise, MASKS).transpose(0, 1).flatten(1)
    concepts = intervention(exogenous, MASKS)
    for k, mask in enumerate(MASKS):
        expected = paper_embedding(embedding, noise[k : k + 1], mask)
        assert torch.allclose(exogenous[k : k + 1], expected, atol=1e-5)
        assert torch.allclose(concepts[k : k + 1], paper_intervention(intervention, expected, mask), atol=1e-5)


def test_reference_normalises_over_the_whole_batch():
    layer = EmbeddingLayer(config(form="reduced", reference=True)).train()
    layer(torch.randn(8, 12) + 3, MASKS)
    assert layer.norms[0].num_batches_tracked == 1
    assert layer.norms[0].running_mean.shape == (6,)
    assert "BatchNorm1d(6" in repr(layer)
    assert not any(isinstance(norm, torch.nn.BatchNorm1d) for norm in EmbeddingLayer(config()).norms)
