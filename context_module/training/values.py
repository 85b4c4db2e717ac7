"""Fit, after training, the maps behind `Value`: from a concept's values in the data to the block that shows them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.data import ContextDataset, evaluation_loader
from context_module.interventions import Value
from context_module.model import ContextualDecoder
from context_module.nn import ValueMap, ValueMaps, evaluating

__all__ = ["fit_values"]

_PER_CONTEXT = 500  # images explained; more hardly move the maps
_ENTRIES = 128  # of a map
_KNOTS = 16  # of the curve through the blocks of images
_CHECKED = 128  # pictures that judge a map
_ROUNDS = 4  # pictures of each drawn block
_GOOD = 0.1  # a curve is kept if its pictures are off by less than this share of the range
_LESS = 0.9  # or if those of drawn blocks are not off by less than this share of that


@torch.no_grad()
def fit_values(
    model: ContextualDecoder, dataset: ContextDataset, *, draws: int = 128, seed: int = 0, batch_size: int = 256
) -> dict[str, float]:
    """Fit a map from value to concept values for every concept that the data set carries values of.

    These are the columns of its `factors` that are named like a concept. The map is a curve, the piecewise linear
    regression of the concept's block behind images on their values. The mean of blocks may show nothing that any of
    them shows: where pictures tell so, it is a choice among blocks drawn from the module instead, for every value the
    one whose pictures show it best. Pictures are read by a ridge regression of the value on the base's encoder
    features.

    Maps that the model had are replaced. Afterwards ``model.generate(n, do={"size": Value(0.7)})`` works, and
    `ContextualDecoder.save_pretrained` saves the maps with the module.

    Args:
        model: a trained model; its `value_maps` are set.
        dataset: the training images, with their contexts; up to 500 of each are used.
        draws: number of blocks to choose from; 0 for curves alone, without running the decoder.
        seed: of the draws and pictures.
        batch_size: images encoded or generated at a time.

    Returns:
        by concept that can be set to a value, how far off its pictures are: the mean absolute difference, over values
        of the data, of what is read from what was asked for; NaN without draws. Empty for data without such factors,
        and for texts, whose factors are categories.
    """
    valued = dataset.kind == "images" and dataset.factors is not None
    named = [name for name in model.config.concepts if valued and name in dataset.factor_names]
    maps: dict[str, ValueMap] = {}
    errors: dict[str, float] = {}
    fitted, generator = model.value_maps, torch.Generator().manual_seed(seed)
    try:
        if named:
            places = [dataset.places(name, _PER_CONTEXT) for name in dataset.context_names]
            chosen = dataset.subset(torch.cat(places))
            features, blocks = _explain(model, chosen, batch_size)
            drawn = _draw_blocks(model, draws, generator)
        for name in named:
            assert chosen.factors is not None
            column, numbers = model.config.concepts.index(name), chosen.factors[:, chosen.factor_names.index(name)]
            known = numbers.isfinite()
            if known.any():
                maps[name], errors[name] = _curve(numbers[known], blocks[known, column]), math.nan
                if draws:
                    read = _reader(features[known], numbers[known])
                    show = _shower(model, name, read, generator, batch_size)
                    maps[name], errors[name] = _choose(maps[name], numbers[known], drawn[:, column], show)
        fitted = ValueMaps(maps)
    finally:  # after an interruption, the maps there were
        model.slot.value_maps = fitted.to(model.base.device)
    return errors


def _explain(model: ContextualDecoder, dataset: ContextDataset, batch_size: int) -> tuple[Tensor, Tensor]:
    """Encoder features (N, D) of images, and the concept values (N, K+F, w_c) of their posteriors' means."""
    features, blocks = [], []
    with evaluating(model):
        for batch in evaluation_loader(dataset, batch_size):
            mask = batch["mask"].to(model.base.device)
            encoding = model.base.encode(batch["x"].to(model.base.device, model.base.dtype))
            features.append(encoding.features.float().cpu())
            blocks.append(model.slot.concept_values(encoding, mask).float().cpu())
    return torch.cat(features), torch.cat(blocks)


def _draw_blocks(model: ContextualDecoder, n: int, generator: torch.Generator) -> Tensor:
    """Concept values (n, K+F, w_c) as the module draws them, each concept intervened on in half of the draws."""
    mask = torch.rand(n, len(model.config.concepts), generator=generator) < 0.5
    with evaluating(model):
        noise = model.module.sample_noise(n, generator=generator)
        return model.module.concepts(noise, mask.to(noise.device)).float().cpu()


