"""Images in files, and data sets of them."""

import numpy as np
import torch
from PIL import Image

from context_module.data import ArrayContextDataset
from helpers.draws import seeded


def flat(value, height=8, width=8):
    """An RGB image of one grey value."""
    return np.full((height, width, 3), value, dtype=np.uint8)


def save_picture(path, pixels, **options):
    """Write an image as its suffix says, in folders that need not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path, **options)


def write_photos(root, size, counts):
    """So many PNGs of noise, of size (height, width), in a folder per context."""
    rng = np.random.default_rng(0)
    for context, count in counts.items():
        for number in range(count):
            path = root / context / f"{number:02}.png"
            save_picture(path, rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return root


def rows_of(part, context):
    """The numbers of a context's images, where image i is of grey value 10 i."""
    return ((part.select(context) * 255).mean((1, 2, 3)) / 10).round().int().tolist()


def random_data(shape, per_context=8):
    """Images of noise in the contexts obs, a, b and a+b, one context after the other."""
    images = torch.randint(0, 256, (4 * per_context, *shape), dtype=torch.uint8, generator=seeded())
    return ArrayContextDataset(
        images, torch.arange(4).repeat_interleave(per_context), ("obs", "a", "b", "a+b"), ("a", "b")
    )
