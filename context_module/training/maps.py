"""Fitting an `EditModule` in closed form: the optimal-transport maps between Gaussians, in seconds and without steps.

A map moves least as distances are measured; here they are measured as pictures show them.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter
from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextDataset
from context_module.errors import DataError
from context_module.model import ContextualDecoder
from context_module.nn import EditModule
from context_module.training.encoder import wants_encoder
from context_module.training.encodings import EncodedDataset, encode_dataset
from context_module.training.gaussians import Moments, gaussian_map, power, reader
from context_module.training.objectives.directions import Directions, decoder_sketch
from context_module.training.order import find_order
from context_module.training.support import agreed, find_support

__all__ = ["coordinates_of", "fit_effects", "fit_maps", "map_to"]

_EXPLAINS = 0.3  # of the variance of pictures, by a linear sketch: as for `EditObjective`
_WIDEST = 1024  # decoder inputs of more values are weighed one by one
_UNSEEN = 1e-2  # of the mean: weight of what pictures do not show
_FLAT = 1e-3  # of the mean variance: the least of a coordinate
_LOADED = 3.0  # times the mean variance: added to covariances that readers are fitted with; measured on nine data sets
_NOISE = 0.3  # of the posterior's standard deviation, around decoder inputs
_SLACK = 1.1
_TELLING = 100  # images, with which two contexts that differ show it
_CHUNK = 4096
_ROWS = 3000  # of a context, in memory at a time


@torch.no_grad()
def fit_maps(
    model: ContextualDecoder,
    images: ContextDataset | EncodedDataset,
    *,
    sketch: tuple[Tensor, float] | None = None,
    seed: int = 0,
) -> Directions:
    """Fit the module of a model with ``form="edits"`` to images, in closed form.

    Coordinates are the principal axes of the encodings, each context with equal weight, in the metric of the pictures.
    Covariances are shrunk to what few images support. Where the model has no graph, one is looked for
    (`find_support`); and in front of a base that encodes images, which concepts lead which (`find_order`).

    Args:
        model: wrapped with ``form="edits"``; its module is fitted, whatever it was before.
        images: the training images, with ``obs`` among their contexts, or their encodings.
        sketch: what `decoder_sketch` says of the base, where it is known already.
        seed: of the latents that the decoder is probed with, else.

    Returns:
        the directions of the latent space that it has measured distances along.

    Raises:
        ValueError: for a model of another form.
        DataError: without observational images; for a context of fewer than two, or images that do not differ at all.
    """
    module = model.module
    if not isinstance(module, EditModule):
        reason = f"maps are fitted to a module with form='edits', this one has form={model.config.form!r}"
        raise ValueError(reason)  # noqa: TRY004 -- a setting, not a type
    encodings = images if isinstance(images, EncodedDataset) else encode_dataset(model.base, images)
    _check_contexts(encodings, module.config.concepts)
    center, variance, noise = encodings.moments()
    matrix, explained = sketch or decoder_sketch(model.base, encodings, seed=seed)
    own = 1 / variance.sum().sqrt().expand(len(variance))
    directions = Directions(matrix if explained > _EXPLAINS else own)
    metric = _Metric(directions, variance)
    _fit_coordinates(module, encodings, metric, center)
    module.log_scale.copy_((_NOISE * noise.sqrt()).clamp_min(1e-4).log().view_as(module.log_scale))

    names = (OBSERVATIONAL, *module.config.concepts)
    coordinates = {name: coordinates_of(module, encodings, name) for name in names}
    moments = {name: Moments.of(rows) for name, rows in coordinates.items()}
    _check_moments(moments)
    observed = moments[OBSERVATIONAL]
    module.mean.copy_(observed.mean)
    module.factor.copy_(torch.linalg.cholesky(observed.covariance.double()).mT.float())
    rows = coordinates[OBSERVATIONAL]
    module.memory.copy_(rows[torch.linspace(0, len(rows) - 1, len(module.memory)).long()])
    every = torch.cat(list(coordinates.values()))
    module.range.copy_(_SLACK * every.abs().amax(0))

    for k, name in enumerate(module.config.concepts):
        module.edits.linear[k], module.edits.shift[k] = gaussian_map(observed, moments[name], module.visible)
    module.edits.last.zero_()
    _fit_effects(model.base, module, coordinates, moments)
    return directions


@torch.no_grad()
def fit_effects(model: ContextualDecoder, encodings: EncodedDataset) -> None:
    """Fit anew, to edits that have been trained, their directions, which concept acts on which, and which leads.

    `fit_maps` does it for those in closed form. Of the graph that stays which was found then, too: on embeddings that
    mix concepts a wrong edge is seldom found twice.

    Args:
        model: with fitted edits; its graph is looked for anew, unless it was given.
        encodings: of the training images.
    """
    module = model.module
    assert isinstance(module, EditModule)
    before = module.support.cpu(), module.undecided.cpu()  # where searches are
    coordinates = {name: coordinates_of(module, encodings, name) for name in (OBSERVATIONAL, *module.config.concepts)}
    moments = {name: Moments.of(rows) for name, rows in coordinates.items()}
    _fit_effects(model.base, module, coordinates, moments, before)


def _fit_effects(
    base: DecoderAdapter,
    module: EditModule,
    coordinates: dict[str, Tensor],
    moments: dict[str, Moments],
    before: tuple[Tensor, Tensor] | None = None,
) -> None:
    """`before` is what an earlier search has found, of which what this one finds has to be a part."""
    observed, names, weigh = coordinates[OBSERVATIONAL], module.config.concepts, module.visible
    energies = [change.mT @ change / len(change) for change in (module.edits(observed, k) for k in range(len(names)))]
    for k, name in enumerate(names):
        both = (moments[OBSERVATIONAL].covariance + moments[name].covariance) / 2
        module.readers[k], module.writers[k] = reader(energies[k], both, weigh, module.readers.shape[2], _LOADED)
    if module.searches:
        found = find_support(coordinates, energies, moments, names, weigh)
        module.find_graph(*(found if before is None else agreed(before, found)))
    if base.kind == "images" and base.embeds and not wants_encoder(base):
        module.find_order(find_order(base, module, observed))


class _Metric:
    """L, with |e L| the size of a decoder input's difference e in pictures: a matrix (D, D), or its diagonal (D,)."""

    def __init__(self, directions: Directions, variance: Tensor) -> None:
        spread, matrix = variance.clamp_min(0).sqrt(), directions.matrix
        self.matrix: Tensor
        if matrix.ndim == 1:
            self.matrix = matrix
        elif len(matrix) > _WIDEST:
            squares = matrix.square().sum(1)
            self.matrix = (squares + _UNSEEN * squares.mean()).sqrt()
        else:  # in units of the encodings' spread, in which what is not shown counts alike
            scaled = matrix.double() * spread.double()[:, None]
            gram = scaled @ scaled.mT
            gram.diagonal().add_(_UNSEEN * gram.diagonal().mean() + 1e-12)
            self.matrix = (power(gram, 0.5) / spread.double().clamp_min(1e-6)[:, None]).float()

    def apply(self, latents: Tensor) -> Tensor:
        return latents * self.matrix if self.matrix.ndim == 1 else latents @ self.matrix


