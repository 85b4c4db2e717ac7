"""Vectors in contexts: what they hold, what they refuse, and simulated screens."""

import pickle
import warnings

import numpy as np
import pytest
import torch

from context_module.data import VectorContextDataset, load_data, log_normalised, shift_chain, sparse_shifts
from context_module.errors import DataError, ShapeError

NAMES = ["obs", "a", "b"]
LABELS = torch.arange(3).repeat_interleave(4)


def vectors(rows=None, **options):
    rows = torch.arange(12 * 5).view(12, 5) if rows is None else rows
    return VectorContextDataset(rows, LABELS, NAMES, ["a", "b"], **options)


def test_items_are_rows_with_their_context():
    data = vectors(columns=["g1", "g2", "g3"], covariates=["batch=1", "batch=2"])
    assert (data.kind, data.columns, data.covariates) == ("vectors", ("g1", "g2", "g3"), ("batch=1", "batch=2"))
    assert data.of_counts
    assert data[5]["x"].tolist() == [25, 26, 27, 28, 29]
    assert data[5]["x"].dtype == torch.float32
    assert data[5]["mask"].tolist() == [True, False]
    assert torch.equal(pickle.loads(pickle.dumps(data)).select("b"), data.select("b"))
    assert vectors(torch.zeros(12, 2)).columns == ("x1", "x2")
    assert not vectors(torch.zeros(12, 2)).of_counts
    assert vectors(np.ones((12, 2))[:, ::-1].copy(), of_counts=True).of_counts


def test_views_and_joined_sets_hold_their_own_rows():
    data = vectors()
    singles, rest = data.only(["obs", "b"]), data.only(["a"])
    both = singles.joined(rest.subset([3, 1]))
    assert both.context_names == ("obs", "b", "a")
    assert torch.equal(both.select("a"), data.select("a")[[3, 1]])
    assert torch.equal(both.select("b"), data.select("b"))
    assert both.columns == data.columns
    with pytest.raises(DataError, match="vectors of other columns cannot be joined"):
        singles.joined(vectors(columns=list("vwxyz")).only(["a"]))


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        (torch.zeros(12, 2, 2), {}, ShapeError, r"vectors must be \(12, columns\), a row for each label, got"),
        (torch.zeros(11, 2), {}, ShapeError, "a row for each label"),
        (torch.zeros(12, 2), {"columns": ["a"]}, ShapeError, "2 numbers a row for 1 names of them"),
        (torch.zeros(12, 2), {"columns": ["a", "a"]}, DataError, "columns named more than once: a"),
        (torch.full((12, 2), torch.nan), {}, DataError, "values that are not finite"),
        (torch.full((12, 2), -1), {}, DataError, "must be counts, whole numbers of at least 0, got -1"),
        (torch.full((12, 2), 0.5), {"of_counts": True}, DataError, "must be counts.*got 0.5: take raw counts"),
        (torch.zeros(12, 2, dtype=torch.int32), {}, DataError, "row 0 has no count at all: leave empty"),
    ],
)
def test_bad_vectors_are_refused(rows, options, error, message):
    with pytest.raises(error, match=message):
        vectors(rows, **options)


def test_vectors_have_no_image_shape():
    with pytest.raises(DataError, match="holds vectors, which have no image shape: use a base, or a method, of vec"):
        _ = vectors().image_shape


def test_counts_are_normalised_as_scanpy_does():
    counts = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    expected = torch.tensor([[np.log1p(2500), np.log1p(7500)], [0, 0]], dtype=torch.float32)
    torch.testing.assert_close(log_normalised(counts), expected)


