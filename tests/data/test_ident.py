"""Teapots under a spotlight, and the original's pictures from a folder."""

import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from context_module.data import load_data
from context_module.data.ident import FACTORS, IdentSimulator
from context_module.data.sphere_tracing import Camera, Light, Solid, trace
from context_module.errors import DataError, ShapeError


@pytest.fixture(scope="module")
def simulator():
    return IdentSimulator(32)


def test_data():
    data = load_data("ident", resolution=16, samples_per_context=3, held_out_samples=2, test_samples=1)
    assert data.train.context_names == ("obs", "bg", "obj", "sl")
    assert data.held_out.context_names == ("bg+obj", "bg+sl", "obj+sl", "bg+obj+sl")
    assert data.train.image_shape == (3, 16, 16)
    assert data.train.factor_names == FACTORS
    assert data.graph == ()
    again = load_data("ident", resolution=16, samples_per_context=3, held_out_samples=0)
    assert torch.equal(again.train[5]["x"], data.train[5]["x"])


def test_the_picture_shows_every_factor(simulator):
    scene = simulator.draw(1, seed=3)
    low = {name: simulator.ranges[name][0][0] for name in FACTORS}
    for column, name in enumerate(FACTORS):
        pair = scene.repeat(2, 1)
        pair[0, column], pair[1, column] = 0.7 * low[name], 0.35 * low[name] + 0.4
        first, second = simulator.render(pair).float()
        assert (first - second).abs().amax() > 20, name


def test_a_picture_does_not_depend_on_the_batch(simulator):
    factors = simulator.draw(11)
    assert torch.equal(simulator.render(factors)[9:], simulator.render(factors[9:]))


def test_hues_follow_their_causes_in_the_causal_version():
    simulator = IdentSimulator(16, "causal")
    assert simulator.graph == (("bg", "obj"), ("obj", "sl"))
    factors = simulator.draw(500)
    hues = torch.corrcoef(factors[:, -3:].T)
    assert hues[0, 1] > 0.3
    assert hues[1, 2] > 0.3
    changed = simulator.counterfactual(factors, {"bg": factors[:, -3] + 0.2})
    torch.testing.assert_close(changed[:, -2] - factors[:, -2], torch.full((500,), 0.1))
    torch.testing.assert_close(changed[:, -1] - factors[:, -1], torch.full((500,), 0.05))
    assert torch.equal(changed[:, :7], factors[:, :7])


def test_a_ball_is_where_geometry_says():
    """At the origin, of radius 1, seen from (0, -10, 0.01) with light from behind the camera."""
    camera = Camera(eye=(0.0, -10.0, 0.01), target=(0.0, 0.0, 0.0), reach=0.2)
    ball = Solid(
        lambda points: points.square().sum(0).sqrt() - 1,
        1.01,
        torch.zeros(3, 1),
        torch.eye(3)[..., None],
        torch.ones(3, 1),
    )
    light = Light(torch.tensor([[0.0], [-50.0], [0.0]]), torch.zeros(3, 1), torch.ones(3, 1), (0.9, 0.8))
    picture = trace(camera, ball, light, torch.zeros(3, 1), 100)[0, 0]
    covered = (picture > 0.1).float()
    radius = (covered.sum() / torch.pi).sqrt() / 100 * 0.4  # as tangent of an angle
    assert radius.item() == pytest.approx(1 / 99**0.5, rel=0.03)
    assert picture[50, 50] == 1.0  # it faces the light
    assert picture[50, 30] < picture[50, 45]  # and falls off to its sides


def test_a_solid_throws_a_shadow():
    camera = Camera(eye=(0.0, -8.0, 8.0), target=(0.0, 0.0, 0.0), reach=0.5)
    floor = torch.ones(3, 2)
    light = Light(torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, 9.0]]), torch.zeros(3, 2), torch.ones(3, 2), (0.9, 0.8))
    centre = torch.tensor([[0.0, 50.0], [0.0, 50.0], [3.0, 3.0]])  # in the second picture it is away
    ball = Solid(
        lambda points: points.square().sum(0).sqrt() - 1,
        1.01,
        centre,
        torch.eye(3)[..., None].expand(3, 3, 2),
        torch.zeros(3, 2),
    )
    shaded, bright = trace(camera, ball, light, floor, 65)[:, 0]
    assert bright[32, 32] > 0.9
    assert shaded[32, 32] < 0.3


# --- the original


