import itertools
import math
import pickle

import pytest
import torch

from context_module.data import load_data, quad
from context_module.data.quad import (
    CONCEPTS,
    INDEPENDENT_RANGES,
    LATENTS,
    PAIRS,
    QuadSimulator,
    render,
    scm_moments,
    to_unit,
)
from context_module.errors import ConceptError, DataError, ShapeError
from helpers.draws import seeded

INDEX = {name: i for i, name in enumerate(LATENTS)}
RED, YELLOW, GREEN, CYAN, BLUE, MAGENTA = (
    [255, 0, 0],
    [255, 255, 0],
    [0, 255, 0],
    [0, 255, 255],
    [0, 0, 255],
    [255, 0, 255],
)


def picture(resolution: int = 64, **units: float) -> torch.Tensor:
    u = torch.tensor([[units.get(name, 0.0) for name in LATENTS]])
    return render(u, resolution)[0]


def area(resolution: int = 64, **units: float) -> float:
    """Of the shape, in pixels: magenta on red, so its blue channel is its coverage."""
    return picture(resolution, color=1.0, **units)[2].float().sum().item() / 255


def sample_latents(n, context="obs", *, version="independent", seed=0, ranges=None):
    return QuadSimulator(version, ranges=ranges).draw(n, context, seed=seed)


# --- latents -----------------------------------------------------------------------------------------------------


def test_moments_of_the_dependent_version_by_hand():
    mean, cov = scm_moments("obs")
    assert mean.abs().max() == 0
    v1, v2, v3, v4, v_size, v_color, v_shape, v_orientation = (
        *(1.3855493, 1.16426732, 1.00502177, 1.95646855),
        *(1.27482347, 1.42, 1.31, 1.18),
    )
    i = INDEX
    assert cov[i["quad4"], i["quad4"]] == pytest.approx(v4)
    assert cov[i["orientation"], i["orientation"]] == pytest.approx(v_orientation)
    quad3 = v3 + 0.72**2 * v4
    assert cov[i["quad3"], i["quad3"]] == pytest.approx(quad3)
    assert cov[i["quad3"], i["quad4"]] == pytest.approx(-0.72 * v4)
    shape = v_shape + 1.45**2 * v_orientation
    assert cov[i["shape"], i["shape"]] == pytest.approx(shape)
    assert cov[i["quad2"], i["quad2"]] == pytest.approx(v2 + 1.56**2 * quad3 + 0.58**2 * shape)
    assert cov[i["color"], i["color"]] == pytest.approx(v_color + 1.34**2 * shape)
    on_size = -0.81 + 1.67 * -1.34 * 1.45  # orientation's total effect
    size = v_size + 1.67**2 * (v_color + 1.34**2 * v_shape) + on_size**2 * v_orientation
    assert cov[i["size"], i["size"]] == pytest.approx(size)
    on_quad1 = {  # total effects of the noises, path by path
        "quad2": -1.23,
        "quad3": -1.23 * 1.56,
        "quad4": 1.34 - 0.72 * 1.56 * -1.23,
        "color": -0.95,
        "shape": -0.95 * -1.34 - 1.23 * 0.58,
    }
    on_quad1["orientation"] = 1.12 + 1.45 * on_quad1["shape"]
    noises = {"quad2": v2, "quad3": v3, "quad4": v4, "color": v_color, "shape": v_shape, "orientation": v_orientation}
    expected = v1 + sum(on_quad1[name] ** 2 * noises[name] for name in noises)
    assert cov[i["quad1"], i["quad1"]] == pytest.approx(expected)


def test_an_intervention_replaces_its_target_and_moves_only_descendants():
    i = INDEX
    obs, (mean, cov) = scm_moments("obs"), scm_moments("quad3")
    assert mean[i["quad3"]] == pytest.approx(-1.60596209)
    assert cov[i["quad3"], i["quad3"]] == pytest.approx(1.57343313)
    assert cov[i["quad3"], i["quad4"]] == pytest.approx(0)  # cut from its cause
    assert mean[i["quad2"]] == pytest.approx(1.56 * -1.60596209)
    assert mean[i["quad1"]] == pytest.approx(-1.23 * 1.56 * -1.60596209)
    others = [i[name] for name in ("quad4", "size", "color", "shape", "orientation")]
    torch.testing.assert_close(mean[others], obs[0][others])
    torch.testing.assert_close(cov[others][:, others], obs[1][others][:, others])
    mean, _ = scm_moments("quad2+quad3")  # the second target no longer listens to the first
    assert mean[i["quad2"]] == pytest.approx(1.47496736)
    assert mean[i["quad1"]] == pytest.approx(-1.23 * 1.47496736)


