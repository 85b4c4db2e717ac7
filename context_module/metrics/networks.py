"""The small convolutional network that tells concepts and factors from images, and its short training."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from context_module.data import ContextDataset, LabelledDataset, mixed_context_loader
from context_module.errors import CheckpointError, ShapeError
from context_module.io import load_strictly, load_tensors, progress_bar, save_tensors

__all__ = ["ConvNet", "train_network"]

_WIDTHS, _FEATURES = (32, 64, 128), 128
_LARGEST = 32  # pixels a side that the convolutions see
_LEARNING_RATE = 3e-3
_BATCH = 256


class ConvNet(nn.Module):
    """Reads numbers off images: three strided convolutions, which also see where they are, and a hidden layer.

    Images of more than 32 pixels a side are averaged down first, so that training costs the same at any resolution.

    Args:
        image_shape: (C, H, W).
        outputs: how many numbers.
        pool: keep of every feature map only its maximum, so that a part of the image is recognised in any place.
        dropout: share of a layer's feature maps that is left out in training.

    Attributes:
        image_shape: as given.
    """

    coordinates: Tensor

    def __init__(
        self, image_shape: tuple[int, int, int], outputs: int, *, pool: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        channels, height, width = image_shape
        self._size = min(height, _LARGEST), min(width, _LARGEST)
        across, down = (torch.linspace(-1, 1, side) for side in self._size[::-1])
        self.register_buffer("coordinates", torch.stack(torch.meshgrid(across, down, indexing="xy")))
        layers: list[nn.Module] = []
        for narrow, wide in zip((channels + 2, *_WIDTHS), _WIDTHS, strict=False):
            convolution = nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
            layers += [convolution, nn.BatchNorm2d(wide), nn.ReLU(), nn.Dropout2d(dropout)]
        cells = 1 if pool else math.prod(-(-side // 2 ** len(_WIDTHS)) for side in self._size)
        layers += [nn.AdaptiveMaxPool2d(1)] if pool else []
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(_WIDTHS[-1] * cells, _FEATURES), nn.ReLU())
        self.head = nn.Linear(_FEATURES, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """The numbers (B, outputs) of a batch of images (B, C, H, W) in [0, 1]; differentiable."""
        return self.head(self._hidden(images))

    def read(self, images: Tensor) -> Tensor:
        """As `forward`, of any number of images on any device, without gradients; on the CPU.

        Raises:
            ShapeError: for images of another shape, dtype or range.
        """
        return self._in_batches(self, images)

    def features(self, images: Tensor) -> Tensor:
        """Activations of the hidden layer (n, 128), otherwise as `read`: a space to compare sets of images in."""
        return self._in_batches(self._hidden, images)

    def _hidden(self, images: Tensor) -> Tensor:
        pixels = F.adaptive_avg_pool2d(images, self._size) * 2 - 1
        return self.trunk(torch.cat([pixels, self.coordinates.expand(len(images), -1, -1, -1)], 1))

    @torch.no_grad()
    def _in_batches(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != self.image_shape or not images.is_floating_point():
            raise ShapeError(
                f"expected float images of shape (n, {', '.join(map(str, self.image_shape))}), those of the training, "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        if len(images) and not (images.min() >= 0 and images.max() <= 1):  # also for NaN
            raise ShapeError(f"images must lie in [0, 1], got values from {images.min():g} to {images.max():g}")
        device = self.head.weight.device
        return torch.cat([function(batch.float().to(device)).cpu() for batch in images.split(_BATCH)])


Network = TypeVar("Network", bound=ConvNet)


def train_network(
    make: Callable[[], Network],
    data: ContextDataset,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    steps: int,
    batch_size: int,
    seed: int,
    device: str | torch.device | None,
    cache_dir: str | Path | None,
    progress: bool,
) -> Network:
    """Make a network and train it on batches that mix the contexts in equal shares.

    The same seed gives the same network on one device; the global random state stays as it is.

    Args:
        make: makes the network, from torch's global random state.
        data: images.
        targets: (N, ...), per image.
        loss: of the network's outputs and the targets of a batch.
        steps, batch_size: of the training.
        seed: of initial weights and batches.
        device: to train on and leave the network on; by default torch's own default.
        cache_dir: keep the network in a file in there, and read it where the same network was trained on the same
            images before; with a warning a damaged file is replaced, or one that cannot be written given up. Default:
            trained every time.
        progress: show a progress bar.

    Returns:
        the network in eval mode, without gradients.

    Raises:
        ValueError: for fewer than one step.
        DataError: for a batch size below 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    device = torch.get_default_device() if device is None else torch.device(device)
    loader = mixed_context_loader(_Targeted(data, targets), batch_size, seed, num_steps=steps)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network = make().to(device).train()
        kept = cache_dir and Path(cache_dir) / _file_name(network, data, targets, steps, batch_size, seed)
        if kept and kept.exists():
            try:
                load_strictly(network, load_tensors(kept), kept)
                return network.eval().requires_grad_(False)
            except CheckpointError as error:
                warnings.warn(f"{error}: training a {type(network).__name__} anew", stacklevel=3)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        schedule = OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps)
        for batch in progress_bar(
            loader, desc=f"training {type(network).__name__}", unit="step", disable=not progress
        ):
            optimizer.zero_grad()
            loss(network(batch["x"].to(device)), batch["target"].to(device)).backward()
            optimizer.step()
            schedule.step()
    if kept:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(kept, network.state_dict())
        except (OSError, safetensors.SafetensorError) as error:  # a full disk, a folder of others
            warnings.warn(f"{kept} cannot be written ({error}): it will be trained again", stacklevel=3)
    return network.eval().requires_grad_(False)


def _file_name(network: ConvNet, data: ContextDataset, targets: Tensor, *settings: Any) -> str:
    """Of a trained network, by all that makes it one."""
    version = importlib.metadata.version("context-module")
    digest = hashlib.sha256(f"{version} {network} {data.fingerprint()} {data.context_names} {settings}".encode())
    for values in (data.labels, targets):
        digest.update(values.contiguous().numpy().tobytes())
    return f"{type(network).__name__}-{digest.hexdigest()[:16]}.safetensors"


class _Targeted(LabelledDataset):
    """The images of a data set with a target each."""

    def __init__(self, data: ContextDataset, targets: Tensor) -> None:
        self.concepts, self.context_names, self.labels = data.concepts, data.context_names, data.labels
        self._data, self._targets = data, targets

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {"x": self._data.batch(indices)["x"], "target": self._targets[indices]}