def _features(model: ContextualDecoder, x: Tensor) -> Tensor:
    return model.base.encode(x.to(model.base.dtype)).features.float().cpu()


def _curve(numbers: Tensor, blocks: Tensor) -> ValueMap:
    """The least-squares piecewise linear curve through blocks (N, w_c), with knots at quantiles of numbers (N,)."""
    numbers = numbers.double()
    entries = knots = numbers.unique()
    if len(entries) > _ENTRIES:
        entries = torch.linspace(numbers.min().item(), numbers.max().item(), _ENTRIES, dtype=torch.float64)
    if len(knots) > _KNOTS:
        places = torch.linspace(0, 1, _KNOTS, dtype=torch.float64)
        knots = numbers.quantile(places, interpolation="nearest").unique()  # in no gap between the numbers
    at_knots = torch.linalg.lstsq(_weights(numbers, knots), blocks.double(), driver="gelsd").solution
    return ValueMap(entries, _weights(entries, knots) @ at_knots)


def _weights(numbers: Tensor, knots: Tensor) -> Tensor:
    """(n, k): what each knot contributes to the linear interpolation at each number."""
    if len(knots) == 1:
        return torch.ones_like(numbers)[:, None]
    right = torch.searchsorted(knots, numbers.contiguous()).clamp(1, len(knots) - 1)
    share = ((numbers - knots[right - 1]) / (knots[right] - knots[right - 1])).clamp(0, 1)[:, None]
    return F.one_hot(right - 1, len(knots)) * (1 - share) + F.one_hot(right, len(knots)) * share


def _reader(features: Tensor, numbers: Tensor) -> Callable[[Tensor], Tensor]:
    """Ridge regression of numbers (N,) on features (N, D): from features (n, D) to readings (n,)."""
    features, offset, penalty = features.double(), numbers.double().mean(), 0.01 * len(numbers)
    center, scale = features.mean(0), features.std(0, correction=0)
    scale = scale.clamp_min(1e-6 * scale.max().item() + 1e-12)  # what does not vary tells nothing
    x, y = (features - center) / scale, numbers.double() - offset
    if x.shape[1] <= len(x):
        weight = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]), x.T @ y)
    else:
        weight = x.T @ torch.linalg.solve(x @ x.T + penalty * torch.eye(len(x)), y)
    return lambda others: (offset + (others.double() - center) / scale @ weight).float()


def _shower(
    model: ContextualDecoder,
    name: str,
    read: Callable[[Tensor], Tensor],
    generator: torch.Generator,
    batch_size: int,
) -> Callable[[ValueMap, Tensor], Tensor]:
    """From a map and entries (n,) of it to readings (n,) of pictures in which the concept is set to them."""

    def show(table: ValueMap, entries: Tensor) -> Tensor:
        model.slot.value_maps = ValueMaps({name: table}).to(model.base.device)
        pictures = (
            model.generate(len(numbers), do={name: Value(numbers)}, generator=generator)
            for numbers in table.numbers.cpu()[entries].split(batch_size)
        )
        return torch.cat([read(_features(model, x)) for x in pictures])

    return show


def _choose(
    curve: ValueMap, numbers: Tensor, drawn: Tensor, show: Callable[[ValueMap, Tensor], Tensor]
) -> tuple[ValueMap, float]:
    """The map whose pictures are less far off, and how far: the curve, or one to drawn blocks (n, w_c).

    Numbers (N,) are those of the data; blocks are chosen on other pictures than those that judge them.
    """
    seen = curve.closest(numbers).unique()  # entries that the data has, not those in gaps between
    checked = seen[torch.arange(_CHECKED) % len(seen)]

    def error(table: ValueMap) -> float:
        return (show(table, checked) - table.numbers.cpu()[checked]).abs().mean().item()

    low, high = curve.range
    off_curve = error(curve)
    if off_curve <= _GOOD * (high - low):
        return curve, off_curve
    pool, every = ValueMap(torch.arange(len(drawn)), drawn), torch.arange(len(drawn))
    shown = torch.stack([show(pool, every) for _ in range(_ROUNDS)])
    off = torch.stack([(shown - number).square().mean(0) for number in curve.numbers.cpu()])
    picked = ValueMap(curve.numbers, drawn[off.argmin(1)])
    off_picked = error(picked)
    return (picked, off_picked) if off_picked < _LESS * off_curve else (curve, off_curve)