@pytest.mark.parametrize("context", [*CONCEPTS.training_contexts, "quad1+size", "quad2+quad3"])
def test_dependent_samples_have_the_moments(context):
    n = 20_000
    sample = sample_latents(n, context, version="dependent").double()
    mean, cov = scm_moments(context)
    std = cov.diagonal().sqrt()
    assert ((sample.mean(0) - mean).abs() < 5 * std / math.sqrt(n)).all()
    assert ((sample.T.cov() - cov).abs() < 8 * torch.outer(std, std) / math.sqrt(n)).all()


def test_observational_unit_values_are_uniform_and_interventional_ones_are_not():
    unit = to_unit(sample_latents(20_000, version="dependent"))
    assert ((unit.mean(0) - 0.5).abs() < 0.015).all()
    assert ((unit.var(0) - 1 / 12).abs() < 0.005).all()
    assert to_unit(torch.zeros(1, 8)).tolist() == [[0.5] * 8]
    shifted = to_unit(sample_latents(20_000, "quad4", version="dependent")).mean(0)
    assert shifted[INDEX["quad4"]] < 0.2
    assert abs(shifted[INDEX["size"]] - 0.5) < 0.015


@pytest.mark.parametrize("context", [*CONCEPTS.training_contexts, *PAIRS])
def test_independent_interventions_change_only_their_targets(context):
    sample = sample_latents(4_000, context)
    for name, column in zip(LATENTS, sample.T, strict=True):
        low, high = INDEPENDENT_RANGES[name][name in CONCEPTS.parse(context)]
        assert low <= column.min() < low + 0.01
        assert high - 0.01 < column.max() <= high + 1e-6
        assert column.mean() == pytest.approx((low + high) / 2, abs=0.025 * (high - low))
    correlations = sample.T.corrcoef() - torch.eye(8)
    assert correlations.abs().max() < 0.08


def test_independent_ranges_are_apart_where_concepts_are_and_full_elsewhere():
    for name, ((low, high), (do_low, do_high)) in INDEPENDENT_RANGES.items():
        if name in CONCEPTS:
            assert low < high < do_low < do_high
        else:
            assert (low, high) == (do_low, do_high) == (0, 1)
    assert INDEPENDENT_RANGES["orientation"][1][1] < 0.25  # a square cannot tell quarter turns apart


def test_ranges_are_options():
    sample = sample_latents(100, "size", ranges={"size": ((0.0, 0.1), (0.95, 1.0))})
    assert sample[:, INDEX["size"]].min() >= 0.95
    assert torch.equal(sample[:, 0], sample_latents(100, "size")[:, 0])


@pytest.mark.parametrize("version", ["independent", "dependent"])
def test_streams(version):
    def draw(n, context="quad1", seed=0):
        return sample_latents(n, context, version=version, seed=seed)

    assert torch.equal(draw(50), draw(50))
    assert torch.equal(draw(50)[:1], draw(1))  # more only append
    assert torch.equal(draw(5, "size+quad1"), draw(5, ["quad1", "size"]))
    assert not torch.equal(draw(50), draw(50, seed=1))
    # contexts share no noise: what no intervention touches still differs
    assert not torch.equal(draw(50, "obs")[:, INDEX["shape"]], draw(50, "quad1")[:, INDEX["shape"]])


# --- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [16, 32, 64, 65])
def test_quadrants_have_their_hues_at_their_places(resolution):
    image = picture(resolution, quad1=0.0, quad2=0.4, quad3=0.8, quad4=0.2)
    assert image.shape == (3, resolution, resolution)
    assert image.dtype == torch.uint8
    corners = [image[:, -1, 0], image[:, -1, -1], image[:, 0, 0], image[:, 0, -1]]
    assert [corner.tolist() for corner in corners] == [RED, GREEN, BLUE, YELLOW]


def test_hues_run_linearly_from_red_to_magenta():
    for i, colour in enumerate([RED, YELLOW, GREEN, CYAN, BLUE, MAGENTA]):
        assert picture(quad1=i / 5)[:, -1, 0].tolist() == colour
    assert picture(quad1=0.1)[:, -1, 0].tolist() == [255, 128, 0]
    assert picture(quad1=0.9)[:, -1, 0].tolist() == [128, 0, 255]
    assert picture(color=0.6)[:, 31, 31].tolist() == CYAN  # the shape, drawn over the quadrants


@pytest.mark.parametrize("resolution", [32, 64, 128])
@pytest.mark.parametrize("size", [0.0, 0.5, 1.0])
def test_areas_of_the_four_kinds(resolution, size):
    extent = 48 * (0.2 + 0.8 * size) * resolution / 64
    for kind, share in enumerate([math.pi / 4, 1, 1 / 2, math.pi / 8]):
        # at 32 pixels the smallest ellipse is 4.8 x 2.4 pixels: soft edges blur its area
        assert area(resolution, size=size, shape=kind / 3) == pytest.approx(share * extent**2, rel=0.02, abs=2)


