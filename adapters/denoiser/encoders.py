"""Encoders whose embeddings a denoiser decodes: CLIP's of image variation, and that of a diffusion autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.adapters.decoder_only import SmallEncoder
from context_module.errors import ShapeError
from context_module.io import load_network, save_network
from context_module.normal import draw_normal

__all__ = ["ENCODER_FOLDER", "CLIPEncoder", "EmbeddingEncoder", "SemanticEncoder", "checked_encoder", "encoder_of"]

ENCODER_FOLDER = "encoder"  # of a `SemanticEncoder`, in its pipeline's
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images


@runtime_checkable
class EmbeddingEncoder(Protocol):
    """What an encoder has to have, an `nn.Module` besides; embeddings are in the denoiser's own scale.

    Attributes:
        latent_shape: of one embedding: (D,) for a ``UNet2DModel``, (tokens, D) for denoisers with cross-attention.
    """

    latent_shape: tuple[int, ...]

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and log-variance (B, *latent_shape) of the embeddings of images (B, C, H, W) in [0, 1].

        The log-variance is None for a deterministic encoder.
        """

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n embeddings (n, *latent_shape) from a density of them: what the base alone generates from."""


class CLIPEncoder(nn.Module):
    """The `CLIPVisionModelWithProjection` of an image-variation pipeline: one token, its projected image embedding.

    Images are resized to the model's size, antialiased, whatever their shape.

    No density of embeddings comes with such a pipeline. Its samples are of the zero embedding, which stands for "no
    image" in the pipeline's own classifier-free guidance.

    Args:
        net: the model.
        processor: the pipeline's ``feature_extractor``, which says how pixels are normalised; default: CLIP's way.

    Raises:
        TypeError: for a model of another class.
    """

    def __init__(self, net: Any, processor: Any = None) -> None:
        super().__init__()
        if type(net).__name__ != "CLIPVisionModelWithProjection":
            raise TypeError(
                f"no way known to embed images with an image_encoder of the class {type(net).__name__}; supported: "
                "CLIPVisionModelWithProjection"
            )
        self.net = net.eval()
        self.size: int = net.config.image_size
        self.latent_shape = (1, net.config.projection_dim)
        self.pixel_mean = tuple(getattr(processor, "image_mean", None) or _MEAN)
        self.pixel_std = tuple(getattr(processor, "image_std", None) or _STD)

    def posterior(self, x: Tensor) -> tuple[Tensor, None]:
        pixels = F.interpolate(x.float(), size=(self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (self.pixel_mean, self.pixel_std))
        return self.net(((pixels - mean) / std).to(self.net.dtype)).image_embeds[:, None], None

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros(n, *self.latent_shape, device=self.net.device)


class SemanticEncoder(SmallEncoder):
    """The encoder of a small diffusion autoencoder (Preechakul et al. 2022), trained with its denoiser.

    It gives a Gaussian, trained with a lightly weighted KL to N(0, I): that keeps embeddings at a scale of about one,
    and makes the denoiser read what lies between them. What embeddings are like in the end is not N(0, I); a Gaussian
    with all covariances is fitted to them afterwards (Ghosh et al. 2020, "From Variational to Deterministic
    Autoencoders"). Until then the density is N(0, I).

    Args:
        image_shape: (C, H, W).
        size: numbers of an embedding.

    Attributes:
        fitted: whether the density was fitted.
        center, root: its mean (D,), and the Cholesky factor (D, D) of its covariance.
    """

    center: Tensor
    root: Tensor

    def __init__(self, image_shape: tuple[int, int, int], size: int) -> None:
        super().__init__(image_shape, (size,))
        self.image_shape, self.size = tuple(image_shape), size
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("root", torch.eye(size))

    @torch.no_grad()
    def fit_density(self, x: Tensor, batch_size: int = 256) -> None:
        """Fit the density to the embeddings of images (N, C, H, W), their posteriors' variances included.

        Raises:
            ShapeError: for fewer than two images.
        """
        if len(x) < 2:
            raise ShapeError(f"a density of embeddings takes two images or more, got {len(x)}")
        device, dtype = self.head.weight.device, self.head.weight.dtype
        found = [self.posterior(part.to(device, dtype)) for part in x.split(batch_size)]
        means, log_vars = (torch.cat(parts).cpu().double() for parts in zip(*found, strict=True))
        covariance = means.T.cov() + log_vars.exp().mean(0).diag()
        self.center.copy_(means.mean(0))
        self.root.copy_(torch.linalg.cholesky(covariance))
        self.fitted.fill_(True)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        noise = draw_normal(torch.empty(n, self.size, device=self.root.device), generator)
        return self.center.float() + noise @ self.root.float().T

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors."""
        config = {"encoder": type(self).__name__, "image_shape": list(self.image_shape), "size": self.size}
        save_network(directory, self, config)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> SemanticEncoder:
        """Read what `save_pretrained` wrote; CheckpointError for anything else."""
        return load_network(directory, cls, cls.__name__, {"encoder": cls.__name__})


def encoder_of(pipeline: Any) -> CLIPEncoder | None:
    """The encoder whose embeddings a pipeline's denoiser reads; None if it has none.

    Beside a text encoder an ``image_encoder`` is an option of the pipeline (IP-Adapter), not what conditions it.
    """
    components = pipeline.components
    if components.get("image_encoder") is None or components.get("text_encoder") is not None:
        return None
    return CLIPEncoder(components["image_encoder"], components.get("feature_extractor"))


def checked_encoder(encoder: Any) -> Any:
    """The encoder of embeddings that was given; TypeError for what is none."""
    if not isinstance(encoder, nn.Module) or not isinstance(encoder, EmbeddingEncoder):
        raise TypeError(
            f"a {type(encoder).__name__} is no encoder of embeddings: give an nn.Module with latent_shape, posterior "
            "and sample, as EmbeddingEncoder of context_module.adapters.denoiser says"
        )
    return encoder
