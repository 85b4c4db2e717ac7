"""Your own images: a folder per context, named as the context is (`obs/`, `smile/`, `smile+glasses/`)."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL, SEPARATOR, Concepts
from context_module.data.context_data import ContextData
from context_module.data.dataset import ContextDataset
from context_module.data.pictures import IMAGE_SUFFIXES, ImageReader, Resolution, without_unreadable
from context_module.errors import ConceptError, DataError

__all__ = [
    "ContextFolders",
    "FolderContextDataset",
    "context_folders",
    "counted",
    "files_below",
    "image_folders",
    "split_names",
    "unified",
]

# what systems and their tools write beside one's own files
_OF_SYSTEMS = {
    "$RECYCLE.BIN",
    "@Recycle",
    "@Recently-Snapshot",
    "@eaDir",
    "#recycle",
    "#snapshot",
    "__MACOSX",
    "__pycache__",
    "lost+found",
    "System Volume Information",
    "desktop.ini",
    "Thumbs.db",
}


def image_folders(
    root: str | Path,
    *,
    concepts: Iterable[str] | None = None,
    resolution: Resolution | None = None,
    channels: int | None = None,
    skip_corrupt: bool = False,
) -> ContextData:
    """Images on disk, read when needed, from a folder per context.

    A context's images are the files in its folder and in those below it that end in one of `IMAGE_SUFFIXES`, in upper
    or lower case, in the order of their paths. Hidden files and folders and those of systems (``@eaDir``,
    ``__MACOSX``) are left out, and so is a folder without images; `ContextData.describe` names these folders. Files of
    other types are left out with a warning. An NPY file holds one image, (H, W), (H, W, C) or (C, H, W), uint8, bool
    or floating point in [0, 1]. Transparency is laid on black.

    Where all images of uint8 hold no more than 0 and 1, they are masks, and 1 is white; a warning says so.

    Args:
        root: a folder that holds ``obs`` and at least one folder named after a single concept.
        concepts: the concept names in order, as a list or separated by commas. Default: the single names among the
            folders, sorted.
        resolution: scale images, antialiased, and crop their centre, to a square of this side or to (height, width).
            Default: leave images as they are; all must then have the size of the first.
        channels: 1 (grey) or 3 (RGB). Default: 3 if any image has colour.
        skip_corrupt: leave out files that cannot be read or used, with a warning that names them. This reads every
            file once now, for only a full read finds them all. Default: an error at the time such a file is read.

    Returns:
        ContextData: ``obs`` and the single concepts to train on, larger sets of interventions held out.

    Raises:
        DataError: for a missing root, no ``obs`` folder, no folder of a single concept, two folders of one context, a
            corrupt or unusable image.
        ConceptError: for a folder or a part of its name that is no concept.
        ImportError: if there are files other than NPY and pillow is not installed.
    """
    found = context_folders(root, concepts)
    files = without_unreadable(found.files) if skip_corrupt else found.files
    reader = ImageReader.of(files, resolution, channels)

    def part(contexts: Sequence[str]) -> FolderContextDataset:
        return FolderContextDataset({name: files[name] for name in contexts}, found.concepts, reader)

    train, held_out = found.parts
    return ContextData(part(train), part(held_out) if held_out else None, left_out=found.left_out)


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


@dataclass
class ContextFolders:
    """What `context_folders` finds.

    Attributes:
        concepts: `Concepts`.
        files: per canonical context name its files, in order; those of the contexts to train on first.
        left_out: what was not read, in words.
    """

    concepts: Concepts
    files: dict[str, list[Path]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[list[str], list[str]]:
        """The contexts to train on, and those to hold out."""
        train = [context for context in self.concepts.training_contexts if context in self.files]
        return train, [context for context in self.files if context not in train]


def context_folders(
    root: str | Path, concepts: Iterable[str] | None = None, kind: Literal["images", "texts"] = "images"
) -> ContextFolders:
    """The files of every context in `root`; arguments and errors as for `image_folders`.

    Args:
        kind: what is looked for, for the files and the errors.

    Raises:
        DataError: for a missing root; for no folder with files of ``obs``, or of a single concept.
    """
    root, suffixes = Path(root), IMAGE_SUFFIXES if kind == "images" else (".txt",)
    if not root.is_dir():
        raise DataError(
            f"no folder {root}: expected one that holds a folder per context, {OBSERVATIONAL!r} among them"
        )
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    left_out = [path.name for path in folders if _is_systems(path.name)]
    files: dict[str, list[Path]] = {}  # by the names of the folders
    others: list[Path] = []
    for folder in folders:
        if not _is_systems(folder.name):
            found, beside = files_below(folder, suffixes)
            others += beside
            if found:
                files[folder.name] = found
            else:
                left_out.append(f"{folder.name} (no {kind})")
    names = f"folders with {kind}: {', '.join(files) or 'none'}"
    if left_out:
        names += f"; left out: {', '.join(left_out)}"
    written = {name: unified(name) for name in files}
    singles = sorted({name for name in written.values() if name != OBSERVATIONAL and SEPARATOR not in name})
    if OBSERVATIONAL not in written.values():
        raise DataError(f"no folder {OBSERVATIONAL!r} in {root} for {kind} without an intervention; {names}")
    if not singles:
        raise DataError(f"no folder of a single concept in {root}, so nothing to learn an intervention from; {names}")
    known = ContextFolders(Concepts(singles if concepts is None else split_names(concepts)))
    for name, context in written.items():
        try:
            context = known.concepts.name(context)
        except ConceptError as error:
            hint = f"; left out: {', '.join(left_out)}" if left_out else ""
            raise ConceptError(f"folder {root / name}: {error}{hint}") from None
        if context in known.files:
            raise DataError(f"{root} holds two folders of context {context!r}: merge {name!r} into the other")
        known.files[context] = files[name]
    if others:
        left_out.append(counted(others))
        warnings.warn(
            f"ignored {len(others)} files in {root} that are not {', '.join(suffixes)}: {counted(others)}, the first "
            f"one {others[0]}",
            stacklevel=3,
        )
    train, held_out = known.parts
    known.files = {context: known.files[context] for context in (*train, *held_out)}
    known.left_out = tuple(left_out)
    return known


def files_below(folder: Path, suffixes: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The files of these types in a folder and those below it, and the others, both in the order of their paths.

    Hidden entries and those of systems are neither. A link to a folder is not followed, but one of the others.
    """
    found: list[Path] = []
    others: list[Path] = []
    for where, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        folders[:] = [name for name in folders if not _is_systems(name)]
        for name in filter(lambda name: not _is_systems(name), [*names, *links]):
            path = Path(where, name)
            fits = name not in links and path.suffix.lower() in suffixes
            (found if fits else others).append(path)
    return sorted(found), sorted(others)


def counted(files: Sequence[Path]) -> str:
    """How many files there are of every type: ``2 .heic, 1 .txt``."""
    kinds = Counter(path.suffix.lower() or path.name for path in files)
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))


def split_names(names: Iterable[str]) -> list[str]:
    """A list of names, given as such or, as on a command line, separated by commas; each `unified`."""
    every = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    return [unified(name) for name in every]


def unified(name: str) -> str:
    """A name in the one form (NFC) of those Unicode has: systems write the accents of files' names in either."""
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name


def _is_systems(name: str) -> bool:
    return name.startswith(".") or name in _OF_SYSTEMS
