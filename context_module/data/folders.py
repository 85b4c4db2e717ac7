"""Your own images: a folder per context, named as the context is (`obs/`, `smile/`, `smile+glasses/`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.contexts import OBSERVATIONAL, SEPARATOR, Concepts
from context_module.data.dataset import ContextData, ContextDataset
from context_module.errors import ConceptError, DataError

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "FolderContextDataset",
    "ImageReader",
    "as_image",
    "context_folders",
    "image_folders",
    "picture_pixels",
    "read_image",
    "split_names",
    "without_corrupt",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".npy")
_LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


class _UnreadableImage(DataError):
    """A file whose bytes are no whole image: the one fault `skip_corrupt` passes over."""


def image_folders(
    root: str | Path,
    *,
    concepts: Iterable[str] | None = None,
    resolution: int | None = None,
    channels: int | None = None,
    skip_corrupt: bool = False,
) -> ContextData:
    """Images on disk, read when needed, from a folder per context.

    A context's images are the PNG, JPEG and NPY files directly in its folder, in the order of their names. Hidden
    files and folders are passed over; files of other types too, with a warning. An NPY file holds one image, (H, W),
    (H, W, C) or (C, H, W), uint8 or floating point in [0, 1]. Transparency is dropped.

    Args:
        root: a folder that holds ``obs`` and at least one folder named after a single concept.
        concepts: the concept names in order, as a list or separated by commas. Default: the single names among the
            folders, sorted.
        resolution: scale the shorter side to this many pixels, antialiased, and crop the centre to a square. Default:
            leave images as they are; all must then have the size of the first.
        channels: 1 (grey) or 3 (RGB). Default: those of the first image.
        skip_corrupt: leave out files that cannot be decoded, with a warning that names them. This reads every file
            once now, for only a full read finds them all. Default: an error at the time such a file is read.

    Returns:
        ContextData: ``obs`` and the single concepts to train on, larger sets of interventions held out.

    Raises:
        DataError: for a missing root, no ``obs`` folder, no folder of a single concept, a folder without images, two
            folders of one context, a corrupt or unusable image.
        ConceptError: for a folder or a part of its name that is no concept.
        ImportError: if there are PNG or JPEG files and pillow is not installed.
    """
    folders, known = context_folders(root, concepts)
    files = _files_of_contexts(root, folders)
    if skip_corrupt:
        files = without_corrupt(files)
    reader = ImageReader.like(read_image(files[OBSERVATIONAL][0]), resolution, channels)

    train = {context: files[context] for context in known.training_contexts if context in files}
    held_out = {context: files[context] for context in files if context not in train}
    return ContextData(
        FolderContextDataset(train, known, reader), FolderContextDataset(held_out, known, reader) if held_out else None
    )


class FolderContextDataset(ContextDataset):
    """A `ContextDataset` over image files.

    Args:
        files: per context, the paths of its images.
        concepts: see `ContextDataset`.
        reader: turns a path into an image.
        factors, factor_names: see `ContextDataset`; a row per image, in the order of `files`.
    """

    def __init__(
        self,
        files: Mapping[str, list[Path]],
        concepts: Iterable[str],
        reader: ImageReader,
        factors: Tensor | None = None,
        factor_names: Iterable[str] = (),
    ) -> None:
        counts = torch.tensor([len(paths) for paths in files.values()])
        labels = torch.arange(len(files)).repeat_interleave(counts)
        super().__init__(concepts, files, labels, factors, factor_names)
        self._paths = [path for paths in files.values() for path in paths]
        self._reader = reader

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._reader.shape

    def read(self, rows: Tensor) -> Tensor:
        return torch.stack([self._reader(self._paths[row]) for row in rows.tolist()])


@dataclass(frozen=True)
class ImageReader:
    """Reads an image file as float32 `shape` in [0, 1].

    Attributes:
        shape: (C, H, W) of every image.
        resize: bring images to the (square) shape; otherwise another size is an error.
    """

    shape: tuple[int, int, int]
    resize: bool

    @classmethod
    def like(cls, image: Tensor, resolution: int | None, channels: int | None) -> ImageReader:
        """The reader for images such as this one (C, H, W), where `resolution` and `channels` do not say otherwise."""
        if resolution is not None and resolution < 1:
            raise DataError(f"resolution must be a positive number of pixels, got {resolution}")
        if channels not in (None, 1, 3):
            raise DataError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
        own_channels, height, width = image.shape
        size = (height, width) if resolution is None else (resolution, resolution)
        return cls((channels or own_channels, *size), resize=resolution is not None)

    def __call__(self, path: Path) -> Tensor:
        return self.fit(read_image(path), path)

    def fit(self, image: Tensor, source: object) -> Tensor:
        """Brings float32 (1 or 3, H, W) in [0, 1] to `shape`; `source` is what errors call the image."""
        channels, *size = self.shape
        if channels < len(image):
            image = (image * _LUMA).sum(0, keepdim=True)
        image = image.expand(channels, -1, -1)
        if self.resize:
            image = _resize_and_crop(image, size[0])
        elif list(image.shape[1:]) != size:
            raise DataError(
                f"{source} has {image.shape[1]}x{image.shape[2]} pixels where the first image has "
                f"{size[0]}x{size[1]}: set resolution to bring all images to one size"
            )
        return image.clamp(0, 1)  # sums of weights may exceed one by a rounding error


def context_folders(
    root: str | Path, concepts: Iterable[str] | None = None, kind: Literal["images", "texts"] = "images"
) -> tuple[dict[str, Path], Concepts]:
    """Per canonical context name its folder in `root`, and the concepts; arguments and errors as for `image_folders`.

    Args:
        kind: what is looked for, for the errors.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"no folder {root}: expected one that holds a folder per context, {OBSERVATIONAL!r} among them"
        )
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    singles = [name for name in names if name != OBSERVATIONAL and SEPARATOR not in name]
    if OBSERVATIONAL not in names:
        raise DataError(
            f"no folder {OBSERVATIONAL!r} in {root} for {kind} without an intervention; "
            f"folders found: {', '.join(names) or 'none'}"
        )
    if not singles:
        raise DataError(
            f"no folder of a single concept in {root}, so nothing to learn an intervention from; "
            f"folders found: {', '.join(names)}"
        )
    known = Concepts(singles if concepts is None else split_names(concepts))
    folders: dict[str, Path] = {}
    for name in names:
        try:
            context = known.name(name)
        except ConceptError as error:
            raise ConceptError(f"folder {root / name}: {error}") from None
        if context in folders:
            raise DataError(f"{root} holds two folders of context {context!r}: merge {name!r} into the other")
        folders[context] = root / name
    return folders, known


