"""Edits of vectors as a subject: codes, targets and transfer."""

from dataclasses import replace

import pytest
import torch

from context_module import wrap_decoder
from context_module.data import VectorContextDataset
from context_module.errors import ConceptError
from context_module.evaluation import ModuleSubject, ScreenSubject, evaluate, subject_of
from context_module.training import encode_dataset, fit_maps, map_to
from helpers.screens import mixed_screen, screen, tiny_vector_vae


def fitted(data, **options):
    model = wrap_decoder(tiny_vector_vae(), data.concepts, **{"form": "edits", "latent_noise": True, **options})
    if model.config.form == "edits":
        fit_maps(model, data.train)
    return model.eval()


@pytest.fixture(scope="module")
def data():
    return screen(perturbations=14, pairs=0, samples_per_context=60)


@pytest.fixture(scope="module")
def model(data):
    return fitted(data, graph=())


def test_edits_of_vectors_are_such_a_subject_and_nothing_else_is(model, data):
    assert isinstance(subject_of(model), ScreenSubject)
    others = subject_of(model, pooled=True), subject_of(fitted(data, form="structural"))
    assert [type(other) for other in others] == [ModuleSubject, ModuleSubject]


def test_it_is_scored_on_the_latents_it_finds(model, data):
    found = evaluate(model, data, samples=20, metrics=["latents"], progress=False).whole["latents"]
    assert set(found) == {"mcc", "mcc_spearman", "r2", "precision", "recall", "f1"}
    assert found["recall"].value > 0.3
    # in whatever order the data names perturbations
    turned = []
    for part in (data.train, data.test):
        rows = part.read(torch.arange(len(part))).int()
        names = part.context_names, list(data.concepts)[::-1], part.factors, data.test.factor_names
        turned.append(VectorContextDataset(rows, part.labels, *names, columns=part.columns))
    other = replace(data, train=turned[0], test=turned[1], targets=data.targets.flip(0))
    again = evaluate(model, other, samples=20, metrics=["latents"], progress=False).whole["latents"]
    assert again["f1"].value == found["f1"].value


def test_what_it_knows_is_transferred_to_further_perturbations(data):
    known = data.of_concepts(["p1", "p2", "p3"])
    model = fitted(known, graph=())
    found = evaluate(model, data, samples=20, metrics=["transfer"], progress=False).whole
    assert found["transfer"]["nll_iwelbo"].value < found["transfer"]["nll_elbo"].value
    assert evaluate(model, known, samples=20, metrics=None, progress=False).skipped["transfer"] == (
        "the model was trained on all perturbations: leave some out, --contexts"
    )


def test_a_perturbation_is_explained_by_its_own_map():
    data, base = mixed_screen(6)
    known = data.of_concepts(["p1", "p2", "p3"])
    model = wrap_decoder(base, known.concepts, form="edits", latent_noise=True, graph=())
    fit_maps(model, known.train)
    subject, train = subject_of(model), data.train
    own = subject.transfer(train, data.test, ["p4"], 0)[1].mean()
    rows = train.select("p5")
    renamed = VectorContextDataset(rows, [0] * len(rows), ["p4"], data.concepts, columns=train.columns)
    assert own > subject.transfer(renamed, data.test, ["p4"], 0)[1].mean() + 1


def test_a_gaussian_has_the_moments_of_what_an_edit_makes(model, data):
    module, some = model.module, encode_dataset(model.base, data.train)
    linear, shift = map_to(module, some, "p2")
    made = module.edited(linear, shift)
    real = some.batch(some.places("p2"))["mean"]
    extra = module.scale.square()
    torch.testing.assert_close(made.mean, real.mean(0), atol=1e-3, rtol=1e-3)
    assert (made.variance - extra - real.var(0)).abs().max() < 0.25 * real.var(0).max()
    # the map is that of the concept, which the module was fitted with
    k = data.concepts.index("p2")
    torch.testing.assert_close(linear, module.edits.linear[k], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(shift, module.edits.shift[k], atol=1e-3, rtol=1e-3)


def test_without_latent_noise_embeddings_have_no_density(data):
    subject = subject_of(fitted(data.of_concepts(["p1", "p2", "p3"]), graph=(), latent_noise=False))
    assert subject.unable("transfer") == "without latent noise the module's embeddings have no density"


def test_a_model_of_other_perturbations_is_refused(model, data):
    with pytest.raises(ConceptError, match=r"the model has the concepts p1, p2.*evaluate it on data of the concepts"):
        evaluate(model, data.of_concepts(["p1", "p2", "p3"]), samples=20, progress=False)
