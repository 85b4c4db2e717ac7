"""Data in contexts: the quad data, your own folders, and the loader that mixes contexts in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from context_module.data.base import ArrayContextDataset, ContextData, ContextDataset
from context_module.data.folders import FolderContextDataset, image_folders
from context_module.data.loader import MixedContextBatchSampler, evaluation_loader, mixed_context_loader
from context_module.data.quad import quad
from context_module.errors import DataError

__all__ = [
    "ArrayContextDataset",
    "ContextData",
    "ContextDataset",
    "FolderContextDataset",
    "MixedContextBatchSampler",
    "evaluation_loader",
    "image_folders",
    "load_data",
    "mixed_context_loader",
    "quad",
]

_QUAD_VERSIONS = {"quad": "independent", "quad_dependent": "dependent"}


def load_data(
    name_or_dir: str | Path,
    *,
    resolution: int | None = None,
    channels: int | None = None,
    samples_per_context: int | None = None,
    skip_corrupt: bool = False,
    seed: int = 0,
    **options: Any,
) -> ContextData:
    """The data a recipe names: ``"quad"``, ``"quad_dependent"``, or a directory with a folder per context.

    Args:
        name_or_dir: as above; a name wins over a directory of that name (write ``./quad``).
        resolution: height and width in pixels. Default: 64 for the quad data, the images' own size for a directory.
        channels: 3 (RGB) or 1 (grey). Default: 3 for the quad data, the first image's for a directory.
        samples_per_context: training images made per context; generated data only.
        skip_corrupt: of a directory, leave out files that cannot be read; see `image_folders`.
        seed: of generated data; images in a directory are what they are.
        **options: further arguments of `quad` or `image_folders`.

    Raises:
        DataError: for anything that is neither a known name nor a directory, `samples_per_context` for a directory,
            and whatever `quad` or `image_folders` refuse.
    """
    if resolution is not None:
        options["resolution"] = resolution
    if str(name_or_dir) in _QUAD_VERSIONS:
        if channels not in (None, 3):
            raise DataError(
                f"the {name_or_dir} data has 3 channels, got channels={channels}: use a base for RGB images"
            )
        if samples_per_context is not None:
            options["samples_per_context"] = samples_per_context
        return quad(_QUAD_VERSIONS[str(name_or_dir)], seed=seed, **options)
    if not Path(name_or_dir).is_dir():
        raise DataError(
            f"unknown data {str(name_or_dir)!r}: expected {', '.join(_QUAD_VERSIONS)}, "
            "or a directory that holds a folder per context"
        )
    if samples_per_context is not None:
        raise DataError(
            f"samples_per_context is for generated data, but {name_or_dir} is a directory, used whole: leave it out"
        )
    return image_folders(name_or_dir, channels=channels, skip_corrupt=skip_corrupt, **options)
