"""Screens of perturbed cells: an AnnData and h5ad files, dense and sparse, what is left out, and what is refused."""

import pickle

import numpy as np
import pytest
import torch

from context_module.data import VectorContextDataset, cells, load_data, to_anndata
from context_module.data.cell_rows import CountMatrix, GeneMoments, variable_genes
from context_module.errors import DataError
from helpers.screens import write_screen

anndata = pytest.importorskip("anndata")
from scipy.sparse import csc_matrix, csr_matrix  # noqa: E402

# what anndata asks of pandas
pytestmark = pytest.mark.filterwarnings("ignore:The '.*' option is deprecated")


SAID = ["control"] * 20 + ["A"] * 15 + ["B"] * 15 + ["A+B"] * 12 + ["B+C"] * 12 + ["D"] * 1
GENES = 30


def screen(matrix=np.asarray, said=SAID, genes=GENES, layer=False, seed=0, **columns):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(np.linspace(0.5, 6, genes), (len(said), genes)).astype(np.float32)
    counts[:, 3] = 0
    found = anndata.AnnData(matrix(np.log1p(counts) if layer else counts))
    found.obs_names = [f"cell{number}" for number in range(len(said))]
    found.var_names = [f"g{number}" for number in range(genes)]
    found.obs["perturbation"] = said
    for name, values in columns.items():
        found.obs[name] = values
    if layer:
        found.layers["counts"] = matrix(counts)
    return found, torch.from_numpy(counts)


def test_contexts_are_perturbations():
    given, counts = screen()
    data = cells(given)
    assert data.concepts == ("A", "B")
    assert data.train.counts == {"obs": 20, "A": 15, "B": 15}
    assert data.held_out.counts == {"A+B": 12}
    assert data.train.of_counts
    assert isinstance(data.train, VectorContextDataset)
    genes = [int(name[1:]) for name in data.train.columns]
    assert genes == [number for number in range(GENES) if number != 3]
    assert torch.equal(data.train.select("B"), counts[35:50][:, genes])
    assert data.left_out == (
        "1 genes without a count",
        "D (with fewer than 10 cells)",
        "B+C (of perturbations never seen alone)",
    )
    assert "held out: A+B (12); left out: 1 genes without a count, D (with" in data.describe()


@pytest.mark.parametrize("matrix", [np.asarray, csr_matrix, csc_matrix], ids=["dense", "csr", "csc"])
@pytest.mark.parametrize("layer", [False, True])
def test_files_are_read_as_they_lie(matrix, layer, tmp_path):
    given, _ = screen(matrix, layer=layer)
    write_screen(given, tmp_path / "screen.h5ad")
    options = {"layer": "counts"} if layer else {}
    data = load_data("cells", path=str(tmp_path / "screen.h5ad"), **options)
    memory = cells(given, **options)
    assert data.train.columns == memory.train.columns
    assert torch.equal(data.train.read(torch.arange(50)), memory.train.read(torch.arange(50)))
    rows = torch.tensor([40, 2, 2, 17])  # in any order, and twice
    assert torch.equal(data.train.read(rows), memory.train.read(rows))
    again = pickle.loads(pickle.dumps(data.train))  # as spawned workers do
    assert torch.equal(again.select("A"), data.train.select("A"))
    loader = torch.utils.data.DataLoader(data.train, batch_size=25)
    assert torch.equal(torch.cat([batch["x"] for batch in loader]), memory.train.read(torch.arange(50)))


def test_several_files_are_one_screen(tmp_path):
    (one, a), (two, b) = screen(csr_matrix), screen(seed=1)
    two = two[:, ::-1].copy()  # the same genes, in another order
    write_screen(one, tmp_path / "one.h5ad")
    write_screen(two, tmp_path / "two.h5ad")
    data = cells(f"{tmp_path / 'one.h5ad'},{tmp_path / 'two.h5ad'}")
    genes = [int(name[1:]) for name in data.train.columns]
    assert torch.equal(data.train.select("A"), torch.cat([a[20:35], b[20:35]])[:, genes])
    fewer = two[:, two.var_names != "g7"].copy()
    write_screen(fewer, tmp_path / "fewer.h5ad")
    with pytest.raises(DataError, match=r"one.h5ad and .*fewer.h5ad do not have the same genes: g7, 1 in all"):
        cells(f"{tmp_path / 'one.h5ad'},{tmp_path / 'fewer.h5ad'}")


def test_columns_and_names_are_the_users():
    said = (
        ["ctrl", "ctrl+ctrl"] * 10 + ["KLF1+ctrl"] * 12 + ["ctrl+CD8 a/b"] * 12 + ["KLF1+CD8 a/b"] * 10 + [np.nan] * 2
    )
    given, _ = screen(said=said)
    given.obs["guide"] = given.obs.pop("perturbation")
    data = cells(given, perturbation="guide", control="ctrl")
    assert data.concepts == ("CD8_a_b", "KLF1")
    assert data.train.counts == {"obs": 20, "CD8_a_b": 12, "KLF1": 12}
    assert data.held_out.context_names == ("CD8_a_b+KLF1",)
    assert "2 cells of no named perturbation" in data.left_out
    other, _ = screen(said=[word.replace("+", "_x_") for word in SAID])
    assert cells(other, separator="_x_").held_out.context_names == ("A+B",)


