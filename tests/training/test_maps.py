"""Edits: fitted in closed form, trained, saved, and generated with."""

import pytest
import torch

from context_module import ContextualDecoder, wrap_decoder
from context_module.errors import ConceptError, DataError
from context_module.nn import CausalGraph
from context_module.training import encode_dataset, fit_effects, fit_maps
from context_module.training.gaussians import Moments, gaussian_map, reader
from context_module.training.objectives import EDIT_TERMS, EditObjective
from context_module.training.support import agreed
from helpers.draws import seeded
from helpers.toy import CONCEPTS, CONTEXTS, Identity, images, latents


def wrapped(**options):
    torch.manual_seed(0)
    return wrap_decoder(Identity(), CONCEPTS, form="edits", latent_noise=True, **options).eval()


@pytest.fixture(scope="module")
def fitted():
    model = wrapped()
    fit_maps(model, images())
    return model


def moments(latent):
    return torch.cat([latent.mean(0), latent.std(0)])


def generated(model, do, n=2000):
    pictures = model.generate(n, do=do, generator=seeded(1))
    return pictures.flatten(1).clamp(1e-3, 1 - 1e-3).logit()


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_context_is_matched(fitted, context):
    real = latents(context, 2000, seeded(9))
    assert (moments(generated(fitted, context)) - moments(real)).abs().max() < 0.12


def test_the_graph_is_found(fitted):
    assert fitted.module.config.graph == (("a", "b"),)
    graph = fitted.graph()
    assert isinstance(graph, CausalGraph)
    assert graph.edges() == (("a", "b"),)
    assert ("b", "a") not in graph.undecided
    assert graph.to_dict()["undecided"] == list(graph.undecided)


def test_what_only_a_hidden_cause_makes_is_no_edge():
    model = wrapped()
    fit_maps(model, images(confounded=True))
    assert model.module.config.graph == ()


def test_cause_and_effect_together_count_once(fitted):
    a, b = generated(fitted, "a+b")[:, [0, 2]].mean(0) / torch.tensor([0.8, 0.4])
    assert abs(a - 1.5) < 0.3
    assert abs(b + 2.0) < 0.8  # what a does to b is cut: with it, b would be 1.8 higher
    fitted.fix_graph(())
    assert generated(fitted, "a+b")[:, 2].mean() / 0.4 + 2.0 > 1.2
    fitted.fix_graph([("a", "b")])


def test_an_intervention_leaves_alone_what_it_does_not_reach(fitted):
    x = images(50, seed=5).select("obs", 50)
    noise = fitted.abduct(x)
    same, changed = (fitted.generate(noise=noise, do=do) for do in ("obs", "c"))
    torch.testing.assert_close(same, x, atol=0.02, rtol=0)
    assert (changed - same).abs().flatten(1)[:, [0, 1, 2, 3, 6, 7]].mean() < 0.02
    assert (changed - same).abs().flatten(1)[:, 4:6].mean() > 0.1


def test_strengths_go_beyond_both_ends(fitted):
    noise = fitted.module.sample_noise(100, generator=seeded(0))
    shown = [fitted.generate(noise=noise, do={"c": s})[:, 0, 1, 0].mean() for s in (-2, -1, 0, 1, 2, 3)]
    assert shown == sorted(shown)
    with pytest.raises(ConceptError, match=r"'c' must be in \[-2, 3\].* got -2.5"):
        fitted.generate(noise=noise, do={"c": -2.5})


def test_losses_are_the_base_s_own(fitted):
    x = images(20, seed=5).select("obs", 20)
    out = fitted(x, "obs", generator=seeded(0))
    assert out.kl_noise.tolist() == out.kl_base.tolist() == [0] * 20
    torch.testing.assert_close(out.reconstruction, x, atol=0.02, rtol=0)
    assert not out.loss.requires_grad