def split_names(names: Iterable[str]) -> list[str]:
    """A list of names, given as such or, as on a command line, separated by commas."""
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _files_of_contexts(root: str | Path, folders: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Per context, its image files in order."""
    files: dict[str, list[Path]] = {}
    ignored = []
    for context, folder in folders.items():
        visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        files[context] = [path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES]
        ignored += [path for path in visible if path.suffix.lower() not in IMAGE_SUFFIXES]
        if not files[context]:
            raise DataError(
                f"no images in {folder}: expected {', '.join(IMAGE_SUFFIXES)} files directly in it; "
                "add some or remove the folder"
            )
    if ignored:
        warnings.warn(
            f"ignored {len(ignored)} entries in {root} that are not {', '.join(IMAGE_SUFFIXES)} files, "
            f"the first one {ignored[0]}",
            stacklevel=3,
        )
    return files


def without_corrupt(files: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """Reads every file, per context; drops those that cannot be decoded, with a warning that names them.

    Raises:
        DataError: if a context is left without images.
    """
    kept: dict[str, list[Path]] = {}
    corrupt = []
    for context, paths in files.items():
        kept[context] = []
        for path in paths:
            try:
                read_image(path)
                kept[context].append(path)
            except _UnreadableImage:
                corrupt.append(path)
        if not kept[context]:
            raise DataError(f"all {len(paths)} images of context {context!r} are corrupt, the first one {paths[0]}")
    if corrupt:
        warnings.warn(f"skipped {len(corrupt)} corrupt images: {', '.join(map(str, corrupt))}", stacklevel=3)
    return kept


def read_image(path: Path) -> Tensor:
    """The image at `path` as float32 (1 or 3, H, W) in [0, 1].

    Raises:
        DataError: for a file that cannot be decoded, or that `picture_pixels` or `as_image` refuses.
    """
    try:
        pixels = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else _read_picture(path)
    except (DataError, FileNotFoundError, PermissionError, ImportError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise _UnreadableImage(
            f"cannot read {path}: {error}. Replace the file, or set skip_corrupt=True to leave such files out"
        ) from error
    return as_image(pixels, path)


def _read_picture(path: Path) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"reading {path} needs pillow: pip install context-module[train]") from error
    with Image.open(path) as picture:
        return picture_pixels(picture, path)


def picture_pixels(picture: Image.Image, source: object) -> np.ndarray:
    """A pillow image, upright, as uint8 (H, W) if it is grey, else (H, W, 3); transparency is dropped.

    Raises:
        DataError: for more than 8 bits per channel.
    """
    from PIL import ImageOps

    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        raise DataError(
            f"{source} has pixels of mode {picture.mode!r}: expected 8 bits per channel. Save it with 8 bits, or as "
            "an array of floats in [0, 1]"
        )
    grey = picture.mode in ("1", "L", "LA", "La")
    return np.asarray(ImageOps.exif_transpose(picture).convert("L" if grey else "RGB"))


def as_image(pixels: Any, source: object) -> Tensor:
    """An array (H, W), (H, W, C) or (C, H, W), uint8 or floats in [0, 1], as float32 (C, H, W) in [0, 1].

    Raises:
        DataError: for anything else, called `source`.
    """
    if not isinstance(pixels, np.ndarray) or not (pixels.dtype == np.uint8 or pixels.dtype.kind == "f"):
        found = getattr(pixels, "dtype", type(pixels).__name__)
        raise DataError(f"{source} holds {found}: expected an array of uint8, or of floats in [0, 1]")
    shape = pixels.shape
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and shape[2] in (1, 3):
        pixels = pixels.transpose(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or 0 in shape:
        raise DataError(
            f"{source} has shape {shape}: expected one image (H, W), (H, W, C) or (C, H, W) with C = 1 or 3"
        )
    image = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
    if pixels.dtype == np.uint8:
        return image.div_(255)
    if not image.isfinite().all():
        raise DataError(f"{source} holds NaN or infinite values: replace or remove the file")
    if image.min() < 0 or image.max() > 1:
        raise DataError(
            f"{source} holds floats from {image.min():.4g} to {image.max():.4g}: expected [0, 1]; "
            "rescale them or save uint8"
        )
    return image


def _resize_and_crop(image: Tensor, resolution: int) -> Tensor:
    """(C, H, W) to (C, resolution, resolution): the shorter side scaled, the longer one cropped about the centre."""
    height, width = image.shape[1:]
    shorter = min(height, width)
    if shorter != resolution:
        height, width = (round(side * resolution / shorter) for side in (height, width))
        image = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
    top, left = (height - resolution) // 2, (width - resolution) // 2
    return image[:, top : top + resolution, left : left + resolution]
