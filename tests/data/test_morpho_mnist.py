import itertools
import math
import pickle
import sys

import numpy as np
import pytest
import torch

from context_module.data import load_data
from context_module.data.mnist import Digits, load_mnist
from context_module.data.morpho_mnist import CONCEPTS, PAIRS, STRENGTHS, MorphoMNISTSimulator, morpho_mnist
from context_module.errors import ConceptError, DataError, ShapeError

ndimage = pytest.importorskip("scipy.ndimage")
skeletonize = pytest.importorskip("skimage.morphology").skeletonize
from context_module.data.strokes import perturb, sample_down, to_strokes  # noqa: E402

N = 20
ALL = (*CONCEPTS, "fracture")
FINE = 4  # pixels of the strokes' canvas per pixel
EIGHT = np.ones((3, 3))


@pytest.fixture(scope="module")
def digits(mnist_root):
    return load_mnist(mnist_root)


@pytest.fixture(scope="module")
def simulator(digits):
    return MorphoMNISTSimulator(digits, fracture=True)


@pytest.fixture(scope="module")
def render(simulator):
    """The same N digits in a context, float (N, 28, 28) in [0, 1]."""
    factors = simulator.draw(N)

    def in_context(context):
        set_to_one = {name: torch.ones(N) for name in simulator.concepts.parse(context)}
        return simulator.render(simulator.counterfactual(factors, set_to_one))[:, 0].double() / 255

    return in_context


@pytest.fixture(scope="module")
def strokes(digits):
    return [to_strokes(image) for image in digits.train_images[:N]]


def after(one, *perturbations, seed=0, **strengths):
    """Strokes after perturbations, bool."""
    return perturb(one, perturbations, np.random.default_rng(seed), {**STRENGTHS, **strengths}) > 0.5


def thickness(one):
    """Mean thickness in pixels, measured on the skeleton: a fine pixel less than twice the distance to the edge."""
    distance = ndimage.distance_transform_edt(one)[skeletonize(one)]
    return (2 * distance.mean() - 1) / FINE


def box(one):
    rows, columns = np.nonzero(one)
    return np.array([np.ptp(rows), np.ptp(columns)]) + 1


def pieces(one):
    return ndimage.label(one, EIGHT)[1]


def centre(images):
    """Centres of mass (n, 2), row and column."""
    along = torch.arange(images.shape[-1], dtype=torch.float64)
    mass = images.sum((1, 2))
    return torch.stack([images.sum(2) @ along / mass, images.sum(1) @ along / mass], 1)


def slant(images):
    """The tangent of the angle by which digits lean to the right, from second moments (n,)."""
    y, x = (torch.arange(images.shape[-1])[None] - middle[:, None] for middle in centre(images).T)
    return -torch.einsum("nij,ni,nj->n", images, y, x) / torch.einsum("nij,ni->n", images, y**2)


# --- single perturbations ----------------------------------------------------------------------------------------


def test_without_an_intervention_it_is_the_digit(simulator, digits, render):
    source = simulator.draw(N)[:, 0].long()
    original = torch.from_numpy(digits.train_images[source]).double() / 255
    # strokes are made binary in between: soft edges of the original become sharper
    assert (render("obs") - original).abs().mean() < 0.3 * original.mean()
    assert (centre(render("obs")) - centre(original)).abs().max() < 0.25
    assert ((render("obs") > 0.5) == (original > 0.5)).double().mean() > 0.98


def test_thin_leaves_a_fraction_of_the_thickness_and_does_not_break_strokes(strokes):
    before, now = (np.array([thickness(s) for s in some]) for some in (strokes, [after(s, "thin") for s in strokes]))
    assert 0.25 < np.median(now / before) < 0.5  # 0.3, and what is rounded to whole fine pixels
    assert (now / before).max() < 0.75
    for one in strokes:
        thinner = after(one, "thin")
        assert (one | ~thinner).all()  # only takes away
        assert pieces(thinner) == pieces(one)
    bar = np.zeros((112, 112), bool)
    bar[20:90, 50:62] = True
    for strength, left in ((0.4, 8), (0.7, 4), (0.9, 3)):
        assert after(bar, "thin", thin=strength).sum(1)[55] == left