def test_sparse_shifts_are_what_they_say():
    data = sparse_shifts(perturbations=6, genes=40, latents=4, pairs=3, samples_per_context=300, test_samples=10)
    assert data.train.of_counts
    assert len(data.held_out.context_names) == 3
    assert data.targets.shape == (6, 4)
    assert set(data.targets.sum(1).tolist()) <= {1, 2, 3}
    factors, labels = data.train.factors, data.train.labels
    means = torch.stack([factors[labels == k].mean(0) for k in range(7)])
    assert means[0].abs().max() < 0.3
    assert torch.equal((means[1:].abs() > 2.5), data.targets)
    moved = means[1:][data.targets].abs()
    assert 3 < moved.min() < 5 < moved.max() < 7
    library = data.train.read(torch.arange(50)).sum(1)
    torch.testing.assert_close(library.mean(), torch.tensor(4e3), rtol=1e-2, atol=0)
    # shifts add up in pairs
    name = data.held_out.context_names[0]
    pair = data.held_out.factors[data.held_out.labels == 0].mean(0)
    parts = sum(means[1 + data.concepts.index(one)] for one in data.concepts.parse(name))
    torch.testing.assert_close(pair, parts, atol=0.4, rtol=0)


def test_interactions_shift_pairs_besides():
    plain, more = (
        sparse_shifts(perturbations=5, genes=10, pairs=2, interactions=size, samples_per_context=200)
        for size in (0.0, 1.0)
    )
    assert torch.equal(plain.train.factors, more.train.factors)
    change = (more.held_out.factors - plain.held_out.factors)[:200].mean(0)
    assert (change.abs() > 1e-3).sum() == 1
    assert 3 < change.abs().max() < 7


def test_more_cells_only_append_and_the_seed_says_all():
    few, many = (sparse_shifts(perturbations=3, genes=10, pairs=1, samples_per_context=n) for n in (4, 6))
    assert torch.equal(few.train.select("p2"), many.train.select("p2", 4))
    assert torch.equal(few.held_out.select(few.held_out.context_names[0]), many.held_out.read(torch.arange(250)))
    other = sparse_shifts(perturbations=3, genes=10, pairs=1, samples_per_context=4, seed=1)
    assert not torch.equal(few.train.select("p2"), other.train.select("p2"))


def test_a_chain_passes_shifts_on():
    data = shift_chain(samples_per_context=400)
    assert data.graph == (("u1", "u2"), ("u2", "u3"), ("u3", "u4"), ("u4", "u5"))
    assert len(data.held_out.context_names) == 10
    assert data.train.read(torch.arange(2)).shape == (2, 10)
    means = torch.stack([data.train.factors[data.train.labels == k].mean(0) for k in range(6)])
    torch.testing.assert_close(means[3], torch.tensor([0.0, 0, 5, 5, 5]), atol=0.5, rtol=0)
    assert torch.equal(data.targets, torch.eye(5) > 0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sparse_shifts", {"perturbations": 3, "pairs": 4}, "0 to 3 pairs; got 3, 15, 100, 4000 and 4"),
        ("sparse_shifts", {"library": -1.0}, "a positive library"),
        ("sparse_shifts", {"samples_per_context": 0}, "samples_per_context must be at least 1"),
        ("sparse_shifts", {"columns": ["a", "b"]}, "the base has 2 columns, a, b, ..., this data 100, g1, g2, g3"),
        ("shift_chain", {"latents": 5, "width": 4}, "at least 1 latent and as many numbers, got 5 and 4"),
        ("shift_chain", {"resolution": 32}, r"holds vectors, which have no size: use a base of vectors \(--base vec"),
        ("shift_chain", {"tokenize": len}, "the shift_chain data holds vectors, a language model takes texts"),
        (
            "quad",
            {"columns": ["a"]},
            "the quad data holds images, a base of vectors takes vectors: use the cells data",
        ),
    ],
)
def test_screens_that_cannot_be_are_refused(name, options, message):
    with pytest.raises(DataError, match=message):
        load_data(name, **options)


def test_of_fewer_concepts_the_targets_are_fewer():
    data = sparse_shifts(perturbations=3, genes=10, pairs=1, samples_per_context=4)
    assert torch.equal(data.of_concepts(["p1", "p3"]).targets, data.targets[[0, 2]])


def test_loading_is_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_data("shift_chain", samples_per_context=3, seed=2).train.counts["u1"] == 3
