"""A data set as its base sees it: encoded once, so that training in the latent space never runs the base again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter, Encoding
from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextDataset, LabelledDataset, SampledDataset, evaluation_loader
from context_module.errors import DataError
from context_module.io import MappedTable, cached_table, progress_bar

__all__ = ["EncodedDataset", "EncodingLayout", "encode_dataset"]

_ROUNDED = 2 / 255  # images are kept in 8 bits
_CHUNK = 1024  # rows in memory at a time for the moments
_SAME = 1e-11  # variance of encodings that is but rounding


@dataclass(frozen=True)
class EncodingLayout:
    """How an encoding lies in a row of numbers: mean, features, log-variance; what can be told without is left out.

    Attributes:
        latent_shape: of the mean and the log-variance.
        num_features: D, or None for a base whose features are its mean.
        has_log_var: false for a deterministic encoder.
        half: whether rows are float16.
    """

    latent_shape: tuple[int, ...]
    num_features: int | None
    has_log_var: bool
    half: bool = False

    @classmethod
    def of(cls, encoding: Encoding, half: bool = False) -> EncodingLayout:
        """The layout for encodings such as this one."""
        features, mean = encoding.features, encoding.mean.flatten(1)
        same = features.data_ptr() == mean.data_ptr() and torch.equal(features, mean)  # by construction, not by chance
        width = None if same else features.shape[1]
        return cls(tuple(encoding.mean.shape[1:]), width, encoding.log_var is not None, half)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Numbers that the mean, the features and the log-variance take in a row."""
        size = math.prod(self.latent_shape)
        return size, self.num_features or 0, size if self.has_log_var else 0

    def pack(self, encoding: Encoding) -> Tensor:
        """Rows (B, sum of widths), float32 or float16, on the CPU; DataError for numbers beyond float16's range."""
        parts = [encoding.mean]
        if self.num_features is not None:
            parts.append(encoding.features)
        if self.has_log_var and encoding.log_var is not None:
            parts.append(encoding.log_var)
        rows = torch.cat([part.flatten(1).float() for part in parts], dim=1).cpu()
        return _halved(rows) if self.half else rows

    def unpack(self, rows: Tensor) -> dict[str, Tensor]:
        """Of rows ``features`` (B, D), ``mean`` and ``log_var`` (B, *latent_shape), float32, as views if possible."""
        mean, features, log_var = rows.float().split(self.widths, dim=1)
        shape = (len(rows), *self.latent_shape)
        return {
            "features": mean if self.num_features is None else features,
            "mean": mean.reshape(shape),
            "log_var": log_var.reshape(shape) if self.has_log_var else torch.full(shape, -torch.inf),
        }


