"""Factorised maps between a coarse grid and spatial latents, and the modules that end and begin with them."""

import pytest
import torch
from torch import nn

from context_module import ContextModuleConfig, ContextualDecoder, wrap_decoder
from context_module.adapters.modules import ModulesAdapter
from context_module.data import ArrayContextDataset
from context_module.nn.module import ContextModule
from context_module.nn.posterior import PosteriorHeads
from context_module.nn.spatial import GridToMaps, MapsToGrid
from context_module.training.encodings import encode_dataset
from context_module.training.objectives.gap import prior_gap
from context_module.training.objectives.latent import LatentObjective, latent_terms
from context_module.training.objectives.pixel import PixelObjective
from helpers.draws import seeded

SHAPES = [(4, 16, 24), (3, 6, 20), (20, 8, 9)]
CONTEXTS = ["obs", "a", "b"]


def config(latent_shape=(4, 64, 64), **changes):
    channels, height, width = latent_shape
    widths = {"noise_width": 4, "concept_width": 3, "posterior_width": 8}
    features = {"num_features": channels * height * width}
    return ContextModuleConfig(
        **{"concepts": ("a", "b"), "latent_shape": latent_shape, **widths, **features, **changes}
    )


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_the_maps_are_the_products_of_their_factors(shape):
    maps = GridToMaps(shape)
    for tensor in (maps.bias, maps.mean, maps.spread):
        nn.init.normal_(tensor)
    grid = torch.randn(2, maps.grid_size)
    products = torch.einsum("cr,ryh,rwx->cyxrhw", maps.mix, maps.rows, maps.columns)
    expected = torch.einsum("cyxrhw,brhw->bcyx", products, grid.unflatten(1, maps.grid))
    torch.testing.assert_close(maps(grid), (expected + maps.bias) * maps.spread + maps.mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_reading_is_the_transpose_of_writing(shape):
    read, write = MapsToGrid(shape), GridToMaps(shape)
    write.load_state_dict(read.state_dict(), strict=False)
    grid, maps = torch.randn(3, read.grid_size), torch.randn(3, *shape)
    one, other = (read(maps.flatten(1)) * grid).sum(1), (maps * write(grid)).flatten(1).sum(1)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)


def test_parameters_hardly_grow_with_the_size():
    widths = {"inversion_width": 16, "posterior_width": 16}
    for kind in (ContextModule, PosteriorHeads):
        counts = {
            (side, inversion): size(kind(config((4, side, side), inversion=inversion, **widths)))
            for side in (16, 64)
            for inversion in ("dense", "factorised")
        }
        assert counts[64, "dense"] > 14 * counts[16, "dense"]
        own = 4 * (64**2 - 16**2) if kind is ContextModule else 0  # a bias for each value
        bases = 16 * 8 * 2 * (64 - 16)
        assert counts[64, "factorised"] - counts[16, "factorised"] == own + bases


def test_the_size_of_the_latent_decides():
    assert config().inversion == "factorised"
    assert config((16, 32, 32)).inversion == "factorised"
    assert config((4, 64, 63)).inversion == "dense"
    assert config(inversion="dense").inversion == "dense"
    assert config((2, 4, 4), inversion="factorised").inversion == "factorised"
    assert ContextModuleConfig(concepts=("a",), latent_shape=(20_000,), num_features=1).inversion == "dense"
    assert config(reference=True, form="reduced").inversion == "dense"
    saved = config().to_dict()
    assert ContextModuleConfig.from_dict(saved) == config()
    del saved["inversion"]  # of a file from before it was there
    assert ContextModuleConfig.from_dict(saved).inversion == "dense"
    with pytest.raises(
        ValueError, match=r"is for latents of \(channels, height, width\), got \(8,\): use inversion='den"
    ):
        ContextModuleConfig(concepts=("a",), latent_shape=(8,), num_features=1, inversion="factorised")
    with pytest.raises(ValueError, match="inversion must be one of dense, factorised, got 'sparse'"):
        config(inversion="sparse")
    with pytest.raises(ValueError, match="reference=True is the paper's module: it needs .*inversion='dense'"):
        config(reference=True, form="reduced", inversion="factorised")


def test_features_that_are_no_maps_are_read_whole():
    assert config(num_features=7).feature_maps is None
    assert PosteriorHeads(config(num_features=7)).grid is None
    assert config(num_features=2 * 4 * 64 * 64).feature_maps == (8, 64, 64)
    assert PosteriorHeads(config()).grid.maps == (4, 64, 64)


