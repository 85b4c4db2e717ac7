"""Reading what ``save_pretrained`` of diffusers and transformers wrote: safetensors alone, and only what fits."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from context_module.errors import CheckpointError
from context_module.io import is_finite

__all__ = ["import_library", "network_of", "parts_of", "read_network", "reading", "source_of"]


def import_library(name: str, family: str) -> Any:
    """diffusers or transformers, imported when it is needed; ImportError that names the extra to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"a {family!r} base needs {name}: pip install context-module[{name}]") from error


@contextmanager
def reading(where: str, what: str) -> Iterator[None]:
    """One CheckpointError for all that a broken or missing file raises, which is up to four libraries.

    Args:
        where: the folder or Hub id.
        what: it should be, as in "a folder of ...".
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{where} is neither {what} nor a Hub id of one: {reason}") from error


def read_network(
    kind: Any, path: str, where: str, tolerated: Callable[[str, str], bool] | None = None, **options: Any
) -> Any:
    """``kind.from_pretrained(path)`` with all of its weights, from safetensors.

    Args:
        kind: a class of diffusers or transformers, whose `from_pretrained` leaves at random what it does not find.
        path: the folder or Hub id.
        where: what errors call it.
        tolerated: (kind of misfit, such as ``missing_keys``, name of the tensor) to whether that does not matter.
        options: of `from_pretrained`.

    Raises:
        CheckpointError: naming tensors that are missing, unexpected or of another shape.
    """
    net, problems = kind.from_pretrained(path, use_safetensors=True, output_loading_info=True, **options)
    misfits = {
        problem: left
        for problem, entries in problems.items()
        if (left := [entry for entry in entries if tolerated is None or not tolerated(problem, str(entry))])
    }
    if misfits:
        raise CheckpointError(f"{where} does not fit the model it is loaded into: {misfits}")
    if broken := [name for name, parameter in net.named_parameters() if not is_finite(parameter.detach())]:
        raise CheckpointError(f"{where} has NaN or infinite values in {', '.join(broken[:4])}")
    return net


def network_of(base: Any) -> Any:
    """The network in a `peft.PeftModel`, whose layers hold its LoRA; all else as it is. Found without importing peft.

    Raises:
        TypeError: for a method of peft that changes what goes into a network.
    """
    if not any(kind.__name__ == "PeftModel" and kind.__module__.startswith("peft.") for kind in type(base).__mro__):
        return base
    if base.active_peft_config.is_prompt_learning:
        raise TypeError(
            f"a PeftModel with {base.active_peft_config.peft_type.value} changes what goes into a network, not its "
            "layers, and cannot be a base: LoRA and other methods that adapt layers can"
        )
    return base.get_base_model()


def source_of(base: Any) -> str | None:
    """Where a model or pipeline says that it was loaded from, a path or Hub id; None if it does not say."""
    config = getattr(base, "config", None)
    inner = getattr(base, "model", None)  # of a pipeline of transformers
    places = [getattr(base, "name_or_path", None), getattr(inner, "name_or_path", None)]
    places += [config.get("_name_or_path")] if isinstance(config, Mapping) else []
    return next((str(place) for place in places if place), None)


def parts_of(model: Any, by_hand: str, what: str) -> tuple[Any, Any, str | None]:
    """Model, tokenizer and source, of a pipeline of transformers or a model that says where it was loaded from.

    Args:
        model: one of these.
        by_hand: how to give both, for the message.
        what: is at the source, for the message.

    Raises:
        TypeError: for a model that does not say where it was loaded from.
        CheckpointError: where there is no tokenizer.
    """
    if hasattr(model, "tokenizer") and hasattr(model, "model"):
        return model.model, model.tokenizer, source_of(model)
    if (source := source_of(model)) is None:
        raise TypeError(f"a {type(model).__name__} does not say where its tokenizer is: give both, as {by_hand}")
    with reading(source, what):
        return (
            model,
            import_library("transformers", "transformers").AutoTokenizer.from_pretrained(
                source, trust_remote_code=False
            ),
            source,
        )