def test_saved_and_loaded(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    again = ContextualDecoder.from_pretrained(tmp_path, base=Identity())
    assert again.module.config == fitted.module.config
    pictures = [model.generate(3, do="a+c", generator=seeded(4)) for model in (fitted, again)]
    assert torch.equal(*pictures)
    assert again.graph().edges() == fitted.graph().edges()


def test_the_same_data_give_the_same_bits():
    first, second = wrapped(), wrapped()
    for model in (first, second):
        fit_maps(model, images(100))
    for a, b in zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_training_starts_from_the_closed_form_and_matches_better():
    model, data = wrapped(graph=()), images()
    encodings = encode_dataset(model.base, data, progress=False)
    objective = EditObjective(model, encodings)
    assert [term.name for term in objective.terms] == [term.name for term in EDIT_TERMS]
    before = generated(model, "b")
    optimizer = torch.optim.Adam(objective.parameters(), 1e-3)
    objective.train()
    for step in range(30):
        torch.manual_seed(step)
        losses = objective(encodings.batch(torch.randint(len(data), (64,))), step / 30)
        assert set(losses) == {"loss", "matching", "adversarial", "critic", "least_change"}
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        optimizer.step()
    objective.eval()
    fit_effects(model, encodings)
    after = generated(model, "b")
    assert not torch.equal(before, after)
    assert (moments(after) - moments(latents("b", 2000, seeded(9)))).abs().max() < 0.2


def test_an_edge_of_trained_edits_is_one_that_was_found_before():
    model, data = wrapped(), images()
    fit_maps(model, data)
    encodings = encode_dataset(model.base, data, progress=False)
    fit_effects(model, encodings)
    assert model.module.config.graph == (("a", "b"),)
    with torch.no_grad():  # as if it had only been possible before
        model.module.undecided.copy_(0.2 * (model.module.support > 0))
        model.module.support.zero_()
    fit_effects(model, encodings)
    assert model.module.config.graph == ()
    assert model.graph().undecided == (("a", "b"),)
    with torch.no_grad():
        model.module.undecided.zero_()
    fit_effects(model, encodings)
    assert model.module.config.graph == model.graph().undecided == ()


def test_what_two_searches_agree_on():
    def of(**found):
        return torch.tensor([[0.0, found.get("ab", 0.0)], [found.get("ba", 0.0), 0.0]])

    none = of()
    support, undecided = agreed((of(ba=0.4, ab=0.3), none), (of(ba=0.3), of(ab=0.1)))
    assert torch.equal(support, of(ba=0.3))
    assert torch.equal(undecided, of(ab=0.1))
    assert not any(part.any() for part in agreed((of(ba=0.4), none), (none, none)))


def test_observational_images_alone_have_no_loss():
    model, data = wrapped(), images(100)
    encodings = encode_dataset(model.base, data, progress=False)
    objective = EditObjective(model, encodings).eval()
    assert objective(encodings.batch(torch.arange(20)))["loss"].tolist() == [0] * 20


# --- closed forms


def test_the_map_between_gaussians():
    generator = seeded(0)
    first, second = (torch.randn(5000, 3, generator=generator) @ torch.randn(3, 3, generator=generator) for _ in "ab")
    a, b = Moments.of(first), Moments.of(second + 2)
    linear, shift = gaussian_map(a, b, torch.tensor([1.0, 2.0, 0.5]))
    mapped = Moments.of(first + first @ linear + shift)
    torch.testing.assert_close(mapped.mean, b.mean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(mapped.covariance, b.covariance, atol=0.05, rtol=0.05)
    weighted = torch.diag(torch.tensor([1.0, 2.0, 0.5]))
    middle = torch.linalg.inv(weighted) @ (linear + torch.eye(3)) @ weighted
    torch.testing.assert_close(middle, middle.mT, atol=1e-3, rtol=1e-3)  # what moves least is a gradient


def test_a_reader_reads_what_its_writer_writes():
    change, weigh = torch.randn(100, 5, generator=seeded(1)), torch.tensor([1.0, 0.5, 2.0, 1.0, 0.1])
    reads, writes = reader(change.mT @ change / 100, torch.eye(5), weigh, 2, 1.0)
    torch.testing.assert_close(writes @ reads, torch.eye(2), atol=1e-4, rtol=1e-4)


def test_few_images_shrink_the_covariance():
    rows = torch.randn(6, 40, generator=seeded(2))
    found = Moments.of(rows).covariance
    assert torch.linalg.eigvalsh(found).min() > 0.1
    many = torch.randn(20_000, 40, generator=seeded(2))
    torch.testing.assert_close(Moments.of(many).covariance, many.mT.cov(), atol=0.05, rtol=0)


def test_fewer_images_than_dimensions_are_enough():
    model = wrapped()
    fit_maps(model, images(5))
    assert model.generate(4, do="a+b+c", generator=seeded(0)).isfinite().all()


# --- refused, and warned of


def test_refuses_and_warns():
    with pytest.raises(ValueError, match="form='edits', this one has form='structural'"):
        fit_maps(wrap_decoder(Identity(), CONCEPTS, latent_noise=True), images(5))
    with pytest.raises(DataError, match="there are no images of 'c'"):
        fit_maps(wrapped(), images(5, contexts=("obs", "a", "b")))
    with pytest.raises(DataError, match="context 'obs' has 1 image, a covariance takes two at least"):
        fit_maps(wrapped(), images(1))
    with pytest.raises(DataError, match="all images of context 'a' look the same to the base"):
        fit_maps(wrapped(), images(50, copies="a"))
    with pytest.warns(UserWarning, match="images of context 'c' do not differ from observational ones"):
        fit_maps(wrapped(), images(200, idle="c"))
