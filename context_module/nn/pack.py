"""Concept packs: a concept trained alone on a fixed module, in a file of its own, added to a model and composed."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.contexts import Concepts
from context_module.errors import CheckpointError, ConceptError
from context_module.io.files import load_strictly, load_tensors, read_metadata, save_tensors
from context_module.io.hub import is_hub_id, local_folder
from context_module.normal import derived_generator, draw_normal

__all__ = ["ConceptPack", "ConceptPackConfig", "ConceptPacks"]

_SUFFIX = ".safetensors"
_KEY, _VERSION = "context_module_concept_pack", 1  # in the file's header; the version of what is below it

T = TypeVar("T")


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
            (`context_module.saving.checkpoint.fingerprint`).

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
        save_tensors(path, self.state_dict(), {_KEY: header})

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
        try:
            fields = json.loads(header[_KEY])
            version = fields.pop("version")
            if version != _VERSION:
                raise CheckpointError(
                    f"{path} has version {version!r} of the format, this library reads {_VERSION}: upgrade with "
                    "pip install -U context-module"
                )
            with torch.random.fork_rng(devices=[]):  # loading draws nothing
                pack = cls(ConceptPackConfig(**fields))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path} has an unusable header: {error}") from error
        load_strictly(pack, load_tensors(path), path)
        return pack.requires_grad_(False).eval()


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


class ConceptPacks(nn.Module):
    """The packs that were added to a model.

    Args:
        own: the concepts of the model's module.
    """

    def __init__(self, own: tuple[str, ...]) -> None:
        super().__init__()
        self.own = own
        self.packs = nn.ModuleList()

    @property
    def concepts(self) -> Concepts:
        """The module's concepts, then those of the packs in the order in which they were added."""
        return Concepts([*self.own, *(pack.config.concept for pack in self)])

    def __iter__(self) -> Iterator[ConceptPack]:
        return cast("Iterator[ConceptPack]", iter(self.packs))

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, concept: str) -> ConceptPack:
        """The pack of that concept; KeyError if it is not a pack's."""
        return {pack.config.concept: pack for pack in self}[concept]

    def add(self, pack: ConceptPack, latent_shape: tuple[int, ...], fingerprints: tuple[str, str], name: str) -> None:
        """Add a pack to a model with decoder inputs of this shape, and of these fingerprints: base, module.

        Raises:
            ConceptError: for a concept that there is already.
            CheckpointError: for a pack that was trained on another base or module; `name` is what to call it.
        """
        config = pack.config
        if config.concept in self.concepts:
            raise ConceptError(
                f"there is a concept {config.concept!r} already; concepts: {', '.join(self.concepts)}. Train {name} "
                "under another name"
            )
        trained_on = (config.base_fingerprint, config.module_fingerprint)
        for what, expected, found in zip(("base", "module"), trained_on, fingerprints, strict=True):
            if expected != found:
                raise CheckpointError(
                    f"{name} was trained on another {what}: one with fingerprint {expected or '(none)'}, this model's "
                    f"has {found}. Add it to the model it was trained on, or train it on this one"
                )
        if config.latent_shape != latent_shape:
            raise CheckpointError(
                f"{name} is made for decoder inputs of shape {config.latent_shape}, this model's have {latent_shape}"
            )
        self.packs.append(pack)

    def warn_unsaved(self) -> None:
        """Say which concepts a saved module will lack."""
        if added := [pack.config.concept for pack in self]:
            warnings.warn(
                f"saved without the concept packs {', '.join(added)}, which are files of their own: add them again "
                "with add_concept after loading",
                stacklevel=3,
            )

    def widen(self, contexts: T) -> T | Tensor:
        """A mask that has columns for the module's own concepts only, with columns for the packs'; all else as is."""
        if not isinstance(contexts, Tensor) or not contexts.ndim or contexts.shape[-1] != len(self.own):
            return contexts
        return F.pad(contexts, (0, len(self.packs)))

    def own_columns(self, mask: Tensor) -> Tensor:
        """The columns (B, K) of the module's own concepts of a mask (B, K+P); ConceptError if others are set."""
        own, added = mask.split([len(self.own), len(self.packs)], dim=1)
        if len(self.packs) and added.any():
            context = self.concepts.name(mask[added.any(dim=1)][0])
            raise ConceptError(
                f"images seen in context {context!r} cannot be explained: it takes a concept pack, and the module "
                f"knows its own contexts alone, {', '.join(Concepts(self.own).training_contexts)}"
            )
        return own

    def sample_noise(self, n: int, temperature: float, generator: torch.Generator | None) -> list[Tensor]:
        """n draws from N(0, temperature^2 I) for every pack, (n, w_z) each; they leave the generator as it is."""
        noises = []
        for pack in self:
            like = pack.spread.new_empty(n, pack.config.noise_width)
            noises.append(draw_normal(like, derived_generator(generator, pack.config.concept)) * temperature)
        return noises

    def forward(self, latent: Tensor, strengths: Tensor, noises: Sequence[Tensor]) -> Tensor:
        """Decoder inputs (B, *latent_shape) as the packs change them, each in its strength (B, P), bool or in [0, 1].

        All packs read the same decoder input, and their changes add up in the order of their names: the order in which
        they were added does not matter. A sample without packs stays as it is, bit for bit.
        """
        used = [number for number in range(len(self.packs)) if strengths[:, number].any()]
        if not used:
            return latent
        changes = torch.zeros_like(latent)
        wide = (-1, *[1] * (latent.ndim - 1))
        packs = list(self)
        for number in sorted(used, key=lambda number: packs[number].config.concept):
            pack, strength = packs[number], strengths[:, number].to(latent.dtype).view(wide)
            changes = changes + torch.where(strength > 0, strength * pack(latent, noises[number]), 0.0)
        return torch.where(strengths.any(dim=1).view(wide), latent + changes, latent)
