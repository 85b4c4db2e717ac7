"""Edits as long as pictures ask for."""

import pytest
import torch

from context_module.contexts import Concepts
from context_module.data import SampledDataset
from context_module.errors import ConceptError
from context_module.training import fit_gains, fit_maps
from helpers.halves import LABELLERS, fitted_halves


@pytest.fixture
def fitted():
    """(model, the labellers, encodings), with edits that stop half of the way."""
    model, data, encodings = fitted_halves()
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


def test_fitted_again_it_stays(fitted):
    model, labellers, encodings = fitted
    first = fit_gains(model, labellers, encodings)
    images = model.generate(8, do="top+bottom", seed=3)
    assert fit_gains(model, labellers, encodings) == first
    torch.testing.assert_close(model.generate(8, do="top+bottom", seed=3), images, atol=1e-4, rtol=0)


def test_it_moves_along_what_pictures_show_least(fitted):
    """A number that no labeller reads, and that goes along with a concept in the samples, stays where it is."""
    model, labellers, _ = fitted
    base = model.base
    latents = base.sample_latent(4000, torch.Generator().manual_seed(1))
    latents[:, 2] = 0.7 * latents[:, 0] + 0.7 * latents[:, 2]  # shades both halves
    with torch.no_grad():
        images = (base.decode(latents).mean * 255).round().byte()
    shown = images[:, 0].float().mean(2) / 255
    top, bottom = (shown[:, part].mean(1) > 0.6 for part in (slice(4), slice(4, 8)))
    kept = ~(top & bottom)
    labels = (top + 2 * bottom.long())[kept]
    scores = torch.zeros(len(labels), 2)
    data = SampledDataset(images[kept], labels, ("obs", "top", "bottom"), Concepts(LABELLERS), latents[kept], scores)
    fit_maps(model, data)
    before = model.module.place(model.module.edits.shift[:1]) - model.module.center
    fit_gains(model, labellers, data)
    after = model.module.place(model.module.edits.shift[:1]) - model.module.center
    assert (after[0, 2] / after[0, 0]).abs() < (before[0, 2] / before[0, 0]).abs()


def test_what_no_length_shows_ends_at_four(fitted):
    model, _, encodings = fitted
    never = dict.fromkeys(LABELLERS, lambda images: images.new_full((len(images),), -1.0))
    assert fit_gains(model, never, encodings) == {"top": 4.0, "bottom": 4.0}


def test_each_concept_takes_a_labeller(fitted):
    model, labellers, encodings = fitted
    with pytest.raises(ConceptError, match="no labeller of bottom: edits are lengthened by one for each"):
        fit_gains(model, {"top": labellers["top"]}, encodings)