@torch.no_grad()
def test_decoder_inputs_are_linear_in_the_concept_values():
    torch.manual_seed(0)
    module = ContextModule(config())
    nn.init.normal_(module.inversion.maps.bias)
    one, other = torch.randn(2, 3, 6)
    both = module.inversion(0.25 * one + 0.75 * other)
    torch.testing.assert_close(
        both, 0.25 * module.inversion(one) + 0.75 * module.inversion(other), rtol=1e-4, atol=1e-4
    )
    curved = ContextModule(config(inversion_width=8))
    grid = curved.inversion.linear(one)
    torch.testing.assert_close(curved.inversion(one), curved.inversion.maps(grid))  # at first


@torch.no_grad()
def test_a_module_starts_from_mean_and_spread():
    torch.manual_seed(0)
    mean, spread = torch.randn(4, 64, 64), torch.rand(4, 64, 64) + 0.1
    starts = {}
    for inversion in ("dense", "factorised"):
        module = ContextModule(config(inversion=inversion, concept_width=32, noise_width=32))
        module.fit_latents(mean.flatten(), spread.flatten())
        made = module(module.sample_noise(400), torch.zeros(400, 2, dtype=torch.bool))
        starts[inversion] = ((made - mean) / spread).std().item()
    assert starts["factorised"] == pytest.approx(starts["dense"], rel=0.5)


class Halving(nn.Module):
    """Images (1, 128, 128) to embeddings (4, 64, 64), and back."""

    def __init__(self, back):
        super().__init__()
        self.conv = nn.ConvTranspose2d(4, 1, 2, 2) if back else nn.Conv2d(1, 4, 2, 2)

    def forward(self, x):
        return self.conv(x)


@pytest.fixture(scope="module")
def large():
    """A base with latents of 4 x 64 x 64, and images of it: squares that contexts move and shade."""
    torch.manual_seed(0)
    base = ModulesAdapter(Halving(False), Halving(True), (4, 64, 64), (1, 128, 128), scale=4.0)
    images, labels = torch.zeros(24, 1, 128, 128, dtype=torch.uint8), torch.arange(24) % 3
    for image, label, place in zip(images, labels, torch.randint(64, (24,)), strict=True):
        image[0, 40 : 100 if label == 1 else 60, place : place + 40] = 128 if label == 2 else 255
    return base, ArrayContextDataset(images, labels, CONTEXTS, ["a", "b"])


@pytest.mark.parametrize("objective", ["latent", "pixel"])
def test_large_latents_train(objective, large, tmp_path):
    base, dataset = large
    torch.manual_seed(0)
    options = {"noise_width": 8, "concept_width": 8, "inversion_width": 32, "free_blocks": 1}
    model = wrap_decoder(base, ["a", "b"], **options, latent_noise=objective == "latent")
    assert model.config.inversion == "factorised"
    assert model.get_nb_trainable_parameters()[0] < 600_000
    if objective == "latent":
        encodings = encode_dataset(base, dataset, progress=False)
        losses = LatentObjective(model, encodings, latent_terms(interaction=1.0))
        assert losses.directions.matrix.numel() <= 256 * 4 * 64 * 64  # not that number squared
        batch = encodings.batch(torch.arange(24))
    else:
        losses = PixelObjective(model, warmup_share=0.0)
        items = [dataset[i] for i in range(12)]
        batch = {name: torch.stack([item[name] for item in items]) for name in ("x", "mask")}
    optimiser = torch.optim.Adam([p for p in losses.parameters() if p.requires_grad], 3e-3)
    found = []
    for _ in range(12):
        optimiser.zero_grad()
        terms = losses.train()(batch)
        terms["loss"].mean().backward()
        optimiser.step()
        found.append(terms["neg_log_likelihood"].mean().item())
    assert found[-1] < found[0] - 100
    for parameter in model.module.inversion.maps.parameters():
        assert parameter.grad.abs().sum() > 0
    for parameter in model.posterior_heads.grid.parameters():
        assert parameter.grad.abs().sum() > 0
    if objective == "latent":
        assert prior_gap(model, encodings, losses.directions)["gap/obs"] >= 0
    model.eval().save_pretrained(tmp_path)
    again = ContextualDecoder.from_pretrained(tmp_path, base=base)
    one, other = (m.generate(2, do="a+b", generator=seeded(0)) for m in (model, again))
    assert torch.equal(one, other)
