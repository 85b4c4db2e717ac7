"""Distances and changes under perturbations, what takes no training beside them, and scores of true latents."""

import math

import pytest
import torch

from context_module import adapt, wrap_decoder
from context_module.data import VectorContextDataset
from context_module.errors import DataError, ShapeError
from context_module.evaluation import Subject, evaluate, perturbation_table, render_report, summary_table
from context_module.metrics import (
    Responses,
    delta_scores,
    discrimination_score,
    e_distance,
    expression,
    latent_scores,
    scaled_score,
    target_scores,
)
from context_module.training import fit_maps
from helpers.draws import seeded
from helpers.screens import screen, tiny_vector_vae


def normal(n, d=4, seed=0):
    return torch.randn(n, d, generator=seeded(seed))


def test_the_e_distance_is_that_of_squared_euclidean_pairs():
    a, b = normal(30), normal(20, seed=1) + 1
    within_a, within_b = (torch.cdist(x, x).square().sum() / (len(x) * (len(x) - 1)) for x in (a, b))
    expected = 2 * torch.cdist(a, b).square().mean() - within_a - within_b
    found = e_distance(a, b)
    assert found.value == pytest.approx(expected.item(), rel=1e-4)
    assert found.low < found.value < found.high
    assert abs(e_distance(normal(4000), normal(4000, seed=1)).value) < 0.01


def test_changes_are_judged_on_the_columns_that_change():
    control = normal(400, 30)
    shift = torch.zeros(30)
    shift[3], shift[7] = 4.0, -2.0
    real = normal(400, 30, 1) + shift
    right = delta_scores(normal(400, 30, 2) + shift, real, control, top=2)
    assert right["delta_error"].value < 0.2
    assert right["delta_correlation"].value > 0.99
    other = torch.zeros(30)
    other[0] = 50.0  # elsewhere
    assert delta_scores(normal(400, 30, 2) + shift + other, real, control, top=2)["delta_error"].value < 0.2
    assert delta_scores(control, real, control, top=2)["delta_error"].value == pytest.approx(3.0, abs=0.2)
    assert delta_scores(normal(400, 30, 2) - shift, real, control, top=2)["delta_correlation"].value < -0.99
    with pytest.raises(ShapeError, match="rows must be of one width"):
        delta_scores(control[:, :3], real, control)


def test_discrimination_counts_the_others_that_are_nearer():
    real = torch.arange(12.0)[:, None]
    assert discrimination_score(real, real).value == 1
    assert discrimination_score(real.flip(0), real).value < 0.4
    assert discrimination_score(real * 0 - 5, real).value == pytest.approx(0.5)  # the same for all
    with pytest.raises(DataError, match="at least 10 items"):
        discrimination_score(real[:3], real[:3])
    with pytest.raises(ShapeError, match=r"two tables \(P, G\)"):
        discrimination_score(real, real[:3])


def test_scores_are_scaled_between_the_mean_response_and_real_rows():
    found = {"model": 0.9, "additive": 0.7, "mean_response": 0.5, "floor": 1.0}
    assert scaled_score(found) == pytest.approx(0.8)
    assert scaled_score(found, "additive") == pytest.approx(0.4)
    assert math.isnan(scaled_score(found | {"floor": 0.5}))


def rows_of(values, contexts):
    values = torch.tensor(values)
    labels = torch.arange(len(values))
    return VectorContextDataset(values, labels, contexts, ["a", "b", "c"])


def test_responses_add_up_what_single_perturbations_changed():
    data = rows_of([[1.0, 1.0], [3.0, 1.0], [1.0, 2.0], [0.0, 0.0]], ["obs", "a", "b", "c"])
    found = Responses(data)
    assert found.additive("a+b", 2).tolist() == [[3.0, 2.0]] * 2
    assert found.unchanged(1).tolist() == [[1.0, 1.0]]
    torch.testing.assert_close(found.mean_response("a+b", 1), torch.tensor([[1 + 1 / 3, 1.0]]))
    # the mean change, and those of a and b from it, each shrunk by a tenth
    expected = torch.tensor([[1 + 1 / 3 + (2 - 2 / 3) / 1.1, 1 + 1 / 1.1]])
    torch.testing.assert_close(found.linear("a+b", 1), expected)
    for answer in found.columns("obs", 1).values():
        assert answer.tolist() == [[1.0, 1.0]]
    with pytest.raises(DataError, match="no 'obs' rows, the control"):
        Responses(data.only(["a", "b"]))
    with pytest.raises(DataError, match="no rows of single perturbations"):
        Responses(data.only(["obs"]))


def test_counts_are_seen_as_scanpy_normalises_them():
    data = screen()
    x = data.train.select("obs", 3)
    assert torch.equal(expression(x, data.train), expression(2 * x, data.train))
    assert expression(x, data.train).sum() != x.sum()


