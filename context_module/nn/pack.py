"""Concept packs: a concept trained alone on a fixed module, in a file of its own, added to a model and composed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from context_module.contexts import Concepts
from context_module.errors import CheckpointError
from context_module.io import (
    bounded_by,
    check_counts,
    is_hub_id,
    load_strictly,
    load_tensors,
    local_folder,
    read_metadata,
    save_tensors,
)

__all__ = ["ConceptPack", "ConceptPackConfig"]

_SUFFIX = ".safetensors"
_SEAL = "context_module_sha256"
_KEY, _VERSION = "context_module_concept_pack", 1  # in the file's header; the version of what is below it


@dataclass(frozen=True, kw_only=True)
class ConceptPackConfig:
    """What a concept pack is saved with.

    Attributes:
        concept: its name.
        latent_shape: of the base's decoder input, without the batch.
        rank: r, the number of coordinates that the intervention reads and writes.
        noise_width: width of the concept's own noise.
        hidden_width: of the MLP that says what changes.
        base_fingerprint, module_fingerprint: of what it was trained on
            (`context_module.base.fingerprint.fingerprint`).

    Raises:
        ConceptError: for a name that cannot be a concept's.
        ValueError: for a width out of range.
    """

    concept: str
    latent_shape: tuple[int, ...]
    rank: int = 32
    noise_width: int = 16
    hidden_width: int = 256
    base_fingerprint: str = ""
    module_fingerprint: str = ""

    def __post_init__(self) -> None:
        Concepts([self.concept])
        object.__setattr__(self, "latent_shape", tuple(self.latent_shape))
        widths = [(name, getattr(self, name)) for name in ("rank", "noise_width", "hidden_width")]
        for name, value in [*widths, *(("latent_shape", size) for size in self.latent_shape)]:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must hold integers of at least 1, got {value!r}")
        if self.rank > self.latent_size:
            raise ValueError(f"rank must be at most {self.latent_size}, the latent's size, got {self.rank}")

    @property
    def latent_size(self) -> int:
        """D, the number of values in a decoder input."""
        return math.prod(self.latent_shape)


class ConceptPack(nn.Module):
    """A low-rank intervention on the decoder input, with noise of its own: e' = e + R^T f(z, R e).

    Of the decoder input e (D,), standardised, the r orthonormal rows of R read r coordinates; a small MLP f says from
    them and from the concept's own noise z how they change, and all that is orthogonal to the rows stays. e is what
    the decoder is given, the latent noise of the module included: so the intervention replaces what is to be seen of
    the concept in a given image, too, and can have less noise than the module. A new pack changes nothing.

    Source: low-rank representation fine-tuning (Wu et al. 2024, "ReFT: Representation Finetuning for Language
    Models"), whose f is affine: with an MLP, concepts that are curved in the latents, such as a size, follow better.

    Attributes:
        center, spread: mean and standard deviation (D,) of the decoder inputs that the module makes.
        directions: R transposed, (D, r).
        edit: f.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, config: ConceptPackConfig) -> None:
        super().__init__()
        self.config = config
        size, rank, width = config.latent_size, config.rank, config.hidden_width
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        self.directions = nn.Parameter(torch.randn(size, rank))
        last = nn.Linear(width, rank)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first = nn.Linear(config.noise_width + rank, width)
        self.edit = nn.Sequential(first, nn.GELU(), nn.Linear(width, width), nn.GELU(), last)
        self.orthonormalise()

    def forward(self, latent: Tensor, noise: Tensor) -> Tensor:
        """The change e' - e (B, *latent_shape) of normalised decoder inputs (B, *latent_shape), noise (B, w_z)."""
        read = ((latent.flatten(1).to(self.spread.dtype) - self.center) / self.spread) @ self.directions
        change = self.edit(torch.cat([noise.to(read.dtype), read], dim=1)) @ self.directions.t()
        return (change * self.spread).view_as(latent).to(latent.dtype)

    @torch.no_grad()
    def orthonormalise(self) -> None:
        """Make the rows of R orthonormal again, after a training step has moved them."""
        basis, triangle = torch.linalg.qr(self.directions.float())
        self.directions.copy_(basis * triangle.diagonal().sign())  # the basis near the old one

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file, atomically; the configuration is in the header."""
        header = json.dumps({"version": _VERSION, **asdict(self.config)}, sort_keys=True)
        tensors = self.state_dict()
        save_tensors(path, tensors, {_KEY: header, _SEAL: _hash(header, tensors)})

    @staticmethod
    def is_in(path: str | Path) -> bool:
        """Whether a safetensors file is a concept pack, by its header; CheckpointError for what is no such file."""
        return _KEY in read_metadata(path)

    @classmethod
    def load(cls, path: str | Path, **hub: Any) -> ConceptPack:
        """Read what `save` wrote, to generate with.

        Args:
            path: the file; on the Hugging Face Hub ``user/repository/concept.safetensors``; or a folder or repository
                with one concept pack. Local files never touch the network.
            hub: `revision`, `token` and `local_files_only`, as everywhere in huggingface_hub.

        Raises:
            CheckpointError: for a file that is missing, truncated, foreign or of a newer format, and for a folder or
                repository with no concept pack or several.
        """
        path = _located(path, **hub)
        header = read_metadata(path)
        if not cls.is_in(path):
            raise CheckpointError(f"{path} is no concept pack: nothing in its header says so")
        tensors = load_tensors(path)
        try:
            fields = json.loads(header[_KEY])
            version = fields.pop("version")
            if version != _VERSION:
                raise CheckpointError(
                    f"{path} has version {version!r} of the format, this library reads {_VERSION}: upgrade with "
                    "pip install -U context-module"
                )
            check_counts(fields, tensors, path)
            with torch.random.fork_rng(devices=[]), bounded_by(tensors, path):  # loading draws nothing
                pack = cls(ConceptPackConfig(**fields))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path} has an unusable header: {error}") from error
        load_strictly(pack, tensors, path)
        if header.get(_SEAL) not in (None, _hash(header[_KEY], tensors)):
            raise CheckpointError(f"{path} does not hold what was written: it is damaged")
        return pack.requires_grad_(False).eval()


def _hash(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _located(path: str | Path, **hub: Any) -> Path:
    """The file of a concept pack, downloaded if it is on the Hub; see `ConceptPack.load`."""
    if Path(path).is_file():
        return Path(path)
    if named := not Path(path).exists() and re.fullmatch(r"(\w[\w.-]*/[\w.-]+)/(.+\.safetensors)", str(path)):
        repository, name = named.groups()
        return local_folder(repository, [name], expected=f"the folder of {name}", **hub) / name
    if not Path(path).is_dir() and (Path(path).suffix == _SUFFIX or not is_hub_id(path)):
        return Path(path)  # is not there, as reading it says
    folder = local_folder(path, [f"*{_SUFFIX}"], **hub)
    packs = [file for file in sorted(folder.glob(f"*{_SUFFIX}")) if ConceptPack.is_in(file)]
    if len(packs) != 1:
        found = ", ".join(file.name for file in packs) or "none"
        raise CheckpointError(f"{path} holds not one concept pack, but {found}: name it, {path}/CONCEPT{_SUFFIX}")
    return packs[0]
