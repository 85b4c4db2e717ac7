"""One folder of images, and contexts that are made of it: every concept is a change that is drawn into the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.data.context_data import ContextData
from context_module.data.dataset import ContextDataset
from context_module.data.folders import counted, files_below, split_names
from context_module.data.pictures import IMAGE_SUFFIXES, ImageReader, Resolution, without_unreadable
from context_module.errors import DataError

__all__ = ["TRANSFORMS", "AugmentedDataset", "augment"]

Transform = Callable[[Tensor, float], Tensor]


def augment(
    root: str | Path,
    *,
    transforms: Iterable[str] = ("crop", "flip", "warm", "blur", "overlay"),
    unseen: float = 0.2,
    resolution: Resolution | None = None,
    channels: int | None = None,
    skip_corrupt: bool = False,
    seed: int = 0,
) -> ContextData:
    """Contexts out of one folder of images: ``obs`` are the images as they are, each concept is a change to them.

    So whoever has pictures has data whose interventions are known to be what they are. The images are read, and
    changed, when needed; how strong the change is, is drawn for every image and change, by the seed.

    Args:
        root: the folder; images in folders below it are read, too, as by `image_folders`.
        transforms: names among `TRANSFORMS`, as a list or separated by commas. They are made in the order there.
        unseen: share of the images that is not trained on, but used for the held-out pairs and for `test`.
        resolution, channels, skip_corrupt: see `image_folders`.
        seed: of the unseen images and of the strengths.

    Returns:
        ContextData: to train on, all images but the unseen in ``obs`` and in the context of every transform; of the
        unseen, all in every pair of transforms, held out, and in every training context, to test on. Factors (N, K)
        are the strengths, 0 where a transform was not made, and the graph has no edges.

    Raises:
        DataError: for a missing folder, fewer than two images, an unknown transform or one that needs colour for grey
            images, a bad share, a corrupt or unusable image.
        ConceptError: for a transform that is named twice.
    """
    named = split_names(transforms)
    if unknown := [name for name in named if name not in TRANSFORMS]:
        raise DataError(f"no transform {', '.join(map(repr, unknown))}: expected some of {', '.join(TRANSFORMS)}")
    if not named:
        raise DataError(f"no transforms to make concepts of: give some of {', '.join(TRANSFORMS)}")
    if not 0 < unseen < 1:
        raise DataError(f"unseen must lie between 0 and 1, the share of images that is not trained on, got {unseen}")
    concepts = Concepts(sorted(named, key=list(TRANSFORMS).index))
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"no folder {root}: expected one that holds images")
    paths, others = files_below(root, IMAGE_SUFFIXES)
    if skip_corrupt and paths:
        paths = without_unreadable({OBSERVATIONAL: paths})[OBSERVATIONAL]
    if len(paths) < 2:
        raise DataError(f"{len(paths)} images in {root}: expected at least 2, to train on and to hold out")
    reader = ImageReader.of({OBSERVATIONAL: paths}, resolution, channels)
    if reader.shape[0] == 1 and (coloured := [name for name in concepts if name in _OF_COLOUR]):
        raise DataError(f"the transform {coloured[0]!r} is of colours, but the images are grey: leave it out")

    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(paths))
    n_unseen = min(max(round(unseen * len(paths)), 1), len(paths) - 1)
    # of all transforms, so that strengths do not depend on which are chosen
    drawn = torch.from_numpy(rng.random((len(paths), len(TRANSFORMS)))).float()
    strengths = drawn[:, [list(TRANSFORMS).index(name) for name in concepts]] / 2 + 0.5

    def part(contexts: Sequence[str], numbers: np.ndarray) -> AugmentedDataset:
        rows = torch.from_numpy(np.sort(numbers))
        return AugmentedDataset([paths[row] for row in rows.tolist()], strengths[rows], contexts, concepts, reader)

    pairs = [concepts.name(pair) for pair in combinations(concepts, 2)]
    return ContextData(
        part(concepts.training_contexts, shuffled[n_unseen:]),
        part(pairs, shuffled[:n_unseen]) if pairs else None,
        part(concepts.training_contexts, shuffled[:n_unseen]),
        graph=(),
        left_out=(counted(others),) if others else (),
    )


class AugmentedDataset(ContextDataset):
    """Every image in every context, changed as the context says; `augment` makes it.

    Args:
        paths: of the n images.
        strengths: float32 (n, K) in [0.5, 1], of every concept's transform for every image.
        contexts: their names.
        concepts: names among `TRANSFORMS`, in that order.
        reader: turns a path into an image.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        strengths: Tensor,
        contexts: Sequence[str],
        concepts: Concepts,
        reader: ImageReader,
    ) -> None:
        labels = torch.arange(len(contexts)).repeat_interleave(len(paths))
        masks = concepts.mask(list(contexts)).repeat_interleave(len(paths), 0)
        factors = strengths.repeat(len(contexts), 1) * masks
        super().__init__(concepts, contexts, labels, factors, tuple(concepts))
        self._paths, self._reader = list(paths), reader
        self._names, self._strengths = tuple(concepts), factors  # those of the images, whatever a view keeps

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._reader.shape

    def read(self, rows: Tensor) -> Tensor:
        return torch.stack([self._changed(row) for row in rows.tolist()])

    def _changed(self, row: int) -> Tensor:
        image = self._reader(self._paths[row % len(self._paths)])
        for name, strength in zip(self._names, self._strengths[row].tolist(), strict=True):
            if strength:
                image = TRANSFORMS[name](image, strength)
        return image.clamp(0, 1)


