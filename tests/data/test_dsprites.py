import itertools
import math

import numpy as np
import pytest
import torch

from context_module.data import load_data
from context_module.data.dsprites import (
    CONCEPTS,
    GRID_RANGES,
    GRIDS,
    PAIRS,
    SHAPES,
    DSpritesSimulator,
    dsprites,
    grid_factors,
    grid_index,
    orientation_period,
    render,
)
from context_module.errors import DataError, ShapeError
from helpers.draws import seeded

COUNT = 737_280


def sprites(n: int = 1, **factors) -> torch.Tensor:
    """Factors (n, 5), in the middle of the image unless told otherwise."""
    columns = {"shape": 1.0, "scale": 1.0, "orientation": 0.0, "x": 0.5, "y": 0.5, **factors}
    return torch.stack([torch.as_tensor(columns[name], dtype=torch.float32).expand(n) for name in GRIDS], dim=1)


def anywhere(n: int, **factors) -> torch.Tensor:
    """Factors (n, 5) at places between the grid's, so that pixel effects average out."""
    x, y, turn = torch.rand(3, n, generator=seeded(0))
    return sprites(n, **{"x": x, "y": y, "orientation": 2 * math.pi * turn, **factors})


def areas(images: torch.Tensor) -> torch.Tensor:
    return (images > 0).flatten(1).sum(1).float()


def draw(n, context="obs", *, seed=0, ranges=None):
    return DSpritesSimulator(16, ranges).draw(n, context, seed=seed)


# --- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [16, 33, 64, 128])
def test_sprites_are_white_on_black_at_any_resolution(resolution):
    images = render(anywhere(60, shape=torch.arange(60) % 3 + 1), resolution)
    assert images.shape == (60, 1, resolution, resolution)
    assert images.dtype == torch.uint8
    assert images.unique().tolist() == [0, 255]
    mean = areas(images).mean() / resolution**2
    assert mean == pytest.approx(0.268**2, rel=0.03 if resolution < 64 else 0.01)


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.0])
def test_all_shapes_have_the_same_area_which_goes_with_the_square_of_the_scale(scale):
    for shape in (1, 2, 3):
        area = areas(render(anywhere(200, shape=shape, scale=scale))).mean()
        assert area == pytest.approx((0.268 * 64 * scale) ** 2, rel=0.01)


def test_half_the_scale_is_a_quarter_of_the_area():
    for shape in (1, 2, 3):
        whole, half = (areas(render(anywhere(200, shape=shape, scale=scale))).mean() for scale in (1.0, 0.5))
        assert whole / half == pytest.approx(4, rel=0.02)


def test_the_whole_data_set_has_the_mean_pixel_of_dsprites():
    images = render(grid_factors(torch.arange(0, COUNT, 251)))
    assert (images > 0).float().mean() == pytest.approx(0.0425, abs=2e-4)


def test_the_centre_of_mass_is_at_the_place_whatever_the_turn():
    factors = anywhere(300, shape=torch.arange(300) % 3 + 1)
    images = (render(factors)[:, 0] > 0).float()
    pixels = torch.arange(64) + 0.5
    across = (images.sum(1) * pixels).sum(1) / images.sum((1, 2))
    down = (images.sum(2) * pixels).sum(1) / images.sum((1, 2))
    assert (across - (16 + 32 * factors[:, 3])).abs().max() < 0.25
    assert (down - (16 + 32 * factors[:, 4])).abs().max() < 0.25


def test_the_shapes_have_their_outlines():
    square, ellipse, heart = (render(sprites(shape=kind))[0, 0] > 0 for kind in (1, 2, 3))
    assert (square.any(0).sum(), square.any(1).sum()) == (18, 18)  # 17.15 about a pixel's corner
    long = 2 * math.sqrt(2 / math.pi) * 0.268 * 64
    assert ellipse.any(0).sum() == pytest.approx(long, abs=1)
    assert ellipse.any(1).sum() == pytest.approx(long / 2, abs=1)
    assert torch.equal(heart, heart.flip(1))
    bottom, top = heart.nonzero()[-1, 0], heart.nonzero()[0, 0]
    assert heart[bottom].sum() <= 4  # a tip
    assert not heart[top, 31:33].any()  # a notch between two lobes
    assert heart[32, 31:33].all()