def test_thic_doubles_the_thickness(strokes):
    for one in strokes:
        thicker = after(one, "thic")
        assert (thicker | ~one).all()  # only adds
        # along an edge half the thickness is added
        distance = ndimage.distance_transform_edt(one)
        half = distance[skeletonize(one)].mean()
        added = ndimage.distance_transform_edt(~one)[thicker].max()
        assert half - 1 < added <= half
    bar = np.zeros((112, 112), bool)
    bar[20:90, 50:62] = True
    for strength, added in ((0.5, 2), (1.0, 5), (2.0, 11)):  # just below 3, 6 and 12, in whole fine pixels
        assert after(bar, "thic", thic=strength).sum(1).max() == 12 + 2 * added


def test_swel_grows_one_place(strokes):
    grown = []
    for i, one in enumerate(strokes):
        swollen = after(one, "swel", seed=i)
        grown.append(swollen.sum() / one.sum())
        rows, columns = np.nonzero(swollen != one)
        radius = FINE * 3.5 * math.sqrt(thickness(one) + 0.5)
        assert max(np.ptp(rows), np.ptp(columns)) < 2 * radius  # all within a disc
    assert min(grown) > 1
    assert 1.1 < np.mean(grown) < 1.7
    places = {tuple(ndimage.center_of_mass(after(strokes[0], "swel", seed=seed) & ~strokes[0])) for seed in range(9)}
    assert len(places) > 5


def test_swel_magnifies_as_the_formula_says():
    bar = np.zeros((112, 112), bool)
    bar[:, 50:62] = True
    swollen = after(bar, "swel", seed=3)
    half = ndimage.distance_transform_edt(bar)[skeletonize(bar)].mean()
    radius = FINE * 3.5 * math.sqrt(2 * half / FINE)
    # the bar's edge, 6 from its middle, is shown where R (r / R) ** 3 = 6
    assert swollen.sum(1).max() == pytest.approx(2 * radius * (6 / radius) ** (1 / 3), abs=2.5)
    assert after(bar, "swel", seed=3, swel=5).sum(1).max() > swollen.sum(1).max()


def test_fracture_makes_gaps(strokes, render):
    bar = np.zeros((112, 112), bool)
    bar[10:100, 50:62] = True
    for seed in range(5):
        broken = after(bar, "fracture", seed=seed)
        assert pieces(broken) == 4  # three cuts
        assert (bar & ~broken).sum() == pytest.approx(3 * 12 * 1.5 * FINE, rel=0.25)
    for one in strokes:
        broken = after(one, "fracture")
        assert 0.6 < broken.sum() / one.sum() < 0.97
        assert (one | ~broken).all()
    assert np.mean([pieces(after(s, "fracture")) for s in strokes]) > 2.5 > np.mean([pieces(s) for s in strokes])
    whole, broken = (np.mean([pieces(x > 0.5) for x in render(c)]) for c in ("obs", "fracture"))
    assert broken > whole + 1  # still seen at 28 pixels


def test_scaled_shrinks_the_bounding_box(strokes, render):
    for one in strokes:
        assert np.abs(box(after(one, "scaled")) - 0.65 * box(one)).max() < 2
        assert np.abs(box(after(one, "scaled", scaled=0.4)) - 0.4 * box(one)).max() < 2
    assert (render("scaled").sum((1, 2)) / render("obs").sum((1, 2)) - 0.65**2).abs().max() < 0.02
    middle = 13.5 + 0.65 * (centre(render("obs")) - 13.5)
    assert (centre(render("scaled")) - middle).abs().max() < 0.1


def test_shift_moves_by_four_pixels_in_every_direction(render):
    moved = centre(render("shift")) - centre(render("obs"))
    assert moved.norm(dim=1).median() == pytest.approx(4, abs=0.02)
    assert (moved.norm(dim=1) - 4).abs().max() < 0.3  # a wide digit loses a little at the edge
    angles = torch.atan2(*moved.T)
    assert set((angles / (math.pi / 2)).floor().tolist()) == {-2, -1, 0, 1}


def test_shift_turns_away_from_the_edge():
    corner = np.zeros((112, 112), bool)
    corner[4:34, 70:108] = True
    for seed in range(20):
        moved = after(corner, "shift", seed=seed)
        assert moved.sum() == pytest.approx(corner.sum(), rel=0.02)
        down, right = np.subtract(ndimage.center_of_mass(moved), ndimage.center_of_mass(corner))
        assert math.hypot(down, right) == pytest.approx(16, abs=0.5)
        assert down > -4.5
        assert right < 4.5


