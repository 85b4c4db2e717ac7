"""The saved modules that a page shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from context_module.errors import CheckpointError
from context_module.model import ContextualDecoder
from context_module.saving import CONFIG_NAME

__all__ = ["SavedModule", "load_modules"]


@dataclass(frozen=True)
class SavedModule:
    """A module that was loaded, and how.

    Attributes:
        name: what the page calls it: its folder.
        model: the module with its base, in eval mode.
        path: the folder, or Hub repository.
        base: where the base lies, if it is not where it was in training.
        packs: files of the concept packs that were added.
    """

    name: str
    model: ContextualDecoder
    path: str
    base: str | None = None
    packs: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, tuple[float, float]]:
        """The concepts that can be set to a value, each with the smallest and the largest one."""
        return self.model.value_maps.ranges


def load_modules(
    places: Iterable[str], *, base: str | None = None, packs: Iterable[str] = ()
) -> dict[str, SavedModule]:
    """Every module in some folders, by name, on the accelerator if there is one.

    Args:
        places: folders that hold a module, such as that of a training run, or folders of modules; or Hub repositories.
        base: where the base lies, if it is not where it was in training.
        packs: concept packs; each is added to the modules that it was trained on.

    Raises:
        CheckpointError: for a place without a module, a module that cannot be loaded, or a pack that fits none.
        ValueError: if some modules make images and others texts, which one page cannot show, or vectors.
    """
    paths = [path for place in places for path in _found(place)]
    short = [Path(path).resolve().name if Path(path).is_dir() else path for path in paths]
    names = [name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)]
    models = {
        name: ContextualDecoder.from_pretrained(path, base=base, device_map="auto")
        for name, path in zip(names, paths, strict=True)
    }
    kinds = {model.base.kind: name for name, model in models.items()}
    if len(kinds) > 1:
        makers = " and ".join(f"{name} makes {kind}" for kind, name in kinds.items())
        raise ValueError(f"{makers}: give modules of one kind, a page for each")
    if "vectors" in kinds:
        raise ValueError(
            f"{kinds['vectors']} makes vectors, and the page shows images or texts: see recipes/compose.py"
        )
    added = _add_packs(models, packs)
    return {
        name: SavedModule(name, model, path, base, tuple(added[name]))
        for (name, model), path in zip(models.items(), paths, strict=True)
    }


def _found(place: str) -> list[str]:
    """The folders of modules at a place: itself, then those in it."""
    folder = Path(place)
    if not folder.is_dir():
        return [place]
    own = [place] if (folder / CONFIG_NAME).is_file() else []
    found = own + [str(file.parent) for file in sorted(folder.glob(f"*/{CONFIG_NAME}"))]
    if not found:
        raise CheckpointError(
            f"{place} holds no context module: neither it nor a folder in it has {CONFIG_NAME}, which a finished "
            "training and save_pretrained write"
        )
    return found


def _add_packs(models: Mapping[str, ContextualDecoder], packs: Iterable[str]) -> dict[str, list[str]]:
    """Add every pack to the modules it fits; the packs of each module, by its name."""
    added: dict[str, list[str]] = {name: [] for name in models}
    for pack in packs:
        refused = None
        for name, model in models.items():
            try:
                model.add_concept(pack)
            except CheckpointError as error:
                refused = error
            else:
                added[name].append(pack)
        if refused is not None and not any(pack in some for some in added.values()):
            raise refused
    return added
