"""A small screen of perturbations, and a base for its counts."""

from dataclasses import replace

import torch

from context_module.adapters.vector_vae import VectorVAE
from context_module.data import VectorContextDataset, sparse_shifts
from helpers.draws import seeded


def screen(**options):
    sizes = {"perturbations": 4, "genes": 12, "latents": 3, "pairs": 3, "samples_per_context": 40}
    return sparse_shifts(**{**sizes, "held_out_samples": 40, "test_samples": 40, "library": 1e4, **options})


def tiny_vector_vae(columns=12, **options):
    """Of random weights, its libraries near 10,000."""
    torch.manual_seed(0)
    names = [f"g{number + 1}" for number in range(columns)]
    net = VectorVAE(names, **{"latents": 3, "width": 8, **options}).eval()
    net.library.copy_(torch.tensor([9.2, 0.1]))
    return net


def mixed_screen(perturbations, latents=5):
    """A screen of real numbers, its latents mixed linearly, and a base whose embeddings are these numbers."""
    screen = sparse_shifts(perturbations=perturbations, latents=latents, genes=10, pairs=0, samples_per_context=100)
    turned = torch.linalg.qr(torch.randn(latents, latents, generator=seeded(4))).Q
    mixing = turned @ torch.linspace(0.5, 2, latents).diag()
    train, names = screen.train, [f"g{number + 1}" for number in range(latents)]
    rows = VectorContextDataset(
        train.factors @ mixing,
        train.labels,
        train.context_names,
        train.concepts,
        train.factors,
        train.factor_names,
        columns=names,
    )
    base = tiny_vector_vae(columns=latents, latents=latents, likelihood="gaussian")
    base.encode = lambda x: (x, torch.full_like(x, -12.0))
    return replace(screen, train=rows, test=rows), base


def write_screen(screen, file):
    """An AnnData to a file, its texts as objects: anndata of some versions writes no others of today's pandas."""
    import pandas as pd

    with pd.option_context("future.infer_string", False):
        for table in (screen.obs, screen.var):
            table.index = pd.Index(list(table.index), dtype=object)
            for name in table:
                values = pd.Series(list(table[name]), index=table.index, dtype=object)
                table[name] = pd.Categorical(values, categories=pd.Index(sorted(set(values)), dtype=object))
        screen.write_h5ad(file)
