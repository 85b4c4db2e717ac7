"""A base from where it lies: `load_base` for every family, a LoRA checkpoint of peft in front of it or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from context_module.adapters.contract import DecoderAdapter
from context_module.adapters.places import PEFT_CONFIG
from context_module.adapters.registry import get_adapter
from context_module.errors import CheckpointError
from context_module.io import load_tensors, misfits, read_json

__all__ = ["load_base"]

_PEFT_WEIGHTS = "adapter_model.safetensors"  # ours has this name, too


def load_base(family: str, path: str | Path, **options: Any) -> DecoderAdapter:
    """The base of a family at a path or Hub id, in eval mode.

    A folder of `peft.PeftModel.save_pretrained` is a base, too: the one that its configuration names, with the LoRA
    (or another method that adapts layers) as a part of it.

    Args:
        family: name of the adapter, such as ``nvae``.
        path: what the family's `load` takes, or a folder of peft.
        options: the family's `load_options`, such as ``revision``; None stands for its default.

    Raises:
        ValueError: for an unknown family, or an option that the family does not take.
        CheckpointError: for what cannot be read; for LoRA that does not say which base it is for, that is pickled, or
            that does not fit; for a context module, which is no base.
        ImportError: for LoRA without peft.
    """
    adapter, given = get_adapter(family), {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name not in adapter.load_options:
            takes = ", ".join(adapter.load_options) or "none"
            raise ValueError(f"a {family!r} base takes no option {name} ({value!r}): it takes {takes}")
    load: Callable[..., DecoderAdapter] = adapter.load
    config = Path(path) / PEFT_CONFIG
    if not config.is_file():
        return load(path, **given).eval()
    content = read_json(config)
    if "base_adapter" in content:
        if (Path(path) / "config.json").is_file():  # a base that was trained in the same folder
            return load(path, **given).eval()
        raise CheckpointError(f"{path} holds a context module, not a base: give the base that it was trained on")
    where = content.get("base_model_name_or_path")
    if "peft_type" not in content or not where:
        raise CheckpointError(
            f"{config} does not say which base its LoRA is for: set base_model_name_or_path in it to where the base is"
        )
    base = load(where, **given)
    _add_peft(base, Path(path), where)
    base.source = str(path)
    return base.eval()


def _add_peft(base: DecoderAdapter, folder: Path, where: str) -> None:
    """Put what peft saved in a folder onto the base's network, in place."""
    try:
        import peft
    except ImportError as error:
        raise ImportError(f"{folder} holds LoRA of peft: pip install context-module[peft]") from error

    network = getattr(base, "net", None)
    if network is None:
        raise CheckpointError(
            f"{folder} holds LoRA of peft, for which a {base.name!r} base has no network: build the PeftModel "
            "yourself and wrap it"
        )
    tensors = load_tensors(folder / _PEFT_WEIGHTS)  # never the pickled adapter_model.bin, which peft would take
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.base_model_name_or_path = None  # peft would warn that a plain network has no name
        model = peft.get_peft_model(network, config)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder} does not fit the {base.name!r} base at {where}: {error}") from error
    if problems := misfits(tensors, peft.get_peft_model_state_dict(model)):
        raise CheckpointError(f"{folder} does not fit the {base.name!r} base at {where}: {'; '.join(problems[:4])}")
    peft.set_peft_model_state_dict(model, tensors)