def test_shear_slants_to_the_right_by_half_a_radian(render, strokes):
    change = slant(render("shear")) - slant(render("obs"))
    assert change.median() == pytest.approx(math.tan(0.5), abs=0.01)
    assert (change - math.tan(0.5)).abs().max() < 0.1
    for one in strokes[:5]:
        left, before = (slant(torch.from_numpy(x[None].astype(float))) for x in (after(one, "shear", shear=-0.3), one))
        assert (left - before).item() == pytest.approx(math.tan(-0.3), abs=0.03)


def test_sheared_digits_stay_on_the_canvas():
    tall = np.zeros((112, 112), bool)
    tall[16:96, 70:100] = True
    sheared = after(tall, "shear")
    assert sheared.sum() == pytest.approx(tall.sum(), rel=0.02)
    assert sheared.any(0).nonzero()[0].max() >= 110  # moved no further than to the edge


# --- compositions ------------------------------------------------------------------------------------------------


def test_compositions_are_all_pairs_but_the_contradictory_one(simulator):
    assert PAIRS[:3] == ("scaled+shear", "scaled+shift", "scaled+swel")
    assert len(PAIRS) == 14
    assert "thic+thin" not in PAIRS
    assert set(simulator.compositions) == {*PAIRS, *(f"{name}+fracture" for name in CONCEPTS)}


def ink(images):
    return images.sum((1, 2))


@pytest.mark.parametrize("pair", [*PAIRS, *(f"{name}+fracture" for name in CONCEPTS)])
def test_a_pair_does_what_each_of_it_does(pair, render):
    """What each perturbation changes about a digit, it changes about one that was perturbed otherwise as well."""
    effects = {
        "scaled": lambda a, b: (ink(b) / ink(a)).median() < 0.5,
        "shear": lambda a, b: (slant(b) - slant(a)).median() > 0.5,
        "shift": lambda a, b: (centre(b) - centre(a)).norm(dim=1).median() > 3.8,
        "swel": lambda a, b: (ink(b) / ink(a)).median() > 1.04,
        "thic": lambda a, b: (ink(b) / ink(a)).median() > 1.4,
        "thin": lambda a, b: (ink(b) / ink(a)).median() < 0.7,
        "fracture": lambda a, b: (ink(b) / ink(a)).median() < 0.95,
    }
    both = render(pair)
    for name, other in itertools.permutations(pair.split("+")):
        assert effects[name](render(other), both), name


def test_the_order_of_names_does_not_matter_and_that_of_perturbations_is_fixed(strokes):
    one = strokes[0]
    for pair in itertools.combinations(ALL, 2):
        assert np.array_equal(after(one, *pair), after(one, *reversed(pair)))
    alone = after(one, "thic")
    assert np.array_equal(after(one, "scaled", "thic"), after(alone, "scaled"))  # morphology comes first


# --- the simulator -----------------------------------------------------------------------------------------------


def test_factors(simulator, digits):
    factors = simulator.draw(50, "thic+shear")
    n_train = len(digits.train_images)
    assert simulator.factor_names == ("source", "digit", *ALL)
    assert (factors[:, 0] >= n_train).all()  # compositions show digits of the test part
    labels = torch.from_numpy(digits.test_labels)
    assert torch.equal(factors[:, 1].byte(), labels[factors[:, 0].long() - n_train])
    assert factors[:, 2:].unique(dim=0).tolist() == [[0, 1, 0, 0, 1, 0, 0]]
    singles = simulator.draw(50, "thic")
    assert (singles[:, 0] < n_train).all()
    assert (simulator.draw(50, "thic", test=True)[:, 0] >= n_train).all()


def test_streams(simulator):
    assert torch.equal(simulator.draw(20, "shift"), simulator.draw(20, "shift"))
    assert torch.equal(simulator.draw(20, "shift")[:7], simulator.draw(7, "shift"))
    assert torch.equal(simulator.draw(20, ["thin", "shift"])[:7], simulator.draw(7, "shift+thin"))
    assert not torch.equal(simulator.draw(20, "shift"), simulator.draw(20, "shift", seed=1))
    assert simulator.draw(0, "shift").shape == (0, 9)


def few(digits, n_train=40, n_test=16):
    train, test = slice(n_train), slice(n_test)
    return Digits(*(a[train] for a in digits[:2]), *(a[test] for a in digits[2:]))