def test_kind_is_rounded():
    kinds = [picture(color=1.0, size=1.0, shape=u) for u in (0.0, 0.16, 0.17, 0.49, 0.51, 0.83, 0.84, 1.0)]
    same = [torch.equal(a, b) for a, b in itertools.pairwise(kinds)]
    assert same == [True, False, True, False, True, False, True]


def test_orientation_turns_anticlockwise():
    shape = {"color": 1.0, "size": 0.7}

    def turned(u: float, kind: int) -> torch.Tensor:
        return picture(**shape, shape=kind / 3, orientation=u)[2]

    for kind in range(4):
        quarter = torch.rot90(turned(0.0, kind), 1)  # anticlockwise, as rows run downwards
        assert (turned(0.25, kind).int() - quarter.int()).abs().max() <= 1
        changed = (turned(0.125, kind).int() - turned(0.0, kind).int()).abs().max() > 100
        assert changed == (kind != 0)  # only a disc looks the same
    upright = turned(0.0, 2).float()
    assert upright[:32].sum() < upright[32:].sum()  # a triangle stands on its base
    assert not torch.equal(turned(0.5, 2), turned(0.0, 2))


def test_rendering_does_not_depend_on_the_batch():
    units = torch.rand(300, 8, generator=seeded(0))
    images = render(units, 32)
    alone = torch.cat([render(units[i : i + 1], 32) for i in range(0, 300, 50)])
    assert (images[::50].int() - alone.int()).abs().max() <= 1
    assert render(units[:0], 32).shape == (0, 3, 32, 32)


def test_render_refuses_what_is_no_picture():
    with pytest.raises(ShapeError, match=r"must have shape \(n, 8\) for quad1.*got \(2, 7\)"):
        render(torch.zeros(2, 7))
    for value in (1.1, -0.1, math.nan):
        with pytest.raises(ShapeError, match=r"use to_unit\(\)"):
            render(torch.full((1, 8), value))
    with pytest.raises(ShapeError, match="at least 8 pixels to show the shape, got 4"):
        render(torch.zeros(1, 8), 4)


# --- the data set ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["independent", "dependent"])
def test_quad_data(version):
    data = quad(version, resolution=16, samples_per_context=6, held_out_samples=3)
    assert data.concepts == ["quad1", "quad2", "quad3", "quad4", "size", "orientation"]
    assert data.train.context_names == ("obs", *data.concepts)
    assert data.held_out.context_names == PAIRS
    assert len(PAIRS) == 9
    assert (len(data.train), len(data.held_out)) == (42, 27)
    assert data.train.image_shape == (3, 16, 16)
    latents = sample_latents(6, "size", version=version)
    assert torch.equal(data.train.factors[data.train.labels == 5], latents)
    images = render(to_unit(latents) if version == "dependent" else latents, 16)
    assert torch.equal((data.train.select("size") * 255).round().to(torch.uint8), images)
    assert data.train[41]["mask"].tolist() == [False] * 5 + [True]
    assert pickle.loads(pickle.dumps(data)).held_out.context_of(26) == "quad2+orientation"


def test_same_seed_same_bits_whatever_else_is_asked():
    a = quad(resolution=16, samples_per_context=5, held_out_samples=0)
    b = quad(resolution=16, samples_per_context=9, held_out_samples=1)
    assert a.held_out is None
    for context in a.train.context_names:
        assert torch.equal(a.train.select(context), b.train.select(context, 5))
    other = quad(resolution=16, samples_per_context=5, held_out_samples=0, seed=1)
    assert not torch.equal(a.train.select("obs"), other.train.select("obs"))


def test_load_data_by_name():
    few = {"resolution": 16, "samples_per_context": 2, "held_out_samples": 1}
    for name, version in (("quad", "independent"), ("quad_dependent", "dependent")):
        assert torch.equal(load_data(name, seed=3, **few).train.factors, quad(version, seed=3, **few).train.factors)
    with pytest.raises(DataError, match="unknown data 'quads': expected quad, quad_dependent, .*, or a directory"):
        load_data("quads")


def test_refuses_bad_options():
    with pytest.raises(DataError, match="unknown version 'both'"):
        quad("both", samples_per_context=1)
    with pytest.raises(DataError, match="got 0, 5 and 0"):
        quad(samples_per_context=0, held_out_samples=5)
    with pytest.raises(DataError, match="belong to the independent version"):
        quad("dependent", ranges={"size": ((0, 1), (0, 1))})
    with pytest.raises(DataError, match="no latent 'sise'"):
        quad(ranges={"sise": ((0, 1), (0, 1))})
    with pytest.raises(DataError, match="ranges of 'size' must be two"):
        quad(ranges={"size": ((0.5, 0.1), (0, 1))})
    with pytest.raises(ConceptError, match="unknown concept 'color'"):
        sample_latents(1, "color")
