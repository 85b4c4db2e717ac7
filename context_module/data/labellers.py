"""Labellers by name: who says what samples show, for `--data samples` and to judge what a model makes."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from context_module.data.classifiers import Classifier
from context_module.errors import DataError
from context_module.io import is_hub_id
from context_module.registry import Registry

__all__ = ["Labeller", "load_labellers"]

#: Images (B, C, H, W) in [0, 1], or a list of B texts, to scores (B,): above zero the concept is shown, as of logits.
Labeller = Callable[[Any], Tensor]


def _wrong(name: str, thing: Any) -> str | None:
    known = isinstance(thing, Mapping | ModuleType)
    return None if known else f"must be a mapping, or a module, of functions by concept, got {thing!r}"


_LABELLERS: Registry[Mapping[str, Labeller] | ModuleType] = Registry(
    "labeller", "context_module.labellers", {}, _wrong
)


def load_labellers(source: str | Path, concepts: Iterable[str]) -> dict[str, Labeller]:
    """Labellers of these concepts from one source, by concept.

    Args:
        source: the name of an installed one (entry point of the group ``context_module.labellers``: a mapping or a
            module); a Python file, which is run, with a function for each concept; or a classifier of transformers, of
            images or of texts, its folder or Hub id, with the concepts among its labels. Of a classifier of several
            labels at once (``multi_label_classification``) scores are logits, of any other log-odds against all other
            labels.
        concepts: the names.

    Raises:
        DataError: for a source that is none of these, or that lacks a concept; says which there are.
        CheckpointError: for a classifier that cannot be read.
        ImportError: for a file that fails, or a classifier without transformers.
    """
    names, text = list(concepts), str(source)
    if text in _LABELLERS.names():
        return _of_functions(_LABELLERS.get(text), names, text)
    if text.endswith(".py"):
        return _of_functions(_run(Path(text)), names, text)
    if Path(text).is_dir() or is_hub_id(text):
        return _of_classifier(text, names)
    raise DataError(
        f"no labeller {text!r}: expected a Python file, the folder or Hub id of a classifier, or one of "
        f"{', '.join(_LABELLERS.names()) or 'those that packages install (there are none)'}"
    )


def _of_functions(given: Mapping[str, Labeller] | ModuleType, names: list[str], source: str) -> dict[str, Labeller]:
    functions = given if isinstance(given, Mapping) else vars(given)
    known = [name for name, thing in functions.items() if callable(thing) and not name.startswith("_")]
    if missing := [name for name in names if name not in known]:
        raise DataError(f"{source} has no labeller {', '.join(missing)}: it has {', '.join(known) or 'none'}")
    return {name: functions[name] for name in names}


def _run(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError(f"no labeller {str(file)!r}: no such file")
    try:
        return runpy.run_path(str(file))
    except Exception as error:  # whatever a file of the user's does
        raise ImportError(f"the labeller {file} cannot be run: {type(error).__name__}: {error}") from error


def _of_classifier(source: str, names: list[str]) -> dict[str, Labeller]:
    classifier = Classifier(source)
    places = {_plain(label): place for place, label in classifier.labels.items()}
    if missing := [name for name in names if _plain(name) not in places]:
        known = ", ".join(map(str, list(classifier.labels.values())[:12]))
        raise DataError(f"{source} has no label {', '.join(missing)}: it has {known}")

    def labeller(place: int) -> Labeller:
        return lambda samples: classifier(samples)[:, place]

    return {name: labeller(places[_plain(name)]) for name in names}


def _plain(label: str) -> str:
    return re.sub(r"[\W_]+", " ", str(label)).strip().lower()