def test_no_digit_is_drawn_twice_while_there_are_others(digits):
    simulator = MorphoMNISTSimulator(few(digits, 70))
    for test, first, count in ((False, 0, 70), (True, 70, 16)):
        every = [simulator.draw(count // 7, context, test=test)[:, 0] for context in CONCEPTS.training_contexts]
        assert len(torch.cat(every).unique()) == count // 7 * 7  # no digit in two contexts
        once = simulator.draw(count, "swel", test=test)[:, 0]
        assert once.sort().values.tolist() == list(range(first, first + count))
        more = simulator.draw(2 * count + 3, "swel", test=test)[:, 0]
        assert torch.equal(more[:count], once)
        assert more[count : 2 * count].sort().values.tolist() == list(range(first, first + count))
    pairs = simulator.draw(16, "scaled+swel")[:, 0]
    assert pairs.sort().values.tolist() == list(range(70, 86))


def test_rendering_is_a_function_of_each_row_of_factors(simulator):
    factors = torch.cat([simulator.draw(2, context) for context in (*simulator.concepts, "swel+fracture")])
    images = simulator.render(factors)
    assert images.dtype == torch.uint8
    assert images.shape == (16, 1, 28, 28)
    assert torch.equal(simulator.render(factors.flip(0)).flip(0), images)
    assert torch.equal(torch.cat([simulator.render(row[None]) for row in factors]), images)
    assert torch.equal(pickle.loads(pickle.dumps(simulator)).render(factors), images)
    assert simulator.render(factors[:0]).shape == (0, 1, 28, 28)


def test_resolutions(digits):
    factors = MorphoMNISTSimulator(digits).draw(8, "shear")
    pictures = {size: MorphoMNISTSimulator(digits, size).render(factors) for size in (16, 28, 32, 64, 128)}
    for size, images in pictures.items():
        assert images.shape == (8, 1, size, size)
    assert torch.equal(pictures[32][:, :, 2:-2, 2:-2], pictures[28])
    assert pictures[32].sum() == pictures[28].sum()
    for size in (16, 64, 128):  # the same field of view
        seen = centre(pictures[size][:, 0].double()) + 0.5
        assert (seen * 28 / size - centre(pictures[28][:, 0].double()) - 0.5).abs().max() < 0.1
        assert (pictures[size].double().mean() / pictures[28].double().mean()).item() == pytest.approx(1, abs=0.02)


def test_pictures_are_black_away_from_strokes_and_white_within(strokes):
    for size in (28, 64, 128):  # cubic interpolation rings
        plus = sample_down(strokes[0].astype(np.float32), size)
        far = ndimage.distance_transform_edt(~strokes[0]) > 4 * FINE
        inside = sample_down(ndimage.binary_erosion(strokes[0], iterations=5).astype(np.float32), size) == 255
        assert (plus[sample_down(far.astype(np.float32), size) == 255] == 0).all()
        assert (plus[inside] == 255).all()


def test_a_blank_or_nearly_blank_picture_does_no_harm(digits):
    images = np.zeros((3, 28, 28), np.uint8)
    images[1, 14, 14] = 255
    images[2] = 255
    odd = Digits(images, np.zeros(3, np.uint8), digits.test_images[:1], digits.test_labels[:1])
    simulator = MorphoMNISTSimulator(odd, fracture=True)
    for context in (*simulator.concepts.training_contexts, *simulator.compositions):
        factors = torch.zeros(3, 9)
        factors[:, 0] = torch.arange(3)
        factors[:, 2:] = simulator.concepts.mask(context).float()
        assert simulator.render(factors)[0].max() == 0


# --- the data set ------------------------------------------------------------------------------------------------


def test_morpho_mnist_data(mnist_root, digits):
    data = morpho_mnist(mnist_root, samples_per_context=6, held_out_samples=3, test_samples=2)
    assert data.concepts == ["scaled", "shear", "shift", "swel", "thic", "thin"]
    assert data.train.context_names == data.test.context_names == ("obs", *data.concepts)
    assert data.held_out.context_names == PAIRS
    assert (len(data.train), len(data.held_out), len(data.test)) == (42, 42, 14)
    assert data.train.image_shape == (1, 28, 28)
    assert data.graph == ()
    assert len(data.train.factors[:, 0].unique()) == 42
    assert data.train.factors[:, 0].max() < len(digits.train_images)
    for part in (data.held_out, data.test):
        assert part.factors[:, 0].min() >= len(digits.train_images)
    factors = data.simulator.draw(6, "shift")
    assert torch.equal((data.train.select("shift") * 255).round().byte(), data.simulator.render(factors))
    assert data.held_out[41]["mask"].tolist() == [False, False, False, True, False, True]


def test_same_seed_same_bits_whatever_else_is_asked(mnist_root):
    a = morpho_mnist(mnist_root, samples_per_context=3, held_out_samples=0)
    b = load_data("morpho_mnist", root=str(mnist_root), samples_per_context=5, held_out_samples=1)
    assert a.held_out is None
    for context in a.train.context_names:
        assert torch.equal(a.train.select(context), b.train.select(context, 3))
    other = morpho_mnist(mnist_root, samples_per_context=3, held_out_samples=0, seed=1)
    assert not torch.equal(a.train.select("obs"), other.train.select("obs"))


def test_cached_images_are_those_in_memory(mnist_root, tmp_path):
    few = {"samples_per_context": 2, "held_out_samples": 1, "fracture": True}
    memory = morpho_mnist(mnist_root, **few)
    cached = [morpho_mnist(mnist_root, **few, cache_dir=tmp_path) for _ in range(2)]
    assert len(list(tmp_path.glob("morpho_mnist-*.npy"))) == 2
    for part in ("train", "held_out"):
        names = getattr(memory, part).context_names
        for name, data in itertools.product(names, cached):
            assert torch.equal(getattr(data, part).select(name), getattr(memory, part).select(name))
    morpho_mnist(mnist_root, **few, shift=3.0, cache_dir=tmp_path)  # another strength: other files
    assert len(list(tmp_path.glob("morpho_mnist-*.npy"))) == 4


def test_settings_tell_digits_and_strengths_apart(digits):
    one, other = few(digits, 40), few(digits, 41)
    settings = [
        MorphoMNISTSimulator(one),
        MorphoMNISTSimulator(other),
        MorphoMNISTSimulator(one, strengths={"thin": 0.5}),
        MorphoMNISTSimulator(one, fracture=True),
    ]
    assert all(a.settings() != b.settings() for a, b in itertools.combinations(settings, 2))
    assert settings[0].settings() == MorphoMNISTSimulator(one).settings()
    assert settings[2].settings()["strengths"] == {**STRENGTHS, "thin": 0.5}


def test_refuses_bad_options(mnist_root, digits, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no train-images-idx3-ubyte"):
        morpho_mnist(tmp_path)
    for name, value, expected in (
        ("scaled", 0.1, "0.2 and 1.4, got 0.1"),
        ("shear", 1.5, "-1.0 and 1.0, got 1.5"),
        ("shift", -1, "0.0 and 8.0, got -1"),
        ("swel", 0.5, "1.0 and 8.0, got 0.5"),
        ("thic", math.inf, "0.0 and 3.0, got inf"),
        ("thin", math.nan, "0.0 and 0.9, got nan"),
        ("thin", "half", "0.0 and 0.9, got 'half'"),
    ):
        with pytest.raises(DataError, match=f"the strength of '{name}' must lie between {expected}"):
            morpho_mnist(mnist_root, **{name: value})
    with pytest.raises(DataError, match="no perturbation 'bold'.*: scaled, shear, shift, swel, thic, thin"):
        MorphoMNISTSimulator(digits, strengths={"bold": 1.0})
    with pytest.raises(ShapeError, match="at least 8 pixels to show a digit, got 4"):
        morpho_mnist(mnist_root, resolution=4)
    with pytest.raises(DataError, match="got 0, 5 and 0"):
        morpho_mnist(mnist_root, samples_per_context=0, held_out_samples=5)
    with pytest.raises(ConceptError, match="unknown concept 'fracture'"):
        MorphoMNISTSimulator(digits).draw(1, "fracture")
    monkeypatch.delitem(sys.modules, "context_module.data.strokes")
    monkeypatch.delattr("context_module.data.strokes")
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    with pytest.raises(ImportError, match=r"scikit-image and scipy: pip install context-module\[data\]"):
        MorphoMNISTSimulator(digits)


def test_refuses_factors_that_are_no_picture(simulator):
    factors = simulator.draw(2)
    with pytest.raises(ShapeError, match=r"shape \(n, 9\) for source, digit, scaled.*got \(2, 8\)"):
        simulator.render(factors[:, :8])
    for source in (-1, 0.5, 1e6, math.nan):
        with pytest.raises(ShapeError, match="sources must be whole numbers from 0 to"):
            simulator.render(simulator.counterfactual(factors, {"source": torch.full((2,), source)}))
    for flag in (0.5, 2, math.nan):
        with pytest.raises(ShapeError, match="must be 0 or 1 each"):
            simulator.render(simulator.counterfactual(factors, {"thin": torch.full((2,), flag)}))
