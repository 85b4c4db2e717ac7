"""The distance between the noise that images have and the noise that is drawn."""

import torch
from torch import nn

from context_module import adapt, wrap_decoder
from context_module.data import ArrayContextDataset
from context_module.training.encodings import encode_dataset
from context_module.training.objectives.directions import Directions
from context_module.training.objectives.gap import prior_gap
from helpers.draws import seeded

NAMES = ("obs", "a", "b")
WIDTHS = {"noise_width": 4, "concept_width": 4, "free_blocks": 0, "inversion_width": 0}


def make(make_base, n=300):
    base = adapt(make_base("modules"))
    generator = seeded(0)
    images = torch.randint(0, 256, (3 * n, *base.image_shape), dtype=torch.uint8, generator=generator)
    data = ArrayContextDataset(images, torch.arange(3).repeat_interleave(n), NAMES, ("a", "b"))
    torch.manual_seed(0)
    model = wrap_decoder(base, ["a", "b"], **WIDTHS, latent_noise=True)
    for head in (model.posterior_heads.mean, model.posterior_heads.log_var):  # the prior, whatever the image
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return model, encode_dataset(base, data, progress=False), Directions(torch.ones(8))


def test_a_posterior_that_is_the_prior_leaves_no_gap(make_base):
    gaps = prior_gap(*make(make_base))
    assert list(gaps) == ["gap/obs", "gap_do/a", "gap_do/b", "gap/floor", "gap/a", "gap/b"]
    assert all(gap < 1.5 * gaps["gap/floor"] for gap in gaps.values())


def test_noise_that_is_not_drawn_shows(make_base):
    model, encodings, directions = make(make_base)
    nn.init.constant_(model.posterior_heads.mean.bias, 2.0)
    gaps = prior_gap(model, encodings, directions)
    assert all(gap > 5 * gaps["gap/floor"] for name, gap in gaps.items() if name != "gap/floor")


def test_a_gap_in_one_concept_alone_shows_where_it_is_intervened_on(make_base):
    model, encodings, directions = make(make_base)
    with torch.no_grad():
        model.posterior_heads.mean.bias[:4] = 2.0
        model.module.embedding.observational.weight[0] = 0  # unseen without the intervention
    gaps = prior_gap(model, encodings, directions)
    assert gaps["gap/a"] > 3 * gaps["gap/floor"] > gaps["gap/obs"]
    assert gaps["gap_do/a"] > 3 * gaps["gap/floor"] > gaps["gap_do/b"]


def test_it_repeats_and_leaves_model_and_random_state_alone(make_base):
    model, encodings, directions = make(make_base)
    model.train()
    state = torch.get_rng_state()
    first = prior_gap(model, encodings, directions)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert first == prior_gap(model, encodings, directions) != prior_gap(model, encodings, directions, seed=1)
