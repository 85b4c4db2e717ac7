"""A model of scvi-tools as a base: what its own functions say, behind the contract."""

import warnings

import numpy as np
import pytest
import torch

from context_module import adapt, wrap_decoder
from context_module.adapters import get_adapter
from context_module.data import cells
from context_module.errors import AdapterError, CheckpointError
from context_module.training import fit_maps
from helpers.draws import seeded

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it imports
    scvi = pytest.importorskip("scvi")
    import anndata

pytestmark = pytest.mark.filterwarnings("ignore")


def screen():
    found = anndata.AnnData(np.random.default_rng(0).poisson(3, (90, 12)).astype(np.float32))
    found.var_names = [f"g{number}" for number in range(12)]
    found.obs["batch"] = ["x", "y"] * 45
    found.obs["perturbation"] = ["control"] * 30 + ["A"] * 30 + ["B"] * 30
    return found


def model(likelihood="zinb", batch="batch", **options):
    torch.manual_seed(0)
    data = screen()
    scvi.model.SCVI.setup_anndata(data, batch_key=batch, **options)
    made = scvi.model.SCVI(data, n_latent=4, n_hidden=8, gene_likelihood=likelihood)
    made.module.eval()
    return made, data


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_it_says_what_scvi_says(likelihood):
    made, data = model(likelihood)
    base = adapt(made)
    assert isinstance(base, get_adapter("scvi"))
    assert (base.kind, base.takes) == ("vectors", "vectors of 12 columns")
    train = cells(data, covariates="batch", columns=base.data_settings()["columns"], min_cells=2).train
    x = base.check_inputs(train.read(torch.arange(6)))
    with torch.no_grad():
        encoding = base.encode(x)
        batch = x[:, 12:].argmax(1, keepdim=True)
        theirs = made.module.inference(x[:, :12], batch)
        torch.testing.assert_close(encoding.mean, theirs["qz"].loc)
        torch.testing.assert_close((0.5 * encoding.log_var).exp(), theirs["qz"].scale)
        decoding = base.decode(encoding.mean, encoding)
        px = made.module.generative(encoding.mean, theirs["library"], batch)["px"]
        torch.testing.assert_close(decoding.log_prob(x[:, :12]), px.log_prob(x[:, :12]).sum(1), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(decoding.mean, px.mean)
        drawn = decoding.sample(seeded(0))
    assert torch.equal(drawn, decoding.sample(seeded(0)))
    assert torch.equal(drawn, drawn.round())


def test_a_module_stands_in_front_of_it():
    made, data = model("nb", batch=None)
    base = adapt(made)
    assert base.net.covariates == ()
    train = cells(data, columns=base.columns).train
    wrapped = wrap_decoder(made, ["A", "B"], form="edits", latent_noise=True, graph=())
    fit_maps(wrapped, train)
    counts = wrapped.generate(5, do="A+B", seed=0)
    assert counts.shape == (5, 12)
    assert torch.equal(counts, counts.round())


def test_what_it_does_not_do(tmp_path):
    made, _ = model("nb", categorical_covariate_keys=["perturbation"])
    with pytest.raises(AdapterError, match="takes a batch and no further covariates.*has 1 of these"):
        adapt(made)
    with pytest.raises(CheckpointError, match="files of scvi-tools are pickled, and nothing is unpickled here"):
        get_adapter("scvi").load(tmp_path)
    with pytest.raises(ValueError, match="trained by scvi-tools"):
        get_adapter("scvi").pretraining()
    with pytest.raises(CheckpointError, match="saved by scvi-tools"):
        adapt(model("nb")[0]).save(tmp_path)