class EncodedDataset(LabelledDataset):
    """Encodings in place of images, in memory or in a file; with the contexts and order of the data set encoded.

    Item i is ``{"features" (D,), "mean" (*latent_shape), "log_var" (*latent_shape), "mask": bool (K,)}``, float32.
    A deterministic encoder has a log-variance of minus infinity.

    Args:
        dataset: where contexts and labels come from.
        table: a row per image, as `layout` says, float32 or float16.
        layout: how a row is read.
    """

    def __init__(self, dataset: ContextDataset, table: Tensor | MappedTable, layout: EncodingLayout) -> None:
        self.concepts, self.context_names, self.labels = dataset.concepts, dataset.context_names, dataset.labels
        self.table, self.layout = table, layout
        self._masks = self.concepts.mask(self.context_names)

    @property
    def intervened(self) -> bool:
        """Whether there is a context with an intervention."""
        return any(name != OBSERVATIONAL for name in self.context_names)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {**self.layout.unpack(self.table[indices]), "mask": self._masks[self.labels[indices]]}

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Average mean, variance of the means and average variance over all items, each (latent size,), float32.

        One pass in order, a chunk at a time: a large file is never in memory as a whole.

        Raises:
            DataError: for encodings that are not finite, or all the same, as of copies of one image.
        """
        size = self.layout.widths[0]
        total, squares, variances = torch.zeros(3, size, dtype=torch.float64)
        for indices in torch.arange(len(self)).split(_CHUNK):
            batch = self.batch(indices)
            mean = batch["mean"].flatten(1).double()
            total += mean.sum(0)
            squares += mean.square().sum(0)
            variances += batch["log_var"].flatten(1).exp().sum(0)
        mean = total / len(self)
        variance = (squares / len(self) - mean.square()).clamp_min(0) * len(self) / max(len(self) - 1, 1)
        if not (mean.isfinite().all() and variance.isfinite().all()):
            raise DataError("the base's encodings of these images are not finite: does it take such images?")
        if variance.max() < _SAME + 4 * (torch.finfo(torch.float32).eps * mean).square().max():
            raise DataError(
                "all images look the same to the base, which encodes them alike: nothing can be learned from copies "
                "of one image, or with an encoder that does not look at them"
            )
        return mean.float(), variance.float(), (variances / len(self)).float()


def encode_dataset(
    base: DecoderAdapter,
    dataset: ContextDataset,
    *,
    cache_dir: str | Path | None = None,
    half: bool = False,
    batch_size: int = 256,
    progress: bool = True,
) -> EncodedDataset:
    """Encode every image of a data set with a base, on the base's device.

    Of samples of the base itself the decoder inputs are known (`from_samples`): nothing is encoded, so that a
    generator needs no encoder.

    Args:
        base: in eval mode.
        dataset: its images, in order.
        cache_dir: keep the encodings in a folder ``encodings-KEY`` in there, memory-mapped. The key is that of the
            base's weights and statistics and of the images (`ContextDataset.fingerprint`), whatever their contexts: a
            pooled view finds those of its source. A build that was killed goes on where it stopped; of several
            processes one builds and the others wait. A folder that is no longer wanted may be deleted. Default: in
            memory.
        half: keep them in float16, which takes half the room, and rounds a number by 1 / 2,048 of it at the most.
            They are float32 again when read.
        batch_size: images encoded at a time.
        progress: show a bar while encoding.

    Raises:
        ShapeError: for images the base does not take.
        DataError: for a `cache_dir` that cannot be written, or without room; for encodings beyond float16's range.
    """
    first = dataset[0]["x"][None]
    base.check_inputs(first)
    if isinstance(dataset, SampledDataset) and _decodes(base, dataset, first):
        return EncodedDataset(dataset, dataset.latents.flatten(1), EncodingLayout(base.latent.shape, None, False))
    with torch.no_grad():
        encoding = base.encode(first.to(base.device))
    layout = EncodingLayout.of(encoding, half)

    def rows_from(start: int) -> Iterator[Tensor]:
        return _rows(base, dataset, layout, start, batch_size, progress)

    if cache_dir is None:
        return EncodedDataset(dataset, torch.cat(list(rows_from(0))), layout)
    described = {"base": _fingerprint(base), "images": dataset.fingerprint()}
    if half:
        described["dtype"] = "float16"
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    first_row = layout.pack(encoding)[0]
    folder = Path(cache_dir) / f"encodings-{key}"
    table = cached_table(folder, described, len(dataset), first_row, rows_from, progress=progress)
    return EncodedDataset(dataset, table, layout)


@torch.no_grad()
def _decodes(base: DecoderAdapter, samples: SampledDataset, first: Tensor) -> bool:
    """Whether what is known of the samples is all that this base says of images, as the first of them shows."""
    shape = tuple(base.latent.shape)
    if tuple(samples.latents.shape[1:]) != shape or base.num_features != math.prod(shape):
        return False
    made = base.decode(samples.latents[:1].to(base.device, base.dtype)).mean.float().cpu().clamp(0, 1)
    return torch.allclose(made, first, atol=_ROUNDED)


@torch.no_grad()
def _rows(
    base: DecoderAdapter, dataset: ContextDataset, layout: EncodingLayout, start: int, batch_size: int, progress: bool
) -> Iterator[Tensor]:
    """The encodings from number `start` on, a batch of rows at a time."""
    rest = dataset.pooled().subset(torch.arange(start, len(dataset)))  # pooled: no context may be left without images
    with progress_bar(total=len(dataset), initial=start, desc="encoding", unit="image", disable=not progress) as bar:
        for batch in evaluation_loader(rest, batch_size):
            base.check_inputs(batch["x"])
            yield layout.pack(base.encode(batch["x"].to(base.device)))
            bar.update(len(batch["x"]))


def _halved(rows: Tensor) -> Tensor:
    halved = rows.half()
    beyond = halved.isinf() & rows.isfinite()
    if beyond.any():
        raise DataError(f"encodings reach {rows[beyond].abs().max():.3g}, float16 ends at 65504: keep them in float32")
    return halved


def _fingerprint(base: DecoderAdapter) -> str:
    """A hash of what makes encodings: layers, every bit of the weights and statistics, and this library's version.

    `context_module.base.fingerprint.fingerprint` is rounded and without statistics: for decoding, those may be
    readjusted.
    """
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(base))  # strides and activations are not among the weights
    digest = hashlib.sha256(f"{importlib.metadata.version('context-module')} {base.latent} {layers}".encode())
    for name, tensor in itertools.chain(base.named_parameters(), base.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
