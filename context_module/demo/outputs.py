"""Samples of a module under the settings of a page: a picture, or texts."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context_module.contexts import OBSERVATIONAL
from context_module.data import ImageReader
from context_module.demo.code import file_name
from context_module.demo.modules import SavedModule
from context_module.demo.settings import Settings
from context_module.drawing import labelled_samples
from context_module.model import contexts_on_one_noise

__all__ = ["Output", "make_output"]


@dataclass(frozen=True)
class Output:
    """What one module makes.

    Attributes:
        module: its name.
        name: of the file.
        content: of the file: a PNG picture, or a Markdown table of texts.
        texts: the texts of every row, by its label; none of images.
    """

    module: str
    name: str
    content: bytes
    texts: Mapping[str, list[str]]


def make_output(module: SavedModule, settings: Settings, image: Path | None = None) -> Output:
    """The samples of a module: the observational ones, and the same ones under the intervention.

    With an image or a text, that comes first, and the others are its counterfactuals.

    Args:
        module: the module.
        settings: what `Settings.check` let pass.
        image: file of the image.
    """
    model, abduction = module.model, None
    x: Any = None
    rows: dict[str, Any] = {}
    if image is not None:
        x = ImageReader(model.base.image_shape, resize=True)(image)[None]
        rows["image"] = x
    elif settings.text:
        x = rows["text"] = [settings.text]
    if x is not None:
        abduction = model.abduct(x, settings.context)
    rows |= contexts_on_one_noise(
        model,
        {OBSERVATIONAL: None, "do": settings.of(module)},
        n=settings.n,
        abduction=abduction,
        temperature=settings.temperature,
        seed=settings.seed,
    )
    samples = labelled_samples(rows)
    if isinstance(samples, str):
        return Output(module.name, file_name(module), f"{samples}\n".encode(), rows)
    buffer = io.BytesIO()
    samples.save(buffer, format="PNG")
    return Output(module.name, file_name(module), buffer.getvalue(), {})