class Truth(Subject):
    """The simulation itself: rows of its own, and its latents as codes, in another order."""

    kind = "vectors"

    def __init__(self, data, wrong=False):
        self.data, self.concepts = data, data.concepts
        self._rows = iter(())
        self.wrong = wrong

    def sample(self, n, context, generator):
        part = self.data.held_out if context in self.data.held_out.context_names else self.data.train
        rows = part.select("obs" if self.wrong and context in part.context_names else context)
        return rows[torch.randint(len(rows), (n,), generator=generator)]

    def codes(self, x):
        every = {row.numpy().tobytes(): code for row, code in zip(self._x, self._codes, strict=True)}
        return torch.stack([every[row.numpy().tobytes()] for row in x])

    @property
    def _x(self):
        return self.data.test.read(torch.arange(len(self.data.test)))

    @property
    def _codes(self):
        return self.data.test.factors.flip(1)

    def targets(self):
        return self.data.targets.flip(1)


def test_the_truth_scores_best():
    data = screen(perturbations=12, pairs=12, library=1e6)
    found = evaluate(Truth(data), data, samples=20, progress=False)
    assert found.whole["latents"]["mcc"].value == pytest.approx(1)
    assert found.whole["latents"]["f1"].value == 1
    assert found.whole["latents"]["r2"].value == pytest.approx(1)
    means = {name: figure.value for name, figure in found.summary["composition"]["e_distance"].items()}
    assert means["model"] < 0.3 * means["mean_response"]
    assert means["additive"] < means["mean_response"] < means["base"]
    assert found.whole["discrimination"]["model"].value > 0.95
    table = perturbation_table(found)
    assert table.splitlines()[0].startswith("|  | model | additive | linear | mean response | real rows | model, sc")
    assert len(table.splitlines()) == 6
    assert "| composition | e distance |" in summary_table(found)
    page = render_report("Truth", found)
    assert "E-distance" in page
    assert "mean response" in page
    assert found.contexts["obs"].scores.keys() == {"e_distance", "vector_mmd"}


def test_a_module_on_a_base_of_vectors_is_scored():
    data = screen()
    model = wrap_decoder(adapt(tiny_vector_vae()), data.concepts, form="edits", latent_noise=True, graph=())
    fit_maps(model, data.train)
    found = evaluate(model, data, samples=20, progress=False)
    assert set(found.summary["composition"]) == {"e_distance", "vector_mmd", "delta_error", "delta_correlation"}
    assert found.skipped["discrimination"] == "an estimate with an interval needs at least 10 items, got 3"
    alone = evaluate(model.base, data, samples=20, metrics=["perturbation"], progress=False)
    assert alone.summary["composition"]["e_distance"]["model"] == alone.summary["composition"]["e_distance"]["base"]
    with pytest.raises(DataError, match="sliced_wasserstein cannot be measured: it is of images, the model makes vec"):
        evaluate(model, data, samples=20, metrics=["sliced_wasserstein"], progress=False)


def test_latents_are_matched_one_to_one():
    factors = normal(400, 3)
    codes = torch.cat([factors[:, [2, 0]] * -3, normal(400, 2, 1)], dim=1)
    found = latent_scores(codes, factors)
    assert found["mcc"].value == pytest.approx(2 / 3, abs=0.05)
    assert found["mcc_spearman"].value == pytest.approx(2 / 3, abs=0.05)
    assert found["r2"].value == pytest.approx(2 / 3, abs=0.05)
    mixed = latent_scores(factors @ torch.tensor([[1.0, 1, 0], [1, -1, 0], [0, 1, 1]]), factors)
    assert mixed["r2"].value > 0.99
    assert mixed["mcc"].value < 0.9


def test_targets_are_matched_as_the_latents_are():
    factors = normal(400, 3)
    true = torch.tensor([[True, False, False], [False, True, True]] * 6)
    codes = -factors.flip(1)
    assert target_scores(true.flip(1), true, codes, factors)["f1"].value == 1
    assert target_scores(true, true, codes, factors)["f1"].value < 0.7
    everything = target_scores(torch.ones_like(true), true, codes, factors)
    assert everything["recall"].value == 1
    assert everything["precision"].value == 0.5
    # a dimension that stands for nothing makes what is found in it wrong
    more = torch.cat([true.flip(1), torch.ones(12, 1) > 0], dim=1)
    found = target_scores(more, true, torch.cat([codes, normal(400, 1, 5)], dim=1), factors)
    assert found["precision"].value == pytest.approx(18 / 30)
    with pytest.raises(ShapeError, match=r"targets must be \(K, 3\) and \(K, 3\), got"):
        target_scores(true[:, :2], true, codes, factors)