def test_covariates_come_behind_the_genes():
    batches = ["1", "2", "2"] * 25
    given, counts = screen(batch=batches)
    data = cells(given, covariates="batch")
    assert data.train.covariates == ("batch=1", "batch=2")
    x = data.train.read(torch.arange(6))
    assert x.shape == (6, 31)
    assert x[:, -2:].tolist() == [[1, 0], [0, 1], [0, 1]] * 2
    # of a base, in its order
    base = ["g5", "g2", "batch=2", "batch=1"]
    data = cells(given, covariates=["batch"], columns=base)
    assert data.train.columns == ("g5", "g2")
    assert data.train.read(torch.arange(2))[:, -2:].tolist() == [[0, 1], [1, 0]]
    assert torch.equal(data.train.read(torch.arange(9))[:, :2], counts[:9][:, [5, 2]])
    with pytest.raises(DataError, match="the base knows no batch=2, only 1: leave such cells out"):
        cells(given, covariates=["batch"], columns=["g5", "batch=1"])
    with pytest.raises(DataError, match=r"has no batch=1 \(1 in all\) that the base has.* give covariates=batch"):
        cells(given, columns=["g5", "batch=1"])
    with pytest.raises(DataError, match=r"the AnnData has no gX \(1 in all\) that the base has: take data of its ge"):
        cells(given, columns=["g5", "gX"])


def test_cells_without_a_count_are_left_out():
    given, _ = screen()
    given.X[:3] = 0
    data = cells(given)
    assert data.train.counts["obs"] == 17
    assert "3 cells without a count" in data.left_out


def test_the_most_variable_genes_are_taken():
    rng = np.random.default_rng(0)
    rates = np.tile(np.linspace(2, 10, 300), (400, 1))
    rates[:, 7] = rng.choice([0.1, 9.0], 400)
    rates[:, 130] = rng.choice([0.1, 12.0], 400)
    counts = rng.poisson(rates)
    places = [np.arange(300)]
    moments = GeneMoments([CountMatrix(csr_matrix(counts[:150])), CountMatrix(counts[150:])], places * 2)
    assert moments.totals.tolist() == counts.sum(1).tolist()
    normalised = counts * (1e4 / counts.sum(1, keepdims=True))
    np.testing.assert_allclose(moments.mean, normalised.mean(0))
    np.testing.assert_allclose(moments.variance, normalised.var(0, ddof=1), rtol=1e-6)
    assert variable_genes(moments, 2).tolist() == [7, 130]
    given, _ = screen()
    assert len(cells(given, genes=8).train.columns) == 8


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            {},
            {"control": "none"},
            "no cell is a control: the column 'perturbation' never says 'none'; give .*'control'",
        ),
        ({}, {"perturbation": "guide"}, "the AnnData has no column 'guide' in obs; it has perturbation"),
        ({}, {"layer": "raw"}, "the AnnData has no layer 'raw'; its layers: none"),
        ({}, {"min_cells": 100}, "the control has 20 cells, it takes 100 at least"),
        ({"said": ["control"] * 20 + ["A"]}, {}, "no perturbation alone has 10 cells or more: lower min_cells"),
        ({"value": -1}, {}, "counts must be whole numbers of at least 0, got -1: name the layer"),
        ({"value": 0.5}, {}, "counts must be whole numbers of at least 0, got 0.5"),
        ({"value": np.nan}, {}, "counts must be whole numbers of at least 0, got nan"),
        ({"names": ["g0"] * GENES}, {}, "the AnnData has several genes named g0: call var_names_make_unique"),
        ({}, {"covariates": "batch"}, "the AnnData has no column 'batch' in obs"),
    ],
)
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_screens_that_cannot_be_used(change, options, message):
    given, _ = screen(said=change.get("said", SAID))
    if "value" in change:
        given.X[4, 4] = change["value"]
    if "names" in change:
        given.var_names = change["names"]
    with pytest.raises(DataError, match=message):
        cells(given, **options)


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="nowhere.h5ad: no such file; give path= an h5ad file"):
        cells(tmp_path / "nowhere.h5ad")
    (tmp_path / "broken.h5ad").write_text("no")
    with pytest.raises(DataError, match="broken.h5ad cannot be read as an h5ad file"):
        cells(tmp_path / "broken.h5ad")
    given, _ = screen(layer=True)
    write_screen(given, tmp_path / "screen.h5ad")
    with pytest.raises(DataError, match=r"screen.h5ad has no layers/raw; its layers: counts"):
        cells(tmp_path / "screen.h5ad", layer="raw")
    with pytest.raises(DataError, match="the cells data needs path"):
        load_data("cells")


def test_what_is_generated_becomes_an_anndata():
    rows = {"obs": torch.ones(2, 3), "A+B": torch.tensor([[0.0, 0.0, 5.0]])}
    found = to_anndata(rows, ["x", "y", "z"])
    assert found.obs["perturbation"].tolist() == ["control", "control", "A+B"]
    assert list(found.var_names) == ["x", "y", "z"]
    assert found.X.toarray().tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 5]]
    with pytest.raises(DataError, match=r"rows of 'obs' must be \(n, 2\), got \(2, 3\)"):
        to_anndata(rows, ["x", "y"])