def _crop(image: Tensor, strength: float) -> Tensor:
    """The middle, from three quarters down to half of either side, as large as the whole."""
    height, width = image.shape[1:]
    kept = [max(round(side * (1 - strength / 2)), 1) for side in (height, width)]
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    middle = image[None, :, top : top + kept[0], left : left + kept[1]]
    return F.interpolate(middle, (height, width), mode="bilinear", antialias=True)[0]


def _flip(image: Tensor, strength: float) -> Tensor:
    """Upside down. (Left and right are as often either in most photos: their exchange would change nothing.)"""
    return image.flip(1)


def _cast(*gains: float) -> Transform:
    """A cast of colour: what full strength adds to red, green and blue, as shares of them."""
    return lambda image, strength: (image * (1 + strength * torch.tensor(gains))[:, None, None]).clamp(0, 1)


def _dark(image: Tensor, strength: float) -> Tensor:
    return image * (1 - 0.7 * strength)


def _blur(image: Tensor, strength: float) -> Tensor:
    """By a Gaussian of up to a twentieth of the shorter side."""
    sigma = strength * min(image.shape[1:]) / 20
    reach = math.ceil(2.5 * sigma)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1).float() ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).reshape(1, 1, -1, 1)
    padded = F.pad(image[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))[:, 0]


def _overlay(image: Tensor, strength: float) -> Tensor:
    """A white disc with a black rim in the lower right corner, of up to a quarter of the shorter side in radius."""
    height, width = image.shape[1:]
    corner = min(height, width) / 4
    down, right = (torch.arange(side) + 0.5 - (side - corner) for side in (height, width))
    distance = (down[:, None] ** 2 + right**2).sqrt() / (strength * corner)
    return torch.where(distance < 0.8, 1.0, torch.where(distance < 1, 0.0, image))


#: What can be done to an image (C, H, W) in [0, 1], with a strength in [0.5, 1], in the order in which it is done.
TRANSFORMS: Mapping[str, Transform] = {
    "crop": _crop,
    "flip": _flip,
    "warm": _cast(0.4, 0.0, -0.6),
    "cool": _cast(-0.6, 0.0, 0.4),
    "dark": _dark,
    "blur": _blur,
    "overlay": _overlay,
}
_OF_COLOUR = ("warm", "cool")
