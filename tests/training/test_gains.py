"""Edits as long as pictures ask for."""

import pytest
import torch

from context_module import wrap_decoder
from context_module.data import from_samples
from context_module.errors import ConceptError
from context_module.training import encode_dataset, fit_gains, fit_maps
from helpers.halves import LABELLERS, halves


@pytest.fixture
def fitted():
    """(model, the labellers, encodings), with edits that stop half of the way."""
    data = from_samples(halves(), LABELLERS, n=4000, progress=False)
    torch.manual_seed(0)
    base = halves()
    model = wrap_decoder(base, data.concepts, form="edits", latent_noise=True)
    encodings = encode_dataset(base, data.train, progress=False)
    fit_maps(model, encodings)
    with torch.no_grad():
        for weight in (model.module.edits.linear, model.module.edits.shift):
            weight[0] *= 0.5
    return model.eval(), data.labellers, encodings


def shown(model, context):
    images = model.generate(500, do=context, seed=1)
    return {name: (labeller(images) > 0).float().mean().item() for name, labeller in LABELLERS.items()}


def test_a_short_edit_becomes_as_long_as_its_pictures_ask_for(fitted):
    model, labellers, encodings = fitted
    before = shown(model, "top"), shown(model, "bottom"), model.generate(4, do="bottom", seed=2)
    assert before[0]["top"] < 0.8
    gains = fit_gains(model, labellers, encodings)
    assert 1 < gains["top"] < 4
    after = shown(model, "top")
    assert after["top"] > 0.9
    assert after["bottom"] < 0.1  # and it does nothing else
    assert shown(model, "top+bottom")["top"] > 0.9
    assert torch.equal(model.generate(4, seed=2), model.generate(4, do="obs", seed=2))
    # the least that is enough: a little less is not
    with torch.no_grad():
        for weight in (model.module.edits.linear, model.module.edits.shift):
            weight[0] *= 0.8
    assert shown(model, "top")["top"] < after["top"]


def test_what_is_long_enough_stays(fitted):
    model, labellers, encodings = fitted
    fit_gains(model, labellers, encodings)
    images = model.generate(8, do="top+bottom", seed=3)
    again = fit_gains(model, labellers, encodings)
    assert again == {"top": 1.0, "bottom": 1.0}
    assert torch.equal(model.generate(8, do="top+bottom", seed=3), images)


def test_what_no_length_shows_ends_at_four(fitted):
    model, _, encodings = fitted
    never = dict.fromkeys(LABELLERS, lambda images: images.new_full((len(images),), -1.0))
    assert fit_gains(model, never, encodings) == {"top": 4.0, "bottom": 4.0}


def test_each_concept_takes_a_labeller(fitted):
    model, labellers, encodings = fitted
    with pytest.raises(ConceptError, match="no labeller of bottom: edits are lengthened by one for each"):
        fit_gains(model, {"top": labellers["top"]}, encodings)
