"""Data by name, as recipes take it: `--data quad`, `--data morpho_mnist`, or a directory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from context_module.contexts import OBSERVATIONAL, Kind
from context_module.data.context_data import ContextData
from context_module.data.folders import files_below, image_folders, split_names
from context_module.data.options import parse_options
from context_module.data.pictures import IMAGE_SUFFIXES, Resolution
from context_module.data.texts import Tokenize, text_folders
from context_module.errors import DataError
from context_module.registry import Registry

__all__ = ["available_data", "data_function", "load_data", "parse_options", "register_data"]

Load = Callable[..., ContextData]
L = TypeVar("L", bound=Callable[..., ContextData])


def _wrong(name: str, thing: Any) -> str | None:
    return None if callable(thing) else f"must be a function that returns ContextData, got {thing!r}"


# a partial's own arguments go with the name: they are no options
_DATA: Registry[Load] = Registry(
    "data set",
    "context_module.data",
    {
        "quad": "context_module.data.quad:independent",
        "quad_dependent": "context_module.data.quad:dependent",
        "morpho_mnist": "context_module.data.morpho_mnist:morpho_mnist",
        "dsprites": "context_module.data.dsprites:dsprites",
        "dsprites_grid": "context_module.data.dsprites:dsprites_grid",
        "pendulum": "context_module.data.pendulum:pendulum",
        "ident": "context_module.data.ident:ident",
        "still_life": "context_module.data.still_life:still_life",
        "cartoon": "context_module.data.cartoon:cartoon",
        "chase": "context_module.data.chase:chase",
        "attributes": "context_module.data.attributes:attributes",
        "augment": "context_module.data.augment:augment",
        "datasets": "context_module.data.hub:hub_dataset",
        "samples": "context_module.data.own_samples:own_samples",
        "grammar": "context_module.data.grammar:grammar",
        "cells": "context_module.data.cells:cells",
        "sparse_shifts": "context_module.data.shifts:sparse_shifts",
        "shift_chain": "context_module.data.shifts:shift_chain",
    },
    _wrong,
)


def register_data(name: str) -> Callable[[L], L]:
    """Decorator that makes a data set known in this process: a function that returns `ContextData`.

    Its arguments are its options, ``--data_options`` in recipes. Those named as arguments of `load_data`
    (`resolution`, `samples_per_context`, `cache_dir`, `seed`, `base`, ...) get the recipes' own; those of texts have
    `tokenize`, those of vectors `columns`. An installed
    package makes one known by an entry point of the group ``context_module.data``.

    Args:
        name: ``--data NAME``.

    Raises:
        ContextModuleError: for a name that is taken.
        TypeError: for what cannot be called.
    """

    def register(function: L) -> L:
        _DATA.register(name, function)
        return function

    return register


def available_data() -> list[str]:
    """Names of the data sets that are built in, registered, or installed as entry points."""
    return _DATA.names()


def data_function(name_or_dir: str | Path, *, texts: bool = False) -> Load:
    """The function that `load_data` asks for this data; its arguments are the data's options.

    Args:
        name_or_dir: see `load_data`.
        texts: of a directory, whether the data is for a language model.

    Raises:
        ImportError: for data of an installed package that cannot be imported; names the package.
        DataError: for anything that is neither a known name nor a directory.
    """
    name = str(name_or_dir)
    if name in (names := available_data()):
        return _DATA.get(name)
    if Path(name_or_dir).is_dir():
        return text_folders if texts or _holds_texts(name_or_dir) else image_folders
    raise DataError(
        f"unknown data {name!r}: expected {', '.join(names)}, or a directory that holds a folder per context"
    )


def load_data(
    name_or_dir: str | Path,
    *,
    resolution: Resolution | None = None,
    channels: int | None = None,
    samples_per_context: int | None = None,
    held_out_samples: int | None = None,
    test_samples: int = 0,
    skip_corrupt: bool = False,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    tokenize: Tokenize | None = None,
    columns: Sequence[str] | None = None,
    training_on: Iterable[str] = (),
    base: Any = None,
    **options: Any,
) -> ContextData:
    """The data a recipe names: one of `available_data`, or a directory with a folder per context.

    Args:
        name_or_dir: as above; a name wins over a directory of that name (write ``./quad``).
        resolution: height and width in pixels, or a pair of them where data can have it. Default: what suits the data.
        channels: 3 (RGB) or 1 (grey). Default: those of the data.
        samples_per_context: training images made per context; generated data only.
        held_out_samples: images of each held-out composition, of generated data; other data has what it has.
        test_samples: the same of further images of each training context, to score on.
        skip_corrupt: of images on disk, leave out files that cannot be read.
        cache_dir: keep generated images in files there, memory-mapped.
        seed: of generated data; images on disk are what they are.
        tokenize: of a language model, ``base.tokenize``: gives texts their token ids.
        columns: of a base of vectors, the names that it has of their numbers, in its order.
        training_on: compositions to train on, too, as a list or separated by commas: see `ContextData.training_on`.
        base: the adapter that data of a base's own samples is drawn of.
        **options: further arguments of the data's own function: see `quad`, `morpho_mnist`, `dsprites`,
            `dsprites_grid`, `pendulum`, `still_life`, `cartoon`, `chase`, `attributes`, `augment`, `hub_dataset`,
            `own_samples`, `grammar`, `cells`, `sparse_shifts`, `shift_chain`, `image_folders`, `text_folders`.

    Raises:
        ImportError: for data of an installed package that cannot be imported; names the package.
        DataError: for anything that is neither a known name nor a directory, an option that this data does not take,
            data of another kind than the base is of, and whatever the data's own function refuses.
    """
    name = str(name_or_dir)
    function = data_function(name_or_dir, texts=tokenize is not None)
    if name not in available_data():
        options["root"] = name_or_dir
    preset = function.keywords if isinstance(function, partial) else {}
    known = inspect.signature(function).parameters
    if "base" not in known:  # whose own samples are of its kind
        sized = resolution is not None or channels is not None
        _check_kind(name, known, {"texts": tokenize is not None, "vectors": columns is not None, "images": sized})
    square = "resolution" in known and "Resolution" not in str(known["resolution"].annotation)
    if square and isinstance(resolution, tuple):
        raise DataError(
            f"the {name} data makes square images, got {resolution[0]}x{resolution[1]}: use a base for square ones"
        )
    # what only some data has a use for, and needs no complaint elsewhere
    general = {
        "held_out_samples": held_out_samples,
        "test_samples": test_samples,
        "cache_dir": cache_dir,
        "seed": seed,
        "skip_corrupt": skip_corrupt,
        "tokenize": tokenize,
        "columns": columns,
        "base": base,
    }
    asked = {"resolution": resolution, "channels": channels, "samples_per_context": samples_per_context}
    asked = {option: value for option, value in {**asked, **options}.items() if value is not None}
    if "channels" not in known:
        asked.pop("channels", None)  # checked below: such data has the channels it has
    if "base" in known:
        asked.pop("resolution", None)  # a base's own samples have its size
    general = {option: value for option, value in general.items() if option in known and value is not None}
    taken: dict[str, Any] = {**general, **asked}
    _check_options(name, known, asked, preset)
    data = function(**taken)
    if not isinstance(data, ContextData):
        raise DataError(f"the {name} data must be ContextData, its function returned {type(data).__name__}")
    data = data.training_on(split_names(training_on))
    if channels is None or "base" in known:
        return data
    found = data.train.image_shape[0]
    if channels != found:
        raise DataError(
            f"the {name} data has {found} channel{'s' * (found > 1)}, got channels={channels}: "
            f"use a base for {'RGB' if found == 3 else 'grey'} images"
        )
    return data


def _holds_texts(root: str | Path) -> bool:
    """Whether there are .txt files for the observational context, and no images."""
    images, others = files_below(Path(root) / OBSERVATIONAL, IMAGE_SUFFIXES)
    return not images and any(path.suffix.lower() == ".txt" for path in others)


# what is said where data of one kind meets a base, or a size, of another
_TAKES: dict[Kind, str] = {
    "texts": "a language model takes texts: use the grammar data, or a directory with a folder of .txt files "
    "per context",
    "vectors": "a base of vectors takes vectors: use the cells data, or a simulation such as sparse_shifts",
    "images": "which have no size: use {base}",
}
_BASES: dict[Kind, str] = {
    "texts": "a language model (--base transformers)",
    "vectors": "a base of vectors (--base vector_vae)",
}


def _check_kind(name: str, known: Mapping[str, Any], asked: Mapping[Kind, bool]) -> None:
    """Raise DataError for data of another kind than is asked for: the options that it takes tell its own."""
    found: Kind = "texts" if "tokenize" in known else "vectors" if "columns" in known else "images"
    for kind in asked:
        if asked[kind] and kind != found:
            takes = _TAKES[kind].format(base=_BASES.get(found))
            raise DataError(f"the {name} data holds {found}, {takes}")


def _check_options(
    name: str, known: Mapping[str, inspect.Parameter], asked: dict[str, Any], preset: dict[str, Any]
) -> None:
    accepted = [option for option in known if option not in preset]
    if unknown := [option for option in asked if option not in accepted]:
        raise DataError(
            f"the {name} data takes no option {', '.join(map(repr, unknown))}; its options: {', '.join(accepted)}"
        )
    required = [option for option in accepted if known[option].default is inspect.Parameter.empty]
    if missing := [option for option in required if option not in asked]:
        raise DataError(
            f"the {name} data needs {', '.join(missing)}: give --data_options "
            f"{' '.join(f'{option}=...' for option in missing)}"
        )
