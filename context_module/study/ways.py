"""Ways to compute the same thing, beside each other: the one that was taken, and the plain one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from context_module.adapters.nvae import NVAE
from context_module.adapters.nvae.layers import BatchNorm
from context_module.data import ImageReader
from context_module.nn import iterated, solved
from context_module.study.timing import ratio

__all__ = ["compare_decoding", "compare_equations", "compare_reading"]

_ROWS = 448
_IMAGES = 1024


def compare_equations(blocks: int, width: int, repeats: int) -> float:
    """How many times faster structural equations of so many blocks are solved than iterated, gradients included.

    Each row is intervened on in one block; the graph is acyclic, so that both come to the same values.
    """
    generator = torch.Generator().manual_seed(0)
    size = blocks * width
    allowed = torch.ones(blocks, blocks).triu(1).kron(torch.ones(width, width))
    effects = (0.3 * torch.randn(size, size, generator=generator) / size**0.5 * allowed).requires_grad_()
    own, strengths = torch.randn(_ROWS, size, generator=generator), torch.eye(blocks)[torch.arange(_ROWS) % blocks]

    def work(way: Callable[..., Tensor]) -> None:
        torch.autograd.grad(way(own, torch.zeros(size), strengths, effects).square().sum(), effects)

    return ratio(partial(work, iterated), partial(work, solved), repeats)


@torch.no_grad()
def compare_decoding(net: NVAE, repeats: int) -> tuple[float, float, float]:
    """How many times faster an NVAE decodes with channels last, by 128 latents at a time, and with norms folded in."""
    latents = torch.randn(_IMAGES, *net.latent_shape, generator=torch.Generator().manual_seed(0))

    def decode(at_once: int) -> None:
        for part in latents.split(at_once):
            net.decode(part)

    chunks = ratio(partial(decode, _IMAGES), partial(decode, 128), repeats)
    plain = NVAE(net.config).eval()
    plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    layout = ratio(lambda: plain.decode(latents[:128]), lambda: net.decode(latents[:128]), repeats)
    hooked = NVAE(net.config).eval()
    for module in hooked.modules():
        if isinstance(module, BatchNorm):  # which is run as a layer where it is watched
            module.register_forward_hook(lambda *_: None)
    folded = ratio(lambda: hooked.decode(latents[:128]), lambda: net.decode(latents[:128]), repeats)
    return layout, chunks, folded


def compare_reading(resolution: int, repeats: int) -> float:
    """How many times faster JPEG files of 640 x 480 pixels are read for a resolution than whole and scaled down."""
    from PIL import Image

    coarse = torch.randint(256, (12, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reader = ImageReader((3, resolution, resolution), resize=True)
    whole = ImageReader((3, 480, 640), resize=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.jpg"
        Image.fromarray(coarse.numpy()).resize((640, 480), Image.Resampling.BICUBIC).save(file, quality=90)

        def both(read: Callable[[Path], Tensor]) -> None:
            for _ in range(10):
                read(file)

        return ratio(partial(both, lambda path: reader.fit(whole(path), path)), partial(both, reader), repeats)
