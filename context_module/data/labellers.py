"""Labellers by name: who says what samples show, for `--data samples` and to judge what a model makes."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.errors import DataError
from context_module.io import CONFIG_FILE, is_hub_id, local_folder, read_json
from context_module.registry import Registry

__all__ = ["Labeller", "load_labellers"]

#: Images (B, C, H, W) in [0, 1] to scores (B,): above zero the concept is shown, as of a classifier's logits.
Labeller = Callable[[Tensor], Tensor]

_PROCESSOR = "preprocessor_config.json"
_FILES = (CONFIG_FILE, _PROCESSOR, "model*.safetensors*")


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
            module); a
            Python file, which is run, with a function for each concept; or an image classifier of transformers, its
            folder or Hub id, with the concepts among its labels. Of a classifier of several labels at once
            (``multi_label_classification``) scores are logits, of any other log-odds against all other labels.
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
        f"no labeller {text!r}: expected a Python file, the folder or Hub id of an image classifier, or one of "
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
    classifier = _Classifier(source)
    places = {_plain(label): place for place, label in classifier.labels.items()}
    if missing := [name for name in names if _plain(name) not in places]:
        known = ", ".join(map(str, list(classifier.labels.values())[:12]))
        raise DataError(f"{source} has no label {', '.join(missing)}: it has {known}")

    def labeller(place: int) -> Labeller:
        return lambda images: classifier(images)[:, place]

    return {name: labeller(places[_plain(name)]) for name in names}


def _plain(label: str) -> str:
    return re.sub(r"[\W_]+", " ", str(label)).strip().lower()


class _Classifier:
    """An image classifier of transformers: scores (B, labels) of images in [0, 1], on their device.

    Labellers of several concepts ask for the same images one after the other: the last scores are kept.
    """

    def __init__(self, source: str) -> None:
        folder = local_folder(source, _FILES, expected="an image classifier")
        try:
            from transformers import AutoModelForImageClassification
        except ImportError as error:
            raise ImportError(
                f"the labeller {source} needs transformers: pip install context-module[transformers]"
            ) from error
        try:
            net = AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataError(f"{source} is no image classifier of transformers that can be read ({reason})") from error
        self._net = net.eval().requires_grad_(False)
        self.labels: dict[int, str] = net.config.id2label
        self._independent = net.config.problem_type == "multi_label_classification"
        processor = folder / _PROCESSOR
        self._settings = read_json(processor) if processor.is_file() else {}
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        if self._last is None or self._last[0] is not images:
            self._last = images, self._scores(images)
        return self._last[1]

    @torch.no_grad()
    def _scores(self, images: Tensor) -> Tensor:
        net = self._net.to(images.device)
        logits = net(self._prepared(images).to(net.dtype)).logits.float()
        if self._independent:
            return logits
        every = logits.logsumexp(1, keepdim=True)
        others = every + torch.log1p(-(logits - every).exp().clamp_max(1 - 1e-6))
        return logits - others

    def _prepared(self, images: Tensor) -> Tensor:
        """At the classifier's size, and normalised as it was trained."""
        settings = self._settings
        size = _sides(settings.get("size"))
        if settings.get("do_resize", True) and size is not None and tuple(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        if settings.get("do_normalize", True) and settings.get("image_mean") is not None:
            mean, std = (images.new_tensor(settings[name]).view(-1, 1, 1) for name in ("image_mean", "image_std"))
            images = (images - mean) / std
        return images


def _sides(size: Any) -> tuple[int, int] | None:
    """Height and width, as the configurations of image processors write them."""
    if isinstance(size, Mapping):
        side = size.get("shortest_edge")
        return (size.get("height", side), size.get("width", side)) if side or "height" in size else None
    return None if size is None else (int(size), int(size))
