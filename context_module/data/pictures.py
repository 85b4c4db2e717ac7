"""Images in files: what is read, and how it becomes a tensor of one shape."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageReader",
    "Resolution",
    "as_image",
    "channels_of",
    "check_channels",
    "picture_pixels",
    "read_image",
    "white_of",
    "without_unreadable",
]

T = TypeVar("T")

_MOST_PIXELS = 1 << 26  # of one picture, channels included: some kilobytes can be gigabytes inside
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".npy")
_LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
_GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N")  # modes of pillow
_WHITE = 255


#: Pixels of a square's side, or height and width.
Resolution = int | tuple[int, int]


@dataclass(frozen=True)
class ImageReader:
    """Reads an image file as float32 `shape` in [0, 1].

    Attributes:
        shape: (C, H, W) of every image.
        resize: bring images to the shape; otherwise another size is an error.
        white: what stands for 1 in images of uint8: 255, or 1 in data of masks.
    """

    shape: tuple[int, int, int]
    resize: bool
    white: int = _WHITE

    @classmethod
    def of(
        cls, files: Mapping[str, Sequence[Path]], resolution: Resolution | None, channels: int | None
    ) -> ImageReader:
        """The reader for these files per context, where `resolution` and `channels` do not say otherwise.

        The first image gives the size. There are three channels if any file has colour, as its header says. Where
        uint8 images are all of 0 and 1, a mask's 1 is white, with a warning.

        Raises:
            DataError: for a bad resolution or number of channels, a first image that cannot be read.
        """
        first, *others = (path for some in files.values() for path in some)
        pixels = _read(first, _pixels)
        image = as_image(pixels, first)
        check_channels(channels)
        if channels is None:
            headers = (_if_readable(_header_channels, path) for path in others)
            channels = channels_of(itertools.chain([len(image)], headers))
        every = itertools.chain([pixels], (_if_readable(_mapped_pixels, path) for path in others))
        reader = cls.like(image, resolution, channels)
        return cls(reader.shape, reader.resize, white_of(every, f"the images beside {first}"))

    @classmethod
    def like(cls, image: Tensor, resolution: Resolution | None, channels: int | None) -> ImageReader:
        """The reader for images such as this one (C, H, W), where `resolution` and `channels` do not say otherwise."""
        own_channels, height, width = image.shape
        size = (height, width) if resolution is None else _sides(resolution)
        check_channels(channels)
        return cls((channels or own_channels, *size), resize=resolution is not None)

    def __call__(self, path: Path) -> Tensor:
        return self.fit(read_image(path, self.white, max(self.shape[1:]) if self.resize else None), path)

    def fit(self, image: Tensor, source: object) -> Tensor:
        """Brings float32 (1 or 3, H, W) in [0, 1] to `shape`; `source` is what errors call the image."""
        channels, *size = self.shape
        if channels < len(image):
            image = (image * _LUMA).sum(0, keepdim=True)
        image = image.expand(channels, -1, -1)
        if self.resize:
            image = _resize_and_crop(image, *size)
        elif list(image.shape[1:]) != size:
            raise DataError(
                f"{source} has {image.shape[1]}x{image.shape[2]} pixels where the first image has "
                f"{size[0]}x{size[1]}: set resolution to bring all images to one size"
            )
        return image.clamp(0, 1)  # sums of weights may exceed one by a rounding error


def check_channels(channels: int | None) -> None:
    """Raise DataError for a number of channels that is neither 1 nor 3."""
    if channels not in (None, 1, 3):
        raise DataError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")


def channels_of(found: Iterable[int | None]) -> int:
    """The channels of data whose images have these: 3 if any has colour, at the first of which the search ends."""
    return 3 if any(channels == 3 for channels in found) else 1


def white_of(images: Iterable[Any], what: str) -> int:
    """What stands for white in a whole data set of uint8: 1 if no value is larger, with a warning, else 255.

    Args:
        images: arrays or tensors. Of those that are not uint8 no more is asked, and the search ends at the first value
            above 1: in data that is not of masks, with the first image that is not black.
        what: the warning calls them.
    """
    largest = 0
    for pixels in images:
        if str(getattr(pixels, "dtype", "")).removeprefix("torch.") == "uint8" and 0 not in pixels.shape:
            largest = max(largest, int(pixels.max()))
            if largest > 1:
                return _WHITE
    if largest == 1:
        warnings.warn(
            f"the largest value in {what} is 1, of 255 that uint8 holds: taken for masks, whose 1 is white. Save them "
            "as bool, or multiplied by 255",
            stacklevel=3,
        )
        return 1
    return _WHITE


def without_unreadable(files: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """Reads every file, per context; drops those that cannot be read, with a warning that names them.

    Raises:
        DataError: if a context is left without images.
    """
    kept: dict[str, list[Path]] = {}
    skipped: list[Path] = []
    for context, paths in files.items():
        kept[context] = []
        for path in paths:
            (kept[context] if _reads(path) else skipped).append(path)
        if not kept[context]:
            raise DataError(
                f"all {len(paths)} images of context {context!r} are corrupt or unusable, the first one {paths[0]}"
            )
    if skipped:
        warnings.warn(
            f"skipped {len(skipped)} corrupt or unusable images: {', '.join(map(str, skipped))}", stacklevel=3
        )
    return kept


def _reads(path: Path) -> bool:
    try:
        read_image(path)
    except (DataError, OSError):  # OSError: a broken link, no permission
        return False
    return True


def read_image(path: Path, white: int = _WHITE, least: int | None = None) -> Tensor:
    """The image at `path` as float32 (1 or 3, H, W) in [0, 1].

    Args:
        path: of the file.
        white: what stands for 1 in uint8.
        least: so many pixels a side are enough: a larger JPEG file may be decoded at a half, a quarter or an eighth of
            its size, which takes a fraction of the time.

    Raises:
        DataError: for a file that cannot be decoded, or that `picture_pixels` or `as_image` refuses.
        OSError: for a file that is not there, or may not be read.
    """
    return as_image(_read(path, partial(_pixels, least=least)), path, white)


def _read(path: Path, how: Callable[[Path], T]) -> T:
    try:
        return how(path)
    except (DataError, FileNotFoundError, PermissionError, ImportError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise DataError(
            f"cannot read {path}: {error}. Replace the file, or set skip_corrupt=True to leave such files out"
        ) from error


def _pixels(path: Path, least: int | None = None) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # a header that lies is found before memory is taken
        _check_pixels(array.shape, path)
        return np.array(array)
    with _opened(path) as picture:
        if least is not None:
            _check_pixels(picture.size, path)
            picture.draft(None, (least, least))  # of formats that can
        return picture_pixels(picture, path)


def _mapped_pixels(path: Path) -> np.ndarray:
    """Of an NPY file no more is read than is asked for."""
    return np.load(path, mmap_mode="r", allow_pickle=False) if path.suffix.lower() == ".npy" else _pixels(path)


def _header_channels(path: Path) -> int:
    if path.suffix.lower() == ".npy":
        shape = _mapped_pixels(path).shape
        return 3 if len(shape) == 3 and 1 not in (shape[0], shape[2]) else 1
    with _opened(path) as picture:
        return 1 if picture.mode in (*_GREY, "I") else 3


def _if_readable(how: Callable[[Path], T], path: Path) -> T | None:
    """None for a file that cannot be read: that is said when it is needed."""
    try:
        return _read(path, how)
    except (DataError, OSError):
        return None


def _check_pixels(sizes: tuple[int, ...], source: object) -> None:
    if math.prod(sizes) > _MOST_PIXELS:
        raise DataError(
            f"{source} has {' x '.join(map(str, sizes))} pixels, more than {_MOST_PIXELS:,d}: scale it down before"
        )


def _opened(path: Path) -> Image.Image:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"reading {path} needs pillow: pip install context-module[train]") from error
    path.stat()  # an error of the path itself: some versions of pillow name what a link leads to
    return Image.open(path)


def picture_pixels(picture: Image.Image, source: object) -> np.ndarray:
    """A pillow image, upright, as uint8 (H, W) if it is grey, else (H, W, 3).

    What is transparent is laid on black, so that no colour shows that nobody sees. Grey of 16 bits is scaled to 8. Of
    several frames or pages the first is taken.

    Raises:
        DataError: for other pixels of more than 8 bits per channel.
    """
    from PIL import Image, ImageOps

    _check_pixels(picture.size, source)
    deep = picture.mode == "I" and picture.format == "PNG"  # 16 bits, which some versions of pillow widen to 32
    if not deep and (picture.mode in ("I", "F") or (picture.mode.startswith("I;") and picture.mode not in _GREY)):
        raise DataError(
            f"{source} has pixels of mode {picture.mode!r}: expected 8 bits per channel, or grey of 16. Save it so, "
            "or as an array of floats in [0, 1]"
        )
    grey = deep or picture.mode in _GREY
    picture = ImageOps.exif_transpose(picture)
    if deep or picture.mode.startswith("I;"):
        return (np.asarray(picture).astype(np.float32) / 257).round().astype(np.uint8)
    if picture.has_transparency_data:
        if picture.mode == "La":  # premultiplied: there is no direct way
            picture = picture.convert("LA")
        ground = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        ground.alpha_composite(picture.convert("RGBA"))
        picture = ground
    return np.asarray(picture.convert("L" if grey else "RGB"))


def as_image(pixels: Any, source: object, white: int = _WHITE) -> Tensor:
    """An array (H, W), (H, W, C) or (C, H, W), uint8, bool or floats in [0, 1], as float32 (C, H, W) in [0, 1].

    Args:
        pixels: the array.
        source: what errors call it.
        white: what stands for 1 in uint8.

    Raises:
        DataError: for anything else.
    """
    if not isinstance(pixels, np.ndarray) or not (pixels.dtype == np.uint8 or pixels.dtype.kind in "fb"):
        found = getattr(pixels, "dtype", type(pixels).__name__)
        raise DataError(f"{source} holds {found}: expected an array of uint8, bool, or of floats in [0, 1]")
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
        return image.div_(white)
    if not image.isfinite().all():
        raise DataError(f"{source} holds NaN or infinite values: replace or remove the file")
    if image.min() < 0 or image.max() > 1:
        raise DataError(
            f"{source} holds floats from {image.min():.4g} to {image.max():.4g}: expected [0, 1]; "
            "rescale them or save uint8"
        )
    return image


def _sides(resolution: Resolution) -> tuple[int, int]:
    """Height and width; DataError for what are none."""
    sides = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise DataError(f"resolution must be a positive number of pixels, or height and width, got {resolution}")
    return sides


def _resize_and_crop(image: Tensor, height: int, width: int) -> Tensor:
    """(C, H, W) to (C, height, width): scaled until it covers that, and what sticks out cropped about the centre."""
    scale = max(height / image.shape[1], width / image.shape[2])
    if scale != 1:
        covering = (max(height, round(scale * image.shape[1])), max(width, round(scale * image.shape[2])))
        image = F.interpolate(image[None], covering, mode="bilinear", antialias=True)[0]
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]