def test_orientation_turns_anticlockwise():
    for kind in (1, 2, 3):
        upright, turned = render(sprites(2, shape=kind, orientation=torch.tensor([0.0, math.pi / 2])))[:, 0]
        assert torch.equal(turned, torch.rot90(upright, 1))  # anticlockwise, as rows run downwards
        assert torch.equal(turned, upright) == (kind == 1)


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_a_shape_looks_the_same_after_its_period_and_not_after_half_of_it(kind):
    period = orientation_period(torch.tensor([kind])).item()
    assert period == pytest.approx({"square": math.pi / 2, "ellipse": math.pi, "heart": 2 * math.pi}[SHAPES[kind - 1]])
    factors = grid_factors(torch.arange(kind * 245_760 - 245_760, kind * 245_760, 1237))
    first, again, half = (
        render(torch.cat([factors[:, :2], turn, factors[:, 3:]], 1))
        for turn in (
            factors[:, 2:3].remainder(period),
            (factors[:, 2:3] + period).remainder(2 * math.pi),
            (factors[:, 2:3] + period / 2).remainder(2 * math.pi),
        )
    )
    assert (first != again).flatten(1).sum(1).max() <= 1  # float32 angles: a pixel on the edge may flip
    assert (first != again).flatten(1).any(1).float().mean() < 0.01
    assert (first != half).flatten(1).sum(1).min() > 5


def test_a_full_turn_is_in_the_grid_twice():
    factors = grid_factors(torch.arange(0, COUNT, 997))
    start, end = factors.clone(), factors.clone()
    start[:, 2], end[:, 2] = 0, float(GRIDS["orientation"][-1])
    assert torch.equal(render(start), render(end))


def test_no_sprite_is_cut_off():
    images = render(sprites(4, shape=2, x=torch.tensor([0.0, 0, 1, 1]), y=torch.tensor([0.0, 1, 0, 1])))
    for edge in (images[..., 0], images[..., -1], images[..., 0, :], images[..., -1, :]):
        assert edge.max() == 0
    assert images[0, 0, :32, :32].any()  # x runs to the right, y down
    assert images[1, 0, 32:, :32].any()


def test_render_refuses_what_is_no_sprite():
    with pytest.raises(ShapeError, match=r"must have shape \(n, 5\) for shape, scale.*got \(2, 4\)"):
        render(torch.zeros(2, 4))
    for shape in (0, 1.5, 4, math.nan):
        with pytest.raises(ShapeError, match="shape must be 1, 2 or 3"):
            render(sprites(shape=shape))
    with pytest.raises(ShapeError, match=r"scale must be values from 0\.5 to 1"):
        render(sprites(scale=1.2))
    with pytest.raises(ShapeError, match="x must be values from 0 to 1"):
        render(sprites(x=math.nan))
    with pytest.raises(ShapeError, match="at least 16 pixels to tell the shapes apart, got 8"):
        render(sprites(), 8)


# --- the grid ----------------------------------------------------------------------------------------------------


def test_the_grids_are_those_of_dsprites():
    assert {name: len(grid) for name, grid in GRIDS.items()} == {
        "shape": 3,
        "scale": 6,
        "orientation": 40,
        "x": 32,
        "y": 32,
    }
    assert GRIDS["scale"].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert GRIDS["orientation"][[0, 1, -1]].tolist() == pytest.approx([0, 2 * math.pi / 39, 2 * math.pi])
    assert GRIDS["x"][[0, -1]].tolist() == [0, 1]


def test_order_of_the_grid():
    every = torch.arange(COUNT)
    factors = grid_factors(every)
    assert factors.shape == (COUNT, 5)
    assert torch.equal(grid_index(factors[::7]), every[::7])
    assert factors[0].tolist() == [1, 0.5, 0, 0, 0]
    assert torch.equal(grid_factors(torch.tensor([1]))[0, 3:], torch.tensor([0, 1 / 31]))  # y is fastest
    place = 2 * 245_760 + 3 * 40_960 + 7 * 1_024 + 11 * 32 + 13
    expected = [3, 0.8, 7 * 2 * math.pi / 39, 11 / 31, 13 / 31]
    assert grid_factors(torch.tensor([place]))[0].tolist() == pytest.approx(expected)


