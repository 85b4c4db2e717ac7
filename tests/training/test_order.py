"""Which concept leads which, by what a base finds again of what it is made to decode."""

import pytest
import torch
from torch import nn

from context_module import wrap_decoder
from context_module.adapters.modules import ModulesAdapter
from context_module.data import ArrayContextDataset
from context_module.training import fit_maps
from context_module.training.order import find_order
from helpers.draws import seeded

CONCEPTS = ("a", "b", "c")
KNOWN = 1.5


class Logits(nn.Module):
    """Of values further from zero than 1.5 the encoder knows nothing."""

    def forward(self, x):
        return x.clamp(1e-3, 1 - 1e-3).logit().clamp(-KNOWN, KNOWN)


class Bounded(ModulesAdapter):
    """Pictures of 1 x 2 x 2 pixels, the logistic function of four latents."""

    def __init__(self):
        decoder = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (1, 2, 2)))
        with torch.no_grad():
            decoder[0].weight.copy_(torch.eye(4))
            decoder[0].bias.zero_()
        super().__init__(nn.Sequential(nn.Flatten(), Logits()), decoder, (4,), (1, 2, 2))


def model_of(**edits):
    """With plain coordinates; an edit is the matrix's diagonal and the shift, of the first latent."""
    made = wrap_decoder(Bounded(), CONCEPTS, form="edits", latent_noise=True, noise_width=4).eval()
    with torch.no_grad():
        made.module.visible.fill_(0.5)
        for name, (slope, shift) in edits.items():
            k = CONCEPTS.index(name)
            made.module.edits.linear[k, 0, 0], made.module.edits.shift[k, 0] = slope - 1, shift
    return made


def rows():
    return 0.2 * torch.randn(300, 4, generator=seeded(1))


def order_of(model):
    found = find_order(model.base, model.module, rows())
    return {(CONCEPTS[j], CONCEPTS[k]): found[k, j].item() for k, j in found.nonzero().tolist()}


def test_what_flattens_comes_after_what_adds():
    """b takes a tenth of what there is, and 1 more; added up, a and b come to 2.4, and so they do with b first."""
    model = model_of(a=(1.0, 1.4), b=(0.1, 1.0))
    found = order_of(model)
    assert found.keys() == {("a", "b")}
    assert found["a", "b"] == pytest.approx(1.0, abs=0.01)  # nothing is lost any more
    model.module.find_order(find_order(model.base, model.module, rows()))
    both = torch.tensor([[1.0, 1.0, 0.0]]).expand(300, 3)
    expected = 0.1 * (rows()[:, 0] + 1.4) + 1.0
    torch.testing.assert_close(model.module.changed(rows(), both)[:, 0], expected)


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        ({"a": (1.0, 1.4), "b": (1.0, 1.0)}, "neither changes what the other does"),
        ({"a": (1.0, 0.3), "b": (0.1, 0.5)}, "the base knows what they add up to"),
        ({"a": (1.0, 9.0), "b": (0.8, 9.0)}, "the base knows neither order"),
        ({}, "there are no changes"),
    ],
)
def test_there_is_no_order_where(edits, why):
    assert order_of(model_of(**edits)) == {}, why


def test_the_pairs_that_depend_on_each_other_most_are_looked_at(monkeypatch):
    model = model_of(a=(1.0, 1.4), b=(0.1, 1.0), c=(0.8, 1.0))
    assert order_of(model).keys() >= {("a", "b"), ("c", "b")}
    monkeypatch.setattr("context_module.training.order._PAIRS", 1)
    assert order_of(model).keys() == {("a", "b")}


def test_a_base_in_training_mode_is_left_so():
    model = model_of(a=(1.0, 1.4), b=(0.1, 1.0))
    model.base.train()
    find_order(model.base, model.module, rows())
    assert model.base.training


def contexts(n=800):
    """Of the first latent: a adds, b flattens; the others are noise."""
    latents = [0.2 * torch.randn(n, 4, generator=seeded(k)) for k in range(4)]
    latents[1][:, 0] += 1.2
    latents[2][:, 0] = 0.1 * latents[2][:, 0] + 1.0
    latents[3][:, 1] += 0.5
    pixels = (255 * torch.cat(latents).sigmoid()).round().to(torch.uint8).view(-1, 1, 2, 2)
    return ArrayContextDataset(pixels, torch.arange(4).repeat_interleave(n), ("obs", *CONCEPTS), CONCEPTS)


def test_fitting_finds_it_and_a_saved_module_keeps_it(tmp_path):
    model = wrap_decoder(Bounded(), CONCEPTS, form="edits", latent_noise=True).eval()
    fit_maps(model, contexts())
    order = model.module.order
    assert order[1, 0] > 0.5
    assert order.count_nonzero() == 1
    pictures = model.generate(500, do="a+b", generator=seeded(3))
    assert 1.0 < pictures[:, 0, 0, 0].logit().mean() < 1.5  # added up they come to 2.2
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, base=Bounded())
    assert torch.equal(
        again.generate(5, do="a+b", generator=seeded(4)), model.generate(5, do="a+b", generator=seeded(4))
    )


def test_without_an_encoder_there_is_no_order():
    model = wrap_decoder(Bounded(), CONCEPTS, form="edits", latent_noise=True).eval()
    model.base.embeds = False
    fit_maps(model, contexts())
    assert not model.module.order.any()