def _fit_coordinates(module: EditModule, encodings: EncodedDataset, metric: _Metric, center: Tensor) -> None:
    """Centre, principal axes and how far pictures show them."""
    size, rank = module.analysis.shape
    some = torch.arange(0, len(encodings), 1 + len(encodings) // (4 * _ROWS))
    latents = encodings.batch(some)["mean"].flatten(1) - center
    seen = metric.apply(latents)
    if size <= _WIDEST:
        values, axes = torch.linalg.eigh((seen.mT @ seen / len(seen)).double())
        values, axes = values.flip(0)[:rank], axes.flip(1)[:, :rank]
    else:
        _, singular, axes = torch.svd_lowrank(seen, q=min(rank, *seen.shape), niter=4)
        values, axes = singular.double().square() / len(seen), axes.double()
        values = torch.cat([values, values.new_zeros(rank - len(values))])
        axes = torch.cat([axes, axes.new_zeros(size, rank - axes.shape[1])], dim=1)
    deviations = values.clamp_min(_FLAT * values.mean().item() + 1e-12).sqrt()
    if metric.matrix.ndim == 1:
        inverse = axes.mT / metric.matrix.double().clamp_min(1e-12)
        forward = axes * metric.matrix.double()[:, None]
    else:
        forward = metric.matrix.double() @ axes
        inverse = torch.linalg.lstsq(metric.matrix.double().mT, axes).solution.mT
    module.center.copy_(center)
    module.analysis.copy_((forward / deviations).float())
    module.synthesis.copy_((deviations[:, None] * inverse).float())
    module.visible.copy_((deviations / values.sum().clamp_min(1e-12).sqrt()).float())


def coordinates_of(module: EditModule, encodings: EncodedDataset, context: str) -> Tensor:
    """Coordinates (n, r) of a context's images, of evenly spaced ones where there are very many."""
    places = encodings.places(context, 4 * max(_ROWS, module.config.noise_size))
    return torch.cat([module.coordinates(encodings.batch(p)["mean"].to(module.device)) for p in places.split(_CHUNK)])


def map_to(module: EditModule, encodings: EncodedDataset, context: str) -> tuple[Tensor, Tensor]:
    """L (r, r) and s (r,) of the map c -> c + c L + s from a fitted module's observational coordinates to a context.

    `fit_maps` fits one to every concept; this is one for a context that the module does not know.
    """
    observed = Moments(len(module.memory), module.mean, module.factor.mT @ module.factor)
    return gaussian_map(observed, Moments.of(coordinates_of(module, encodings, context)), module.visible)


def _check_contexts(encodings: EncodedDataset, concepts: tuple[str, ...]) -> None:
    for name in (OBSERVATIONAL, *concepts):
        if name not in encodings.context_names:
            raise DataError(
                f"maps go from {OBSERVATIONAL!r} to every concept's context: there are no images of {name!r}"
            )
        if (found := len(encodings.places(name))) < 2:
            raise DataError(f"context {name!r} has {found} image, a covariance takes two at least: add images of it")


def _check_moments(moments: dict[str, Moments]) -> None:
    observed = moments[OBSERVATIONAL]
    for name, found in moments.items():
        if not found.mean.isfinite().all() or not found.covariance.isfinite().all():
            raise DataError(f"encodings of context {name!r} are not finite: does the base take these images?")
        if found.covariance.diagonal().max() < 1e-10:
            raise DataError(
                f"all images of context {name!r} look the same to the base: nothing can be learned from copies of one "
                "image"
            )
        if name == OBSERVATIONAL or min(found.count, observed.count) < _TELLING:
            continue
        deviation = (found.covariance.diagonal() + observed.covariance.diagonal()).sqrt()
        error = deviation * math.sqrt(1 / found.count + 1 / observed.count)
        if ((found.mean - observed.mean).abs() < 3.5 * error).all():
            ratio = (found.covariance.diagonal() / observed.covariance.diagonal()).log().abs()
            if (ratio < 3.5 * math.sqrt(2 / found.count + 2 / observed.count)).all():
                warnings.warn(
                    f"images of context {name!r} do not differ from observational ones as far as the base shows: an "
                    "intervention on it will change nothing",
                    stacklevel=3,
                )
