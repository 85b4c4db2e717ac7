"""What costs nothing, beside a module: compositions of embeddings that take no training; and the base's own limit.

On the base's embeddings of real observational images, decoded: *latent arithmetic* adds to them the mean shift of
every intervened context; *Gaussian maps* add what the optimal-transport map between Gaussians, from ``obs`` to that
context, changes of them. *Reconstructions* are what the base makes of the real images themselves, of their embeddings
as a module gives it: the best that any module in front of it can do.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter
from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextData
from context_module.metrics import MIN_SAMPLES
from context_module.training import EncodedDataset, Moments, encode_dataset, gaussian_map

__all__ = ["Costless"]

_PER_CONTEXT = 3000  # images that moments are taken of
_WIDEST = 1024  # embeddings of more values are mapped along their leading principal axes
_RIDGE = 1e-3  # of the mean variance


class Costless:
    """Compositions that take no training, on one base and the same per-context images.

    Args:
        base: with embeddings.
        data: moments come from `train`; observational images from `test`, or where it has too few from `train`.
            Of a base's own samples, no encoder is asked for.
        samples: images of each composition, or as many as there are observational ones.
        batch_size: images encoded or decoded at a time.
        seed: of the base's deeper latents.
        start: decoder inputs (n, D), normalised, to be changed in place of those of observational images.
        encodings: what moments are taken of, in place of the images in `train`, which then are not encoded.
    """

    def __init__(
        self,
        base: DecoderAdapter,
        data: ContextData,
        samples: int,
        batch_size: int,
        seed: int,
        *,
        start: Tensor | None = None,
        encodings: EncodedDataset | None = None,
    ) -> None:
        self._base, self._batch_size = base, batch_size
        self._generator = torch.Generator().manual_seed(seed)
        if encodings is None:
            train = data.train
            chosen = torch.cat([train.places(name, _PER_CONTEXT) for name in train.context_names])
            encodings = encode_dataset(base, train.subset(chosen), batch_size=batch_size, progress=False)
        rows = {name: _rows(encodings, name) for name in encodings.context_names}
        self._start = self._observational(data, samples) if start is None else start
        self._seed = seed
        size = self._start.shape[1]
        every = torch.cat(list(rows.values()))
        self._axes = torch.svd_lowrank(every - every.mean(0), q=256, niter=2)[2] if size > _WIDEST else None
        moments = {name: _moments(found if self._axes is None else found @ self._axes) for name, found in rows.items()}
        observed = moments[OBSERVATIONAL]
        self._shifts = {name: found.mean(0) - rows[OBSERVATIONAL].mean(0) for name, found in rows.items()}
        even = torch.ones(len(observed.mean))
        self._maps = {name: gaussian_map(observed, found, even) for name, found in moments.items()}

    def _observational(self, data: ContextData, samples: int) -> Tensor:
        source = data.train
        if data.test is not None and data.test.counts.get(OBSERVATIONAL, 0) >= MIN_SAMPLES:
            source = data.test
        every = source.only([OBSERVATIONAL])
        some = every.subset(torch.arange(min(samples, len(every))))
        return _rows(encode_dataset(self._base, some, batch_size=self._batch_size, progress=False), OBSERVATIONAL)

    @cached_property
    def unchanged(self) -> Tensor:
        """What the base makes of the observational images (n, C, H, W), in [0, 1]: the same for every context."""
        return self._decode(self._start, torch.Generator().manual_seed(self._seed))

    def arithmetic(self, concepts: tuple[str, ...]) -> Tensor:
        """Images (n, C, H, W) in [0, 1] by latent arithmetic."""
        return self._decode(self._start + sum(self._shifts[name] for name in concepts))

    def maps(self, concepts: tuple[str, ...]) -> Tensor:
        """Images (n, C, H, W) in [0, 1] by Gaussian maps."""
        latents = self._start if self._axes is None else self._start @ self._axes
        changes = [latents @ linear + shift for linear, shift in (self._maps[name] for name in concepts)]
        change = torch.stack(changes).sum(0) if changes else torch.zeros_like(latents)
        return self._decode(self._start + (change if self._axes is None else change @ self._axes.mT))

    def reconstructions(self, images: Tensor) -> Tensor:
        """What the base makes of images (n, C, H, W) in [0, 1] by its embeddings alone, as behind a module."""
        return self._decode(self._encode(images))

    @torch.no_grad()
    def _encode(self, images: Tensor) -> Tensor:
        parts = images.split(self._batch_size)
        means = [self._base.encode(part.to(self._base.device, self._base.dtype)).mean for part in parts]
        return torch.cat([mean.float().cpu().flatten(1) for mean in means])

    @torch.no_grad()
    def _decode(self, latents: Tensor, generator: torch.Generator | None = None) -> Tensor:
        shape, base = self._base.latent.shape, self._base
        parts = latents.unflatten(1, shape).split(self._batch_size)
        decoded = [
            base.decode(part.to(base.device, base.dtype), generator=generator or self._generator) for part in parts
        ]
        return torch.cat([found.mean.float().cpu() for found in decoded]).clamp(0, 1)


def _rows(encoded: EncodedDataset, context: str) -> Tensor:
    return encoded.batch(encoded.places(context, _PER_CONTEXT))["mean"].flatten(1)


def _moments(rows: Tensor) -> Moments:
    """With a ridge in place of shrinkage, as the plainest of recipes has it."""
    covariance = (rows - rows.mean(0)).mT @ (rows - rows.mean(0)) / max(len(rows) - 1, 1)
    covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean() + 1e-12)
    return Moments(len(rows), rows.mean(0), covariance)
