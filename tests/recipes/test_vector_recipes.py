"""Recipes on vectors as a user runs them: a base, a module on it, its report; and methods to compare with."""

import json

import numpy as np
import pytest
import torch

from context_module import ContextualDecoder
from context_module.adapters import load_base
from context_module.data import to_anndata
from helpers.screens import write_screen

SCREEN = ["--data", "sparse_shifts", "--data_options", "perturbations=4", "genes=16", "latents=3", "pairs=2"]
SCREEN += ["--samples_per_context", "40"]
QUICK = ["--max_train_steps", "4", "--train_batch_size", "20", "--validation_steps", "2", "--logging_steps", "1"]


def test_a_module_on_a_base_of_counts(here, check, tmp_path):
    out = check.succeeded(
        here("pretrain.py", "--base", "vector_vae", "--latents", "4", *SCREEN, *QUICK, "--output_dir", "base")
    )
    assert "base: vector_vae with" in out
    assert "nats per vector" in out
    on = ["--base", "vector_vae", "--base_checkpoint", "base", "--graph", "none"]
    out = check.succeeded(here("finetune.py", *on, *SCREEN, *QUICK, "--val_fraction", "0.3", "--output_dir", "module"))
    assert "held out: " in out
    assert "| E-distance |" in (tmp_path / "module" / "composition.md").read_text()
    shown = next((tmp_path / "module" / "samples").glob("*.md")).read_text()
    assert shown.startswith("| context | columns that differ most")
    out = check.succeeded(here("evaluate.py", "--model", "module", "--samples", "20"))
    assert "| composition | vector mmd |" in out
    assert "model, scaled | additive, scaled" in out
    report = json.loads((tmp_path / "module" / "evaluation" / "report.json").read_text())
    found = report["summary"]["composition"]["delta_correlation"]
    assert set(found) == {"model", "base", "floor", "additive", "linear", "mean_response"}
    assert report["skipped"]["transfer"] == "the model was trained on all perturbations: leave some out, --contexts"
    page = (tmp_path / "module" / "evaluation" / "report.html").read_text()
    assert "mean response" in page
    assert "on rows that it was never trained on" in page
    out = check.succeeded(here("compose.py", "--model", "module", "--do", "p1", "p2", "--output", "both.png"))
    assert "| p1+p2 | g" in out
    assert (tmp_path / "both.md").is_file()
    message = check.failed(here("compose.py", "--model", "module", "--do", "p1", "--image", "cell.png"))
    assert "cell.png: the model is of vectors, give none" in message
    out = check.succeeded(here("preview.py", *SCREEN[:-2], "--n", "5", "--output", "rows.png"))
    assert "rows.md: 7 contexts of vectors: obs, p1" in out
    model = ContextualDecoder.from_pretrained("module", base=load_base("vector_vae", "base"))
    counts = model.generate(3, do="p1+p2", seed=0)
    assert torch.equal(counts, counts.round())


def test_a_form_with_a_graph_takes_vectors_too(here, check):
    base = ["--base", "vector_vae", "--latents", "4"]
    check.succeeded(here("pretrain.py", *base, *SCREEN, *QUICK, "--output_dir", "base"))
    on = ["--base", "vector_vae", "--base_checkpoint", "base", "--form", "structural"]
    out = check.succeeded(here("finetune.py", *on, *SCREEN, *QUICK, "--output_dir", "module"))
    assert "module: best validation loss" in out


@pytest.mark.parametrize("method", ["svae_plus", "discrepancy_vae"])
def test_a_method_of_perturbations(method, here, check, tmp_path):
    argv = ["--method", method, "--latents", "3", *SCREEN, *QUICK, "--contexts", "obs", "p1", "p2", "p3"]
    out = check.succeeded(here("train_baseline.py", "--output_dir", "out", *argv))
    assert f"out: {method} with" in out
    assert "nats per vector at step" in out
    metrics = ["perturbation", "latents", "transfer"]
    out = check.succeeded(here("evaluate.py", "--model", "out", "--samples", "30", "--metrics", *metrics))
    assert "| transfer | nll iwelbo |" in out
    assert "A system to compare with, on vectors" in (tmp_path / "out" / "evaluation" / "report.html").read_text()


def test_what_does_not_fit_together(here, check):
    message = check.failed(
        here(
            "pretrain.py",
            "--base",
            "vector_vae",
            "--data",
            "quad",
            "--samples_per_context",
            "4",
            *QUICK,
            "--output_dir",
            "a",
        )
    )
    assert "a vector_vae base is of vectors, this data holds images" in message
    message = check.failed(here("train_baseline.py", "--method", "beta_vae", *SCREEN, *QUICK, "--output_dir", "b"))
    assert "this data holds vectors, which have no image shape: use a base, or a method, of vectors" in message
    message = check.failed(here("finetune.py", *SCREEN, *QUICK, "--output_dir", "c"))
    assert "the sparse_shifts data holds vectors, which have no size: use a base of vectors" in message


@pytest.mark.filterwarnings("ignore:The '.*' option is deprecated")
def test_cells_of_a_file(here, check, tmp_path):
    anndata = pytest.importorskip("anndata")
    said = ["control"] * 40 + ["A"] * 40 + ["B"] * 40 + ["A+B"] * 40
    rng = np.random.default_rng(0)
    cells = anndata.AnnData(rng.poisson(np.linspace(1, 9, 16), (160, 16)).astype(np.float32))
    cells.obs_names, cells.var_names = [f"c{n}" for n in range(160)], [f"g{n}" for n in range(16)]
    cells.obs["guide"], cells.obs["batch"] = said, ["1", "2"] * 80
    write_screen(cells, tmp_path / "screen.h5ad")
    data = ["--data", "cells", "--data_options", "path=screen.h5ad", "perturbation=guide", "covariates=batch"]
    base = ["--base", "vector_vae", "--latents", "3"]
    check.succeeded(here("pretrain.py", *base, *data, *QUICK, "--output_dir", "base"))
    on = ["--base", "vector_vae", "--base_checkpoint", "base", "--graph", "none", "--max_train_steps", "0"]
    out = check.succeeded(here("finetune.py", *on, *data, "--val_fraction", "0.3", "--output_dir", "module"))
    assert "| E-distance |" in out
    model = ContextualDecoder.from_pretrained("module", base=load_base("vector_vae", "base"))
    found = to_anndata({"A+B": model.generate(5, do="A+B", seed=0)}, model.base.columns)
    assert found.shape == (5, len(model.base.columns))
    message = check.failed(here("finetune.py", *on, *data[:-1], "--val_fraction", "0.3", "--output_dir", "other"))
    assert "has no batch=1, batch=2 (2 in all) that the base has: take data of its genes, and give covari" in message