def test_places_and_values_off_the_grid_are_refused():
    for places in (torch.tensor([COUNT]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor(3)):
        with pytest.raises(ShapeError, match="from 0 to 737279"):
            grid_factors(places)
    with pytest.raises(ShapeError, match=r"scale 0\.55\d* is not on its grid"):
        grid_index(sprites(2, scale=torch.tensor([0.5, 0.55]), x=0.0, y=1.0))
    with pytest.raises(ShapeError, match="x nan is not on its grid"):
        grid_index(sprites(x=math.nan))


# --- contexts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [*CONCEPTS.training_contexts, "shape+y", "scale+orientation"])
def test_interventions_change_only_their_targets(context):
    sample = draw(4_000, context)
    for (name, grid), column in zip(GRIDS.items(), sample.T, strict=True):
        first, last = GRID_RANGES[name][name in CONCEPTS.parse(context)]
        values, counts = column.unique(return_counts=True)
        assert values.tolist() == grid[first : last + 1].tolist()
        expected = len(sample) / len(values)
        assert (counts - expected).abs().max() < 5 * math.sqrt(expected)
    varied = sample[:, sample.std(0) > 0]
    correlations = varied.T.corrcoef() - torch.eye(varied.shape[1])
    assert correlations.abs().max() < 0.08


def test_the_parts_of_the_grids_are_apart():
    for (first, last), (do_first, do_last) in GRID_RANGES.values():
        assert first <= last < do_first <= do_last
    observed, intervened = (GRIDS["orientation"][first : last + 1] for first, last in GRID_RANGES["orientation"])
    apart = (intervened[:, None] - observed) % (math.pi / 2)  # a square cannot tell quarter turns apart
    assert np.degrees(np.minimum(apart, math.pi / 2 - apart)).min() > 15


def test_every_intervention_on_orientation_shows():
    turns = [torch.from_numpy(GRIDS["orientation"][first : last + 1]) for first, last in GRID_RANGES["orientation"]]
    for kind, scale in itertools.product((1, 2, 3), GRIDS["scale"].tolist()):
        observed, intervened = (
            render(sprites(len(turn), shape=kind, scale=scale, orientation=turn)) for turn in turns
        )
        assert (observed[:, None] != intervened).flatten(2).any(2).all()


def test_ranges_are_options():
    sample = draw(100, "scale", ranges={"scale": [[0, 3], [5, 5]]})
    assert (sample[:, 1] == 1).all()
    assert torch.equal(sample[:, 0], draw(100, "scale")[:, 0])


def test_dsprites_data():
    data = dsprites(resolution=16, samples_per_context=6, held_out_samples=3, test_samples=2)
    assert data.concepts == ["shape", "scale", "orientation", "x", "y"]
    assert data.train.context_names == ("obs", *data.concepts)
    assert data.held_out.context_names == PAIRS == tuple(map("+".join, itertools.combinations(CONCEPTS, 2)))
    assert (len(data.train), len(data.held_out), len(data.test)) == (36, 30, 12)
    assert data.train.image_shape == (1, 16, 16)
    assert data.graph == ()
    factors = draw(6, "x")
    assert torch.equal(data.train.factors[data.train.labels == 4], factors)
    assert torch.equal((data.train.select("x") * 255).to(torch.uint8), render(factors, 16))


def test_same_seed_same_bits():
    a, b, other = (dsprites(resolution=16, samples_per_context=5, held_out_samples=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.train.select("obs"), b.train.select("obs"))
    assert torch.equal(a.held_out.factors, b.held_out.factors)
    assert not torch.equal(a.train.factors, other.train.factors)


def test_load_data_by_name():
    few = {"resolution": 16, "samples_per_context": 2, "held_out_samples": 1, "seed": 3}
    ranges = {"x": [[0, 1], [2, 3]]}
    assert torch.equal(load_data("dsprites", **few).train.factors, dsprites(**few).train.factors)
    named = load_data("dsprites", ranges=ranges, **few)
    assert torch.equal(named.train.factors, dsprites(ranges=ranges, **few).train.factors)


def test_refuses_bad_options():
    with pytest.raises(DataError, match="got 0, 5 and 0"):
        dsprites(samples_per_context=0, held_out_samples=5)
    with pytest.raises(ShapeError, match="at least 16 pixels .* got 15"):
        dsprites(resolution=15)
    with pytest.raises(DataError, match="no factor 'size' .*; factors: shape, scale"):
        dsprites(ranges={"size": ((0, 1), (2, 3))})
    for ranges in (((0, 2), (4, 6)), ((2, 0), (4, 5)), ((0, 2), (4, 5), (5, 5)), ((0,), (4, 5)), ((-1, 2), (4, 5))):
        with pytest.raises(DataError, match="ranges of 'scale' must be two .* indices from 0 to 5"):
            dsprites(ranges={"scale": ranges})
    for ranges in (((0, 3), (3, 5)), ((4, 5), (0, 4)), ((0, 5), (2, 3))):
        with pytest.raises(DataError, match="ranges of 'scale' overlap"):
            dsprites(ranges={"scale": ranges})


# --- the whole grid, and the archive -------------------------------------------------------------------------------


def test_the_whole_grid_is_drawn_evenly():
    data = load_data("dsprites_grid", resolution=16, samples_per_context=400, test_samples=10)
    assert data.train.context_names == data.test.context_names == ("obs",)
    assert data.held_out is None
    for column, grid in zip(data.train.factors.T, GRIDS.values(), strict=True):
        assert column.min() == grid[0]
        assert column.max() == grid[-1]
    assert data.simulator.discrete == set(GRIDS)
    again = load_data("dsprites_grid", resolution=16, samples_per_context=50)
    assert torch.equal(again.train.factors, data.train.factors[:50])


@pytest.fixture
def small_archive(tmp_path, monkeypatch):
    """A file as the archive, of every shape at one scale and orientation, with a white corner pixel per number."""
    import context_module.data.dsprites_archive as archive

    monkeypatch.setattr(archive, "_SHAPE", (40, 64, 64))
    monkeypatch.setattr(archive, "_CHUNK", 16)
    images = np.zeros((40, 64, 64), dtype=np.uint8)
    for number in range(40):
        images[number, number // 8, number % 8] = 1
    path = tmp_path / "dsprites.npz"
    np.savez_compressed(path, imgs=images, metadata=np.array({"pickled": 1}, dtype=object))
    return path


def test_pictures_of_the_archive(small_archive):
    simulator = DSpritesSimulator(64, archive=small_archive)
    places = torch.tensor([37, 0, 15, 16])
    images = simulator.render(grid_factors(places))
    assert images.shape == (4, 1, 64, 64)
    assert images.unique().tolist() == [0, 255]
    assert images.flatten(1).argmax(1).tolist() == [64 * (place // 8) + place % 8 for place in places.tolist()]
    assert simulator.settings() != DSpritesSimulator(64).settings()  # a cache of ours is not one of the archive's


def test_files_that_are_not_the_archive(small_archive, tmp_path):
    with pytest.raises(ShapeError, match="archive are of 64x64 pixels, got resolution 32"):
        DSpritesSimulator(32, archive=small_archive)
    with pytest.raises(DataError, match="nothing.npz is not the dSprites archive, an npz file with imgs.npy in it"):
        load_data("dsprites_grid", archive=tmp_path / "nothing.npz")
    np.savez(tmp_path / "other.npz", imgs=np.zeros((3, 64, 64), dtype=np.uint8))
    with pytest.raises(
        DataError, match=r"other.npz are uint8 \(3, 64, 64\): those of dSprites are uint8 \(40, 64, 64\)"
    ):
        DSpritesSimulator(64, archive=tmp_path / "other.npz")
