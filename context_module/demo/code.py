"""The Python that makes what a page shows, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping

from context_module.contexts import OBSERVATIONAL
from context_module.demo.modules import SavedModule
from context_module.demo.settings import Settings
from context_module.interventions import Value

__all__ = ["file_name", "python_code"]


def python_code(settings: Settings, modules: Mapping[str, SavedModule], image: str | None = None) -> str:
    """A script that writes the files of `make_output`; run where the page was started.

    Args:
        settings: what the page is set to.
        modules: the modules there are, by name.
        image: name of the file that was uploaded.
    """
    shown = [modules[name] for name in settings.modules]
    values = any(isinstance(given, Value) for given in settings.do.values())
    lines = ["from pathlib import Path", ""] if image else []
    lines += [f"from context_module import ContextualDecoder{', Value' if values else ''}"]
    lines += ["from context_module.data import ImageReader"] if image else []
    lines += ["from context_module.drawing import labelled_samples, save_samples"]
    lines += ["from context_module.model import contexts_on_one_noise"]
    for module in shown:
        lines += ["", *_of_module(module, settings, image)]
    return "\n".join(lines) + "\n"


def file_name(module: SavedModule) -> str:
    """What the file with a module's samples is called."""
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in module.name).strip("-")
    return f"{plain or 'module'}.{'png' if module.model.base.kind == 'images' else 'md'}"


def _of_module(module: SavedModule, settings: Settings, image: str | None) -> list[str]:
    base = f", base={module.base!r}" if module.base else ""
    lines = [f'model = ContextualDecoder.from_pretrained({module.path!r}{base}, device_map="auto")']
    lines += [f"model.add_concept({pack!r})" for pack in module.packs]
    lines += [f"do = {_spelt(settings.of(module))}"]
    noise = f"n={settings.n}"
    if image:
        lines += [f"x = ImageReader(model.base.image_shape, resize=True)(Path({image!r}))[None]"]
        lines += ['rows = {"image": x}']
    elif settings.text:
        lines += [f"x = [{settings.text!r}]", 'rows = {"text": x}']
    if image or settings.text:
        noise = f"abduction=model.abduct(x, {settings.context!r})"
    noise += f", temperature={settings.temperature!r}, seed={settings.seed!r}"
    lines += [f"rows {'|' if image or settings.text else ''}= contexts_on_one_noise("]
    lines += [f'    model, {{"{OBSERVATIONAL}": None, "do": do}}, {noise}', ")"]
    return [*lines, f"save_samples({file_name(module)!r}, labelled_samples(rows))"]


def _spelt(do: Mapping[str, float | Value]) -> str:
    given = (
        f"{name!r}: {f'Value({value.value!r})' if isinstance(value, Value) else repr(value)}"
        for name, value in do.items()
    )
    return f"{{{', '.join(given)}}}"
