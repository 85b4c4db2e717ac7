"""Simulated perturbation screens: perturbations shift latents, which a network mixes into what is observed.

`sparse_shifts` is the simulation of Lopez et al. (2023, "Learning Causal Representations of Single Cells via Sparse
Mechanism Shift Modeling"): z | a ~ N(s_a, I), s_a zero but for one to three latents; counts of genes are
Poisson(l softmax(f(z))), the softmax over genes. `shift_chain` is the toy of Zhang et al. (2023, "Identifiability
Guarantees for Causal Disentanglement from Soft Interventions"): a chain of latents, each shifted by one perturbation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.data.context_data import ContextData
from context_module.data.vectors import VectorContextDataset
from context_module.errors import DataError

__all__ = ["shift_chain", "sparse_shifts"]

_HIDDEN, _LAYERS, _SLOPE = 40, 4, 0.2
_SIZE, _DEVIATION = 5.0, 0.5  # of a shift
_MOST_TARGETS = 3
_NOISE = 0.1
# a latent sample (n, d) of a context, and what is observed of it
Draw = Callable[[str, int, np.random.Generator], Tensor]
Observe = Callable[[Tensor, np.random.Generator], Tensor]


def sparse_shifts(
    perturbations: int = 100,
    latents: int = 15,
    genes: int = 100,
    pairs: int = 20,
    interactions: float = 0.0,
    library: float = 4e3,
    samples_per_context: int = 250,
    held_out_samples: int = 250,
    test_samples: int = 0,
    columns: Sequence[str] | None = None,
    seed: int = 0,
) -> ContextData:
    """Counts of genes under perturbations that shift a few latents each, with pairs of them held out.

    The network has four layers of random orthogonal weights, 40 wide, with leaky ReLUs of slope 0.2 between them. A
    shift is +-N(5, 0.5) in each of one to three latents. Under two perturbations shifts add up.

    Args:
        perturbations: concepts ``p1``, ``p2``, ...
        latents: d.
        genes: columns ``g1``, ``g2``, ...
        pairs: number of pairs of perturbations that are held out.
        interactions: of every pair, the size of a shift besides, in one more latent, in units of a shift's own: zero
            for perturbations that add up.
        library: expected counts of a cell; published code has as many, where its softmax is over cells.
        samples_per_context, held_out_samples, test_samples: cells of each context, of each pair, and further cells of
            each context.
        columns: the names that a base has: these genes.
        seed: of shifts, network, pairs and cells.

    Returns:
        ContextData; `targets` says which latents each perturbation shifts. Factors are the latents, ``z1``, ...

    Raises:
        DataError: for too few perturbations, latents or genes, more pairs than there are, or a library that is not
            positive.
    """
    most = perturbations * (perturbations - 1) // 2
    if perturbations < 1 or latents < 1 or genes < 2 or not 0 <= pairs <= most or not library > 0:
        raise DataError(
            "sparse_shifts needs at least 1 perturbation, 1 latent and 2 genes, a positive library, and 0 to "
            f"{most} pairs; got {perturbations}, {latents}, {genes}, {library:g} and {pairs}"
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    concepts = Concepts([f"p{number + 1}" for number in range(perturbations)])
    shifts = torch.stack([_shift(latents, rng) for _ in concepts])
    weights = _weights([latents, *[_HIDDEN] * (_LAYERS - 1), genes], rng)
    chosen = rng.choice(most, pairs, replace=False)
    every = list(combinations(concepts, 2))
    held_out = [concepts.name(every[number]) for number in sorted(chosen.tolist())]
    besides = {name: interactions * _shift(latents, rng, 1) for name in held_out}

    def draw(context: str, n: int, rng: np.random.Generator) -> Tensor:
        own = shifts[concepts.mask(context)[0]].sum(0) + besides.get(context, torch.zeros(latents))
        return own + _normal(n, latents, rng)

    def observe(z: Tensor, rng: np.random.Generator) -> Tensor:
        rates = library * _mixed(z, weights).double().softmax(1).numpy()
        return torch.from_numpy(rng.poisson(rates).astype(np.int32))

    counts = {"train": samples_per_context, "held_out": held_out_samples, "test": test_samples}
    names = [f"g{number + 1}" for number in range(genes)]
    return _screen(draw, observe, concepts, held_out, counts, names, shifts != 0, (), columns, seed)


def shift_chain(
    latents: int = 5,
    width: int = 10,
    interactions: float = 0.0,
    samples_per_context: int = 500,
    held_out_samples: int = 500,
    test_samples: int = 0,
    columns: Sequence[str] | None = None,
    seed: int = 0,
) -> ContextData:
    """Vectors of a chain of latents, u_j = u_(j-1) + N(0, 1), each of them shifted by 5 under its perturbation.

    Shifts travel down the chain. What is observed is mixed by two layers of random orthogonal weights with leaky
    ReLUs, and noise of a tenth of a latent's own. All pairs are held out.

    Args:
        latents: concepts ``u1``, ``u2``, ..., each shifted by the perturbation of its name.
        width: of the vectors, at least as many as there are latents.
        interactions: of every pair, what is added to the shift of its latter latent, in units of it.
        samples_per_context, held_out_samples, test_samples: as for `sparse_shifts`.
        columns: the names that a base has: ``x1``, ``x2``, ...
        seed: of network and vectors.

    Raises:
        DataError: for less than one latent, or vectors narrower than that.
    """
    if not 1 <= latents <= width:
        raise DataError(f"shift_chain needs at least 1 latent and as many numbers, got {latents} and {width}")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    concepts = Concepts([f"u{number + 1}" for number in range(latents)])
    weights = _weights([latents, width, width], rng)

    def draw(context: str, n: int, rng: np.random.Generator) -> Tensor:
        mask = concepts.mask(context)[0]
        own = _SIZE * mask.float()
        if mask.sum() > 1:
            own[mask.nonzero()[-1]] *= 1 + interactions
        return (_normal(n, latents, rng) + own).cumsum(1)

    def observe(u: Tensor, rng: np.random.Generator) -> Tensor:
        return _mixed(u, weights) + _NOISE * _normal(len(u), width, rng)

    pairs = [concepts.name(pair) for pair in combinations(concepts, 2)]
    counts = {"train": samples_per_context, "held_out": held_out_samples, "test": test_samples}
    names = [f"x{number + 1}" for number in range(width)]
    # what is shifted directly; further down it travels
    return _screen(
        draw, observe, concepts, pairs, counts, names, torch.eye(latents) > 0, pairwise(concepts), columns, seed
    )


def _screen(
    draw: Draw,
    observe: Observe,
    concepts: Concepts,
    held_out: Sequence[str],
    counts: dict[str, int],
    names: Sequence[str],
    targets: Tensor,
    edges: Iterable[tuple[str, str]],
    columns: Sequence[str] | None,
    seed: int,
) -> ContextData:
    if counts["train"] < 1 or counts["held_out"] < 0 or counts["test"] < 0:
        raise DataError(
            "samples_per_context must be at least 1, held_out_samples and test_samples at least 0, got "
            f"{', '.join(map(str, counts.values()))}"
        )
    if columns is not None and tuple(columns) != tuple(names):
        raise DataError(
            f"the base has {len(columns)} columns, {', '.join(columns[:3])}, ..., this data {len(names)}, "
            f"{', '.join(names[:3])}, ...: give it the options that the base was trained with"
        )
    training = (OBSERVATIONAL, *concepts)
    numbers = {name: number for number, name in enumerate((*training, *held_out))}
    factor_names = [f"z{number + 1}" for number in range(targets.shape[1])]

    def part(contexts: Sequence[str], n: int, stream: int) -> VectorContextDataset | None:
        if not n or not contexts:
            return None
        latents, rows = [], []
        for context in contexts:
            key = partial(np.random.SeedSequence, seed)
            latents.append(draw(context, n, np.random.default_rng(key(spawn_key=(stream, numbers[context], 0)))))
            rows.append(observe(latents[-1], np.random.default_rng(key(spawn_key=(stream, numbers[context], 1)))))
        labels = torch.arange(len(contexts)).repeat_interleave(n)
        return VectorContextDataset(
            torch.cat(rows), labels, contexts, concepts, torch.cat(latents), factor_names, columns=names
        )

    train = part(training, counts["train"], 1)
    assert train is not None
    return ContextData(
        train,
        part(held_out, counts["held_out"], 1),
        part(training, counts["test"], 2),
        graph=tuple(edges) or None,
        targets=targets,
    )


def _shift(latents: int, rng: np.random.Generator, targets: int | None = None) -> Tensor:
    """A shift (d,) of so many latents, or of one to three."""
    count = min(latents, targets or int(rng.integers(1, _MOST_TARGETS + 1)))
    shift = torch.zeros(latents)
    signs = rng.choice([-1.0, 1.0], count)
    shift[rng.choice(latents, count, replace=False)] = torch.from_numpy(
        signs * rng.normal(_SIZE, _DEVIATION, count)
    ).float()
    return shift


def _weights(widths: Sequence[int], rng: np.random.Generator) -> list[Tensor]:
    """Random matrices (a, b), orthogonal along their shorter side."""
    found = []
    for a, b in pairwise(widths):
        matrix, _ = np.linalg.qr(rng.normal(size=(max(a, b), min(a, b))))
        found.append(torch.from_numpy(matrix if a > b else matrix.T).float())
    return found


def _mixed(z: Tensor, weights: Sequence[Tensor]) -> Tensor:
    for weight in weights[:-1]:
        z = F.leaky_relu(z @ weight, _SLOPE)
    return z @ weights[-1]


def _normal(n: int, width: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.normal(size=(n, width)).astype(np.float32))
