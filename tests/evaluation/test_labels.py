"""What labellers that took no part find in what a model makes."""

import pytest

from context_module.errors import ConceptError, DataError
from context_module.evaluation import labels_table, score_by_labellers
from context_module.training import fit_gains
from helpers.halves import LABELLERS, fitted_halves


@pytest.fixture(scope="module")
def trained():
    model, data, encodings = fitted_halves()
    fit_gains(model, data.labellers, encodings)
    return model, data


@pytest.fixture(scope="module")
def found(trained):
    return score_by_labellers(*trained, LABELLERS, samples=200, seed=1)


def test_module_beside_what_costs_nothing_and_real_images(found):
    assert list(found) == ["obs", "top", "bottom", "top+bottom"]
    assert list(found["top+bottom"]) == ["context module", "Gaussian maps", "latent arithmetic", "real images"]
    for context, ways in found.items():
        assert ways["real images"]["asked"].value == 1  # they were sorted so
        assert ways["context module"]["asked"].value > (0.9 if context != "top+bottom" else 0.7)
        for way in ways.values():
            for name in LABELLERS:
                wrong = way[name].value if name not in context.split("+") else 1 - way[name].value
                assert wrong <= 1 - way["asked"].value + 1e-6
    for name in LABELLERS:
        assert found[name]["context module"]["asked"].low > found[name]["Gaussian maps"]["asked"].value


def test_people_stay_who_they_are(found):
    before, changed = found["obs"]["context module"], found["top"]["context module"]
    assert (before["own"].value, before["moved"].value) == (1, pytest.approx(0, abs=1e-3))
    assert changed["moved"].low > 0
    assert found["top+bottom"]["context module"]["moved"].value > changed["moved"].value
    assert "own" not in found["top"]["real images"]


def test_sharpness_is_that_of_real_images(trained, found):
    model, data = trained
    real = data.train.select("top", 200)
    made = model.generate(200, do="top", seed=5)
    edges = [images.diff(dim=2).square().mean() for images in (made, real)]
    assert found["top"]["context module"]["sharpness"].value == pytest.approx((edges[0] / edges[1]).item(), rel=0.3)


def test_the_same_seed_gives_the_same_figures(trained, found):
    assert score_by_labellers(*trained, LABELLERS, samples=200, seed=1) == found
    some = score_by_labellers(*trained, LABELLERS, contexts=["bottom+top"], samples=200, seed=1)
    assert some == {"top+bottom": found["top+bottom"]}


def test_a_table(found):
    lines = labels_table(found).splitlines()
    assert lines[0] == "| do | way | top | bottom | asked | own | moved | sharpness |"
    assert len(lines) == 2 + 2 + 3 * 4
    assert lines[2].startswith("| obs | context module | 0.")
    assert lines[-1].startswith("| top+bottom | real images | 1.00 [0.9")
    assert lines[-1].endswith("|  |  |  |")


def test_errors(trained):
    with pytest.raises(ConceptError, match="no labeller of bottom: give one for every concept"):
        score_by_labellers(*trained, {"top": LABELLERS["top"]})
    with pytest.raises(DataError, match="samples must be at least 10, got 3"):
        score_by_labellers(*trained, LABELLERS, samples=3)
