"""What every method is: a VAE on networks of equal capacity, which trains by a loss of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.baselines.gaussian import bernoulli_error, kl_per_dimension, reparameterised
from context_module.baselines.networks import make_networks
from context_module.contexts import Kind
from context_module.data import ContextData, ContextDataset, LabelledDataset
from context_module.io import save_network
from context_module.normal import draw_normal, draw_uniform
from context_module.objective import BatchObjective
from context_module.options import argument

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

    from context_module.metrics import Subject

__all__ = ["Baseline", "BaselineSettings", "check_at_least"]


def check_at_least(least: float, **values: float) -> None:
    """Raise ValueError for a setting that is below `least`; names it."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least:g}, got {value:g}")


@dataclass(kw_only=True)
class BaselineSettings:
    """The networks of a baseline. A method's settings are fields of a subclass, and flags of its recipe."""

    latents: int = argument(10, help="continuous latent dimensions")
    architecture: Literal["conv64", "simple64bn", "simple32bn", "conv3", "resnet_sagan64"] = argument(
        "conv64",
        help="networks, the field's for 64x64, the paper's for 3x64x64, 3x32x32 or 1x28x28, or DEAR's for 64x64",
    )

    def __post_init__(self) -> None:
        check_at_least(1, latents=self.latents)

    def completed(self, data: ContextData) -> Self:
        """These settings with what the data to train on decides, where it was not given."""
        return self


class Baseline(BatchObjective):
    """A VAE with a Bernoulli likelihood; a subclass sets `name` and `settings_class`, and writes `losses`.

    In eval mode its ``loss`` is the negative ELBO, whatever it trains by, so that weights are chosen without labels
    and in one unit.

    Args:
        settings: of the method.
        image_shape: (C, H, W).
        images: number of images that it trains on.

    Attributes:
        name: by which it is known.
        settings_class: its dataclass of settings.
        categories: of every discrete code, behind the continuous ones, the number of values.

    Raises:
        ShapeError: for images that the networks do not take.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[BaselineSettings]] = BaselineSettings
    kind: ClassVar[Kind] = "images"
    categories: tuple[int, ...] = ()

    def __init__(self, settings: Any, image_shape: tuple[int, int, int], images: int) -> None:
        super().__init__()
        self.settings, self.image_shape, self.images = settings, image_shape, images
        inputs = settings.latents + sum(self.categories)
        self.encoder, self.decoder = make_networks(settings.architecture, self.image_shape, self.outputs, inputs)

    @classmethod
    def build(cls, settings: Any, data: ContextDataset) -> Baseline:
        """One for this data, to be trained on it; DataError for data of another kind."""
        return cls(settings, data.image_shape, len(data))

    def subject(self, data: ContextDataset) -> Subject:
        """What metrics score, of one that was trained on this data."""
        from context_module.baselines.subject import BaselineSubject

        return BaselineSubject(self, data)

    @property
    def outputs(self) -> int:
        """How many numbers the encoder gives."""
        return 2 * self.settings.latents

    @property
    def takes(self) -> str:
        """What it is of, for people."""
        return f"images {'x'.join(map(str, self.image_shape))}"

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.parameters()).device

    def data_settings(self) -> dict[str, Any]:
        """Arguments of `context_module.data.load_data` that make data fit the networks."""
        return {"resolution": self.image_shape[-1], "channels": self.image_shape[0]}

    def view(self, data: ContextDataset, seed: int = 0) -> LabelledDataset:
        """The data as the method trains on it: as it is, unless it learns from pairs or the like."""
        return data

    def notes(self, images: Tensor) -> list[str]:
        """What is to be said of the trained model, from images (B, C, H, W) on its device: here nothing."""
        return []

    def losses(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Of a batch in training: ``loss`` and what else is logged, each (B,), of every image by itself.

        A method whose loss joins the images of a batch writes `represent` and `combine` in its place.
        """
        raise NotImplementedError(f"{type(self).__name__} has no losses(batch, progress)")

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        return self.losses(batch, progress)

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        return parts

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        if self.training:
            return super().forward(batch, progress)
        error, kl = self.bound(batch["x"])
        return {"loss": error + kl, "error": error, "kl": kl}

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, latents) of the continuous code of images in [0, 1]."""
        mean, log_var = self.encoder(x).float()[:, : 2 * self.settings.latents].chunk(2, dim=1)
        return mean, log_var

    def decode(self, code: Tensor) -> Tensor:
        """Logits (B, C, H, W) of codes (B, latents and one-hot categories)."""
        return self.decoder(code).float()

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Codes drawn from the posterior of images, as `decode` takes them, and its KL to the prior (B,)."""
        mean, log_var = self.encode(x)
        return reparameterised(mean, log_var, generator), kl_per_dimension(mean, log_var).sum(1)

    def bound(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruction error and KL, each (B,) in nats; their sum is the negative ELBO."""
        code, kl = self.draw(x, generator)
        return bernoulli_error(self.decode(code), x), kl

    def centre(self, x: Tensor) -> Tensor:
        """The codes that stand for images, as `decode` takes them: means, and the likeliest categories."""
        return self.encode(x)[0]

    def prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n codes from the prior, as `decode` takes them: standard normal, and uniform over categories."""
        like = torch.empty(n, self.settings.latents, device=self.device)
        parts = [draw_normal(like, generator)]
        for size in self.categories:
            number = (draw_uniform(like[:, 0], generator) * size).long()
            parts.append(F.one_hot(number, size).to(like))
        return torch.cat(parts, dim=1)

    def parts(self) -> list[slice]:
        """The columns of each part of a code: a continuous dimension, or the one-hot values of a discrete one."""
        found, start = [slice(place, place + 1) for place in range(self.settings.latents)], self.settings.latents
        for size in self.categories:
            found.append(slice(start, start + size))
            start += size
        return found

    def save(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors, for `load_baseline`."""
        config = {"baseline": self.name, "image_shape": list(self.image_shape), "images": self.images}
        save_network(directory, self, config | dataclasses.asdict(self.settings))

    @classmethod
    def from_config(cls, image_shape: list[int], images: int, **settings: Any) -> Baseline:
        """One with random weights, from the entries of a config.json."""
        channels, height, width = image_shape
        return cls(cls.settings_class(**settings), (channels, height, width), images)
