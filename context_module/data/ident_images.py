"""Pictures of the original 3DIdent from a folder that the user has, with their latents in NPY files.

https://zenodo.org/records/4502485 (CC BY 4.0): train/ and test/ with images/ and raw_latents.npy or latents.npy.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.data.context_data import ContextData
from context_module.data.folders import FolderContextDataset
from context_module.data.pictures import IMAGE_SUFFIXES, ImageReader, Resolution
from context_module.errors import DataError

__all__ = ["ident_images"]

_LATENTS = ("raw_latents.npy", "latents.npy")


def ident_images(
    root: Path,
    concepts: Concepts,
    names: Sequence[str],
    observed: tuple[float, float],
    intervened: tuple[float, float],
    resolution: Resolution | None,
) -> ContextData:
    """Contexts of pictures whose factors are independent: chosen by in which range each concept's factor lies.

    Where factors are independent, to select the pictures in which one of them lies in another range is to intervene
    on it. Pictures with a concept in neither range are left out.

    Args:
        root: the folder that holds ``train``, and ``test`` perhaps; or that of one part.
        concepts: K names among `names`.
        names: of the D columns of the latents.
        observed, intervened: ranges of a concept's factor, as shares of the range that it has in the file.
        resolution: see `image_folders`.

    Raises:
        DataError: for files that are missing, or do not fit each other; for a context without pictures.
    """
    parts = {name: _part(root / name, names) for name in ("train", "test") if (root / name).is_dir()}
    if "train" not in parts:
        parts = {"train": _part(root, names)}
    files, latents = parts["train"]
    low, high = latents.min(0), latents.max(0)
    columns = [names.index(concept) for concept in concepts]

    def rows_of(latents: np.ndarray) -> dict[str, np.ndarray]:
        share = ((latents - low) / (high - low))[:, columns]
        inside = [(share >= a) & (share <= b) for a, b in (observed, intervened)]
        found = {}
        for size in range(len(concepts) + 1):
            for chosen in itertools.combinations(range(len(concepts)), size):
                there = np.stack([inside[place in chosen][:, place] for place in range(len(concepts))], axis=1)
                name = "+".join(concepts[place] for place in chosen) or OBSERVATIONAL
                found[name] = np.flatnonzero(there.all(1))
        return found

    rows = rows_of(latents)
    if empty := [context for context in concepts.training_contexts if not len(rows[context])]:
        raise DataError(f"{root} has no pictures of context {empty[0]}: of {len(files)} none lies in its ranges")
    reader = ImageReader.of({"all": files}, resolution, 3)

    def part(files: list[Path], latents: np.ndarray, rows: Mapping[str, np.ndarray]) -> FolderContextDataset | None:
        rows = {context: some for context, some in rows.items() if len(some)}
        if not rows:
            return None
        chosen = {context: [files[row] for row in some] for context, some in rows.items()}
        factors = torch.from_numpy(latents[np.concatenate(list(rows.values()))]).float()
        return FolderContextDataset(chosen, concepts, reader, factors, names)

    single = set(concepts.training_contexts)
    train = part(files, latents, {context: some for context, some in rows.items() if context in single})
    assert train is not None
    held_out = part(files, latents, {context: some for context, some in rows.items() if context not in single})
    test = None
    if "test" in parts:
        test_files, test_latents = parts["test"]
        found = rows_of(test_latents)
        test = part(test_files, test_latents, {context: found[context] for context in single})
    left_out = len(files) - sum(map(len, rows.values()))
    return ContextData(train, held_out, test, (), left_out=(f"{left_out:,d} pictures between the ranges",))


def _part(folder: Path, names: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    """The picture files of a part in order, and their latents (N, D)."""
    images = folder / "images"
    if not images.is_dir():
        raise DataError(f"no folder {images}: expected the one of 3DIdent, with images/ and {' or '.join(_LATENTS)}")
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    file = next((folder / name for name in _LATENTS if (folder / name).is_file()), None)
    if file is None:
        raise DataError(f"no {' or '.join(_LATENTS)} in {folder}")
    try:
        latents = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} is no NPY file that can be read ({error})") from None
    if latents.shape != (len(files), len(names)) or latents.dtype.kind not in "fiu":
        raise DataError(
            f"{file} holds {latents.dtype} {latents.shape}, expected numbers ({len(files)}, {len(names)}): a row for "
            f"each file in {images}, and the columns {', '.join(names)}"
        )
    if not np.isfinite(latents).all():
        raise DataError(f"{file} holds values that are not finite")
    return files, latents