def write_original(folder, n, seed):
    (folder / "images").mkdir(parents=True)
    latents = np.random.default_rng(seed).uniform(-1, 1, (n, len(FACTORS)))
    latents[:2, -3:] = [[-1] * 3, [1] * 3]
    for row in range(n):
        Image.new("RGB", (20, 20), (row, 0, 0)).save(folder / "images" / f"{row:06d}.png")
    np.save(folder / "raw_latents.npy", latents)
    return latents


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A .blend file with a cube, in another place than in the middle, on a plane, under a spotlight."""
    bpy = pytest.importorskip("bpy", reason="pip install bpy: 520 MB, for one version of Python")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.mesh.primitive_cube_add(size=2)
    bpy.context.object.name = "Object"
    bpy.ops.mesh.primitive_plane_add(size=40, location=(0, 0, -1.5))
    bpy.context.object.name = "Ground"
    bpy.ops.object.light_add(type="SPOT")
    bpy.context.object.name = "Spotlight"
    bpy.context.object.data.energy = 5000
    bpy.ops.object.camera_add(location=(8, 0, 8), rotation=(math.pi / 4, 0, math.pi / 2))
    bpy.context.scene.camera = bpy.context.object
    folder = tmp_path_factory.mktemp("scene")
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "scene.blend"))
    bpy.data.objects["Ground"].name = "Floor"
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "floor.blend"))
    return folder / "scene.blend"


def test_a_scene_of_the_users_is_rendered(scene, capfd):
    options = {"resolution": 32, "samples_per_context": 2, "held_out_samples": 1, "scene": scene}
    data = load_data("ident", **options)
    assert torch.equal(load_data("ident", **options).train[3]["x"], data.train[3]["x"])
    assert capfd.readouterr().out == ""
    simulator = IdentSimulator(32, scene=scene)
    middle = torch.zeros(1, len(FACTORS))
    plain = simulator.render(middle)[0].float()
    for column, name in enumerate(FACTORS):
        if name != "alpha":  # a cube's quarter turn
            changed = middle.clone()
            changed[0, column] = 0.7
            assert (simulator.render(changed)[0] - plain).abs().amax() > 20, name
    red = plain.mean((1, 2))
    assert red[0] > 2 * red[1:].max()  # all three hues are red
    # the camera looks along -x from above: a blue object that comes nearer is lower, and y is to its right
    blue = torch.zeros(3, len(FACTORS))
    blue[:, FACTORS.index("obj")], blue[1, 0], blue[2, 1] = 2 / 3, 2.5, 2.5
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    share = simulator.render(blue)[:, 2].float()
    share = share / share.sum((1, 2), keepdim=True)
    row, column = (share * rows).sum((1, 2)), (share * columns).sum((1, 2))
    assert row[1] - row[0] > 2
    assert abs(column[1] - column[0]) < 1
    assert column[2] - column[0] > 2
    assert abs(row[2] - row[0]) < 1


def test_scenes_that_cannot_be_rendered(scene, tmp_path):
    for name in ("broken.blend", "empty.blend"):
        (tmp_path / name).write_bytes(b"BLENDER"[: 7 if name == "broken.blend" else 0])
        with pytest.raises(DataError, match=rf"Blender cannot open .*{name}"):
            load_data("ident", scene=tmp_path / name)
    with pytest.raises(DataError, match=r"no scene can be read at .*nowhere.* \(No such file or directory\)"):
        load_data("ident", scene=tmp_path / "nowhere.blend")
    expected = r"floor.blend has no object named 'Ground'; it has Camera, Floor, Object, Spotlight: rename them"
    with pytest.raises(DataError, match=expected):
        load_data("ident", scene=scene.with_name("floor.blend"))


def test_a_scene_needs_blender(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "bpy", None)
    (tmp_path / "scene.blend").touch()
    with pytest.raises(ImportError, match=r"a Blender scene needs bpy: pip install context-module\[blender\]"):
        load_data("ident", scene=tmp_path / "scene.blend")
    with pytest.raises(ValueError, match=r"is of pictures there are and scene=.* of new ones: give one of them"):
        load_data("ident", scene=tmp_path / "scene.blend", root=tmp_path)


def test_contexts_are_ranges_of_hues(tmp_path):
    latents = write_original(tmp_path / "train", 200, 0)
    write_original(tmp_path / "test", 100, 1)
    data = load_data("ident", root=tmp_path, resolution=16)
    assert data.train.context_names == ("obs", "bg", "obj", "sl")
    assert data.held_out.context_names == ("bg+obj", "bg+sl", "obj+sl", "bg+obj+sl")
    shares = (latents[:, -3:] + 1) / 2
    wanted = (
        (shares[:, 0] >= 0.55)
        & (shares[:, 0] <= 0.95)
        & (shares[:, 1:] >= 0.05).all(1)
        & (shares[:, 1:] <= 0.45).all(1)
    )
    assert data.train.counts["bg"] == wanted.sum()
    found = data.train.factors[data.train.places("bg")]
    np.testing.assert_allclose(found.numpy(), latents[wanted], rtol=1e-6)
    rows = (data.train.select("bg")[:, 0, 0, 0] * 255).round()
    assert rows.tolist() == wanted.nonzero()[0].tolist()
    assert set(data.test.context_names) == {"obs", "bg", "obj", "sl"}
    assert data.left_out[0].endswith("pictures between the ranges")
    one = load_data("ident", root=tmp_path / "train", resolution=16)
    assert one.test is None
    assert one.train.counts == data.train.counts


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="version must be 'independent' or 'causal', got 'other'"):
        load_data("ident", version="other")
    with pytest.raises(ShapeError, match="16"):
        load_data("ident", resolution=8)
    with pytest.raises(DataError, match="no folder .*images: expected the one of 3DIdent, with images/ and "):
        load_data("ident", root=tmp_path)
    latents = write_original(tmp_path, 30, 0)
    np.save(tmp_path / "raw_latents.npy", latents[:, :9])
    with pytest.raises(DataError, match=r"raw_latents.npy holds float64 \(30, 9\), expected numbers \(30, 10\): "):
        load_data("ident", root=tmp_path)
    latents[3, 3] = np.nan
    np.save(tmp_path / "raw_latents.npy", latents)
    with pytest.raises(DataError, match="raw_latents.npy holds values that are not finite"):
        load_data("ident", root=tmp_path)
    np.save(tmp_path / "raw_latents.npy", np.tile(np.linspace(-1, 1, 30)[:, None], 10))
    with pytest.raises(DataError, match="has no pictures of context bg: of 30 none lies in its ranges"):
        load_data("ident", root=tmp_path)
    (tmp_path / "raw_latents.npy").write_bytes(b"x")
    with pytest.raises(DataError, match="raw_latents.npy is no NPY file that can be read"):
        load_data("ident", root=tmp_path)
    (tmp_path / "raw_latents.npy").unlink()
    with pytest.raises(DataError, match="no raw_latents.npy or latents.npy in"):
        load_data("ident", root=tmp_path)
