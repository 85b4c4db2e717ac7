"""What costs nothing, beside a module, and what is said of the comparison."""

import dataclasses

import pytest
import torch

from context_module import wrap_decoder
from context_module.adapters.lightweight import LightweightVAE
from context_module.data import ArrayContextDataset, ContextData
from context_module.evaluation import composition_table, evaluate, headline, intervention_table, verdict
from context_module.evaluation.costless import Costless
from context_module.training import fit_maps
from helpers.draws import seeded
from helpers.toy import CONCEPTS, CONTEXTS, Identity, images, latents


@pytest.fixture(scope="module")
def data():
    return ContextData(images(400), images(60, contexts=("a+c", "b+c"), seed=1), images(60, seed=2))


def logits(pictures):
    return pictures.flatten(1).clamp(1e-3, 1 - 1e-3).logit()


def test_compositions_that_take_no_training(data):
    costless = Costless(Identity(), data, samples=60, batch_size=25, seed=0)
    start = logits(data.test.select("obs", 60))
    shifts = {name: latents(name, 4000, seeded(3)).mean(0) - latents("obs", 4000, seeded(4)).mean(0) for name in "ac"}
    moved = logits(costless.arithmetic(("a", "c"))) - start
    torch.testing.assert_close(moved.mean(0), shifts["a"] + shifts["c"], atol=0.15, rtol=0)
    assert moved.std(0).max() < 0.15  # the same for every image
    mapped = logits(costless.maps(("c",)))
    real = latents("c", 4000, seeded(5))
    torch.testing.assert_close(mapped.std(0), real.std(0), atol=0.12, rtol=0)
    torch.testing.assert_close(costless.maps(()), costless.arithmetic(()))
    real = data.held_out.select("a+c", 20)
    torch.testing.assert_close(costless.reconstructions(real), real, atol=0.02, rtol=0)


def test_with_few_observational_images(data):
    few = ContextData(images(25))
    assert len(Costless(Identity(), few, samples=60, batch_size=25, seed=0).maps(("a",))) == 25


def test_it_stands_beside_the_module(data):
    torch.manual_seed(0)
    model = wrap_decoder(Identity(), CONCEPTS, form="edits", latent_noise=True)
    fit_maps(model, data.train)
    found = evaluate(model, data, samples=30, metrics=["sliced_wasserstein"], progress=False)
    scores = found.contexts["a+c"].scores["sliced_wasserstein"]
    assert set(scores) == {"model", "base", "floor", "arithmetic", "maps", "recon", "unchanged"}
    assert scores["recon"].value < 0.5 * scores["maps"].value
    table = composition_table(found).splitlines()
    assert table[0].split(" | ")[2:5] == ["latent arithmetic", "Gaussian maps", "the base's reconstructions"]
    assert table[0].endswith("| verdict |")
    assert table[-1].startswith("Of what the base allows beyond Gaussian maps: ")
    names = [line.split(" | ")[0].strip("| ") for line in intervention_table(found).splitlines()[2:]]
    assert names == list(CONCEPTS)
    verdicts = [line.rsplit(" | ", 1)[1] for line in intervention_table(found).splitlines()[2:]]
    assert not any("no visible effect" in verdict or "hardly" in verdict for verdict in verdicts)


def test_an_intervention_that_does_nothing_is_said_to(data):
    """The module was never fitted to `c`, and images of `b` are observational ones under another name."""
    torch.manual_seed(0)
    model = wrap_decoder(Identity(), CONCEPTS, form="edits", latent_noise=True)
    fit_maps(model, data.train)
    with torch.no_grad():
        for parameter in (model.module.edits.linear, model.module.edits.shift):
            parameter[CONCEPTS.index("c")] = 0
    changed = dataclasses.replace(data, test=images(60, seed=2, idle="b"))
    found = evaluate(model, changed, samples=30, metrics=["sliced_wasserstein"], progress=False, contexts=CONCEPTS)
    verdicts = {
        line.split(" | ")[0].strip("| "): line.rsplit(" | ", 1)[1].strip(" |")
        for line in intervention_table(found).splitlines()[2:]
    }
    assert verdicts["c"] == "no visible effect"
    assert verdicts["b"] == "hardly differs from observational images"


def test_none_of_it_with_a_base_that_trains():
    model = wrap_decoder(LightweightVAE("conv3"), CONCEPTS, noise_width=2, concept_width=2)
    model.unfreeze_base()
    wide = (torch.rand(40, 1, 28, 28, generator=seeded(i)).mul(255).byte() for i in range(5))
    data = ContextData(
        ArrayContextDataset(torch.cat([next(wide) for _ in CONTEXTS]), torch.arange(160) // 40, CONTEXTS, CONCEPTS),
        ArrayContextDataset(next(wide), [0] * 40, ("a+c",), CONCEPTS),
    )
    found = evaluate(model, data, samples=20, metrics=["sliced_wasserstein"], progress=False, contexts=["a+c"])
    assert set(found.contexts["a+c"].scores["sliced_wasserstein"]) == {"model", "base", "floor"}
    assert "verdict" not in composition_table(found)


def test_what_a_base_does_not_show_is_not_laid_to_the_data():
    far = {"model": 0.5, "maps": 0.5, "recon": 0.5, "floor": 0.02}
    assert verdict({**far, "unchanged": 0.4}) == "not shown by the base"
    assert verdict({**far, "unchanged": 0.022}) == "hardly differs from observational images"
    assert verdict({**far, "unchanged": 0.4, "model": 0.1}) == "limited by the base"  # nearer than both


def test_the_headline_where_there_is_nothing_to_gain(data):
    model = wrap_decoder(Identity(), CONCEPTS, form="edits", latent_noise=True)
    fit_maps(model, data.train)
    found = evaluate(model, data, samples=30, metrics=["sliced_wasserstein"], progress=False)
    for context in found.contexts.values():
        context.scores["sliced_wasserstein"]["maps"] = context.scores["sliced_wasserstein"]["recon"]
    assert composition_table(found).endswith(
        "beyond Gaussian maps: nothing, these are as near as its reconstructions."
    )


def test_the_headline():
    assert headline({"model": 0.04, "maps": 0.04, "recon": 0.02}) == 0
    assert headline({"model": 0.02, "maps": 0.04, "recon": 0.02}) == 1
    assert headline({"model": 0.05, "maps": 0.04, "recon": 0.02}) == -0.5
    assert headline({"model": 0.05, "maps": 0.02, "recon": 0.02}) != headline({"model": 0, "maps": 0, "recon": 0})


@pytest.mark.parametrize(
    ("model", "maps", "recon", "words"),
    [
        (0.085, 0.09, 0.08, "limited by the base"),
        (0.022, 0.05, 0.015, "as real images are"),
        (0.06, 0.05, 0.015, "worse than what costs nothing"),
        (0.04, 0.05, 0.015, "better than what costs nothing"),
        (0.049, 0.05, 0.015, "as what costs nothing"),
    ],
)
def test_a_verdict_in_words(model, maps, recon, words):
    assert verdict({"model": model, "maps": maps, "recon": recon, "floor": 0.02}) == words
