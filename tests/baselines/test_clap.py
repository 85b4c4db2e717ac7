"""CLAP: its settings and labels, and that its core finds what labels tell, and little else."""

import pytest
import torch

from context_module.baselines.clap import CLAP, CLAPSettings, group_sparsity
from context_module.data import ArrayContextDataset, ContextData
from context_module.errors import DataError
from helpers.draws import seeded

SHAPE = (1, 28, 28)


def squares(n, seed=0):
    """White squares at random places, with labels of whether they are low and whether they are at the right."""
    images, g = torch.zeros(n, *SHAPE, dtype=torch.uint8), seeded(seed)
    places = torch.randint(0, 19, (n, 2), generator=g)
    for image, (top, left) in zip(images, places.tolist(), strict=True):
        image[:, top : top + 9, left : left + 9] = 255
    return ArrayContextDataset(images, torch.zeros(n).long(), ["obs"], ["low"], (places > 9).float(), ["low", "right"])


def test_labels_are_predicted_from_the_core():
    torch.manual_seed(0)
    settings = CLAPSettings(architecture="conv3", latents=6, core=3, factors=["low", "right"], sparsity=0.5)
    model = CLAP(settings, SHAPE, 200)
    view = model.view(squares(200))
    batch = {name: torch.stack([item[name] for item in view]) for name in view[0]}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    steps = 120
    for step in range(steps):
        rows = torch.randperm(200)[:50]
        losses = model({name: value[rows] for name, value in batch.items()}, step / steps)
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        optimizer.step()
    model.eval()
    test = squares(200, seed=1)
    with torch.no_grad():
        found = model.predict(test.read(torch.arange(200)))
    assert ((found > 0.5) == (test.factors > 0.5)).float().mean() > 0.85
    assert set(model.concepts_found()) <= {0, 1, 2}
    # the prior of concepts is told labels
    prior = model.label_prior(torch.eye(2))[:, :3]
    assert (prior[0] - prior[1]).norm() > 0.1


def test_unused_dimensions_cost_nothing():
    predictor, decoder = torch.zeros(2, 3), torch.zeros(5, 6)
    decoder[0, 1] = 4.0
    predictor[0, 1] = 3.0
    decoder[:, 3:] = 1.0  # of styles: not penalised
    assert group_sparsity(predictor, decoder) == 5.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"core": 0}, "core must be between 0 and the 30 latents, got 0"),
        ({"core": 30}, "core must be between 0 and the 30 latents, got 30"),
        ({"beta_from": 0.8}, "beta_from < beta_to <= 1 must hold, got 0.8 and 0.75"),
        ({"label_weight": -1.0}, "label_weight must be at least 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        CLAPSettings(**settings)


def test_labels_that_there_are_not():
    data = ContextData(squares(20))
    assert CLAPSettings().completed(data).factors == ["low"]
    with pytest.raises(DataError, match="the data has no labels of 'shape'; it has those of low, right"):
        CLAPSettings(factors=["shape"]).completed(data)
    with pytest.raises(ValueError, match="clap learns from labels: give the names of its factors"):
        CLAP(CLAPSettings(architecture="conv3"), SHAPE, 20)
    model = CLAP(CLAPSettings(architecture="conv3", factors=["low"]), SHAPE, 20)
    plain = ArrayContextDataset(torch.zeros(2, *SHAPE, dtype=torch.uint8), [0, 0], ["obs"], ["low"])
    with pytest.raises(DataError, match="learns from labels, and the data has no factors"):
        model.view(plain)
