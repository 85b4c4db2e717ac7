"""Views of data for systems that learn from more than contexts: from true factors, pairs or triplets of images."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL
from context_module.data.dataset import ContextDataset
from context_module.data.labelled import LabelledDataset
from context_module.errors import DataError

__all__ = ["FactorView", "PairView", "TripletView", "cross_pairs", "pairs", "triplets", "with_factors"]

_CHUNK = 256  # rows compared with a whole group at a time


class _View(LabelledDataset):
    """Items of a data set, with something beside them."""

    def __init__(self, data: ContextDataset) -> None:
        self.data = data
        self.kind = data.kind  # type: ignore[misc]
        self.concepts, self.context_names, self.labels = data.concepts, data.context_names, data.labels


class FactorView(_View):
    """What `with_factors` makes.

    Attributes:
        factors: float32 (N, D), those of its items.
        factor_names: the D names.
    """

    def __init__(self, data: ContextDataset, names: tuple[str, ...], factors: Tensor) -> None:
        super().__init__(data)
        self.factor_names, self.factors = names, factors

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {**self.data.batch(indices), "factors": self.factors[indices]}


class PairView(_View):
    """What `pairs` makes: item i is image ``first[i]`` of the data, with image ``second[i]``.

    Attributes:
        first, second: int64 (M,), numbers of images.
        labels: the contexts of the first images.
    """

    def __init__(self, data: ContextDataset, first: Tensor, second: Tensor) -> None:
        super().__init__(data)
        self.first, self.second = first, second
        kept, self.labels = data.labels[first].unique(return_inverse=True)
        self.context_names = tuple(data.context_names[label] for label in kept.tolist())

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        batch, other = (self.data.batch(rows[indices]) for rows in (self.first, self.second))
        return {**batch, "other": other["x"], "other_mask": other["mask"]}


class TripletView(_View):
    """What `triplets` makes: item i is image i of the data, with images ``positive[i]`` and ``negative[i]``.

    Attributes:
        positive, negative: int64 (N,), numbers of images.
    """

    def __init__(self, data: ContextDataset, positive: Tensor, negative: Tensor) -> None:
        super().__init__(data)
        self.positive, self.negative = positive, negative

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        near, far = (self.data.batch(rows[indices])["x"] for rows in (self.positive, self.negative))
        return {**self.data.batch(indices), "positive": near, "negative": far}


def with_factors(data: ContextDataset, names: Iterable[str]) -> FactorView:
    """The same items with some of their true factors: ``{"x", "mask", "factors": float32 (D,)}``.

    Args:
        data: with factors.
        names: of the D factors, in the order they are wanted in.

    Raises:
        DataError: for data without factors, or names that it has not, or none.
    """
    names = tuple(names)
    factors = _factors(data)
    if not names or (unknown := [name for name in names if name not in data.factor_names]):
        raise DataError(
            f"unknown factors: {', '.join(unknown) if names else 'none given'}; expected some of "
            f"{', '.join(data.factor_names)}"
        )
    return FactorView(data, names, factors[:, [data.factor_names.index(name) for name in names]].float())


def pairs(
    data: ContextDataset, *, change: int | None = None, contexts: tuple[str, str] | None = None, seed: int = 0
) -> PairView:
    """Pairs of images: two that share all true factors but some, or one each of two contexts.

    An item is ``{"x", "mask", "other", "other_mask"}``, the second image and its mask as the first's. Every image of
    the data that has a partner is the first of one pair, and which partner is a function of the seed alone.

    Args:
        data: with factors, for `change`; a view, ``data.only(["obs"])``, keeps pairs to some contexts.
        change: the two differ in just so many factors, and share all others.
        contexts: the context of the first, and that of the second image.
        seed: of the partners.

    Raises:
        ConceptError: for an unknown concept.
        DataError: for both or neither of `change` and `contexts`; data without factors; a number of factors that is
            out of range, or in which no two images differ; a context that is not in the data.
    """
    if (change is None) == (contexts is None):
        raise DataError(f"give either change or contexts, got change={change} and contexts={contexts}")
    if contexts is not None:
        return _of_contexts(data, contexts, seed)
    assert change is not None
    factors = _factors(data)
    if not 1 <= change < factors.shape[1]:
        raise DataError(
            f"change must be 1 to {factors.shape[1] - 1}, the number of factors less one that is shared, got {change}"
        )
    second = torch.from_numpy(_partners(factors.numpy(), change, seed))
    first = (second >= 0).nonzero().flatten()
    if not len(first):
        raise DataError(
            f"no two images differ in just {change} of the factors {', '.join(data.factor_names)}: take another "
            "number, or data of discrete factors"
        )
    return PairView(data, first, second[first])


def cross_pairs(data: ContextDataset, *, seed: int = 0) -> PairView:
    """Pairs of images of different contexts: of every observational image and one of a random other context, and of
    every other image and an observational one. Items and the part of the seed are as for `pairs`.

    Raises:
        DataError: for data in one context, in whose pairs no factor is known to change.
    """
    return PairView(data, torch.arange(len(data)), _of_other_contexts(data, np.random.default_rng(seed), "pairs"))


def triplets(data: ContextDataset, *, seed: int = 0) -> TripletView:
    """Every image with another one of its context, and one of another context, chosen as in `cross_pairs`.

    An item is ``{"x", "mask", "positive", "negative"}``, all images (C, H, W). Which they are is a function of the
    seed alone.

    Raises:
        DataError: for data in one context, or a context of one image.
    """
    rng = np.random.default_rng(seed)
    positive = torch.empty(len(data), dtype=torch.int64)
    for name, count in data.counts.items():
        if count < 2:
            raise DataError(
                f"context {name!r} has one {data.kind[:-1]}, with no other of it to go with: add {data.kind}"
            )
        places = data.places(name)
        # a step of at least one along the context, around its end
        positive[places] = places[(np.arange(count) + rng.integers(1, count, size=count)) % count]
    return TripletView(data, positive, _of_other_contexts(data, rng, "triplets"))


def _of_other_contexts(data: ContextDataset, rng: np.random.Generator, what: str) -> Tensor:
    """Per image a random one of another context: the observational one, where that is another and there is one."""
    names = data.context_names
    if len(names) < 2:
        raise DataError(
            f"{what} of different contexts need at least two, the data has {names[0]!r} alone: no factor changes"
        )
    found = torch.empty(len(data), dtype=torch.int64)
    for name in names:
        others = [other for other in names if other != name]
        if name != OBSERVATIONAL and OBSERVATIONAL in others:
            others = [OBSERVATIONAL]
        places, pools = data.places(name), [data.places(other) for other in others]
        chosen, share = rng.integers(len(pools), size=len(places)), rng.random(len(places))
        found[places] = torch.stack([pools[k][int(s * len(pools[k]))] for k, s in zip(chosen, share, strict=True)])
    return found


def _factors(data: ContextDataset) -> Tensor:
    if data.factors is None:
        raise DataError("the data has no factors: they are known of data from a simulator")
    return data.factors


def _of_contexts(data: ContextDataset, contexts: tuple[str, str], seed: int) -> PairView:
    """Every image of the first context with a random one of the second."""
    names = [data.concepts.name(context) for context in contexts]
    if unknown := [name for name in names if name not in data.context_names]:
        raise DataError(
            f"no {data.kind} of context {', '.join(unknown)}; contexts here: {', '.join(data.context_names)}"
        )
    first, others = ((data.labels == data.context_names.index(name)).nonzero().flatten() for name in names)
    drawn = np.random.default_rng(seed).integers(len(others), size=len(first))
    return PairView(data, first, others[torch.from_numpy(drawn)])


def _partners(factors: np.ndarray, change: int, seed: int) -> np.ndarray:
    """Per row another, random one that differs in so many columns and no others, int64 (N,), or -1.

    First which columns is drawn, evenly among those in which the row has partners, then the partner.
    """
    rng = np.random.default_rng(seed)
    n, columns = factors.shape
    partners, best = np.full(n, -1), np.full(n, -1.0)
    for changed in combinations(range(columns), change):
        shared = np.delete(factors, changed, axis=1)
        found = _in_groups(shared, factors[:, changed], rng)
        priority = rng.random((n,))
        wins = (found >= 0) & (priority > best)
        partners[wins], best[wins] = found[wins], priority[wins]
    return partners


def _in_groups(shared: np.ndarray, changed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Per row a random one that is equal in `shared` and different in every column of `changed`, or -1."""
    group = np.unique(shared, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(group, kind="stable")
    found = np.full(len(group), -1)
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(members) == 1:
            continue
        values = changed[members]
        for start in range(0, len(members), _CHUNK):
            rows = slice(start, start + _CHUNK)
            differ = (values[rows, None] != values[None]).all(-1)
            counts = differ.sum(1)
            # the partner of each row: the one at a random place among those that differ
            place = rng.integers(np.maximum(counts, 1))
            chosen = (np.cumsum(differ, axis=1) > place[:, None]).argmax(1)
            found[members[rows]] = np.where(counts > 0, members[chosen], -1)
    return found
