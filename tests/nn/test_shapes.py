"""Shapes are checked in all tests (tests/helpers/shapes.py): so a wrong one does not go unseen."""

import pytest
import torch
from jaxtyping import TypeCheckError

from context_module import ContextModule, ContextModuleConfig
from context_module.nn import ConceptInversionLayer, EmbeddingLayer, InterventionLayer, PosteriorHeads
from helpers.shapes import CHECKS

CONFIG = ContextModuleConfig(concepts=("a", "b"), latent_shape=(5,), num_features=4, noise_width=3, concept_width=2)
NOISE, MASK = torch.randn(4, 6), torch.zeros(4, 2, dtype=torch.bool)


def test_right_shapes_pass():
    assert ContextModule(CONFIG)(NOISE, MASK).shape == (4, 5)
    assert PosteriorHeads(CONFIG)(torch.randn(4, 4), MASK).mean.shape == (4, 6)


@pytest.mark.parametrize("kind", [EmbeddingLayer, InterventionLayer, ConceptInversionLayer])
def test_a_layer_that_loses_a_sample_is_caught(kind, monkeypatch):
    right = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *args: right(self, *args)[..., :-1, :])
    with pytest.raises(TypeCheckError):
        ContextModule(CONFIG)(NOISE, MASK)


def test_a_module_in_whole_numbers_is_caught(monkeypatch):
    monkeypatch.setattr(ConceptInversionLayer, "forward", lambda self, concepts: torch.zeros(4, 5, dtype=torch.int64))
    with pytest.raises(TypeCheckError):
        ContextModule(CONFIG)(NOISE, MASK)


def test_all_layers_with_a_contract_are_in_the_table():
    assert {EmbeddingLayer, InterventionLayer, ConceptInversionLayer, PosteriorHeads, ContextModule} <= set(CHECKS)
