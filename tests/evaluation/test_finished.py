"""What is said when a training ends."""

import pytest
import torch

from context_module import wrap_decoder
from context_module.data import ContextData
from context_module.evaluation import score_finished
from context_module.training import fit_maps
from helpers.toy import CONCEPTS, Identity, images


@pytest.fixture(scope="module")
def data():
    return ContextData(images(400), images(60, contexts=("a+c", "b+c"), seed=1))


def test_tables_of_concepts_and_of_compositions(data):
    torch.manual_seed(0)
    model = wrap_decoder(Identity(), CONCEPTS, form="edits", latent_noise=True)
    fit_maps(model, data.train)
    found = score_finished(model, data, images(60, seed=2), samples=30)
    assert list(found.tables) == ["interventions.md", "composition.md"]
    title = found.tables["composition.md"].splitlines()[0]
    assert title == "Sliced Wasserstein distance to real images of compositions never trained on (30 of each):"
    assert not any("posterior" in note for note in found.notes)
    assert score_finished(model, data, images(60, seed=2), samples=0).tables == {}


def test_a_collapsed_posterior_is_said(data):
    """Of a module with noise of its own, untrained: its posterior says the same of all images, that of b excepted."""
    torch.manual_seed(0)
    model = wrap_decoder(Identity(), CONCEPTS, noise_width=2, concept_width=2, latent_noise=True)
    with torch.no_grad():
        for head in (model.posterior_heads.mean, model.posterior_heads.log_var):
            head.weight.zero_()
            head.bias.zero_()
        model.posterior_heads.log_var.bias[2:4] = -3
    notes = score_finished(model, data, images(60, seed=2), samples=10).notes
    assert any(note.startswith("the posterior hardly tells the noise of a, c from any other") for note in notes)
