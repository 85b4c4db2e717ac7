"""The files of a saved module's folder, in peft's layout."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "BASE_FOLDER",
    "CARD_NAME",
    "CONFIG_NAME",
    "FILES",
    "GRID_NAME",
    "OWN_FILES",
    "WEIGHTS_NAME",
    "named_modules",
]

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
CARD_NAME, GRID_NAME = "README.md", "contexts.png"
BASE_FOLDER = "base"  # a base that trained with the module
_NAMES = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, GRID_NAME)
OWN_FILES = (CONFIG_NAME, WEIGHTS_NAME, GRID_NAME, f"{BASE_FOLDER}/*")  # all but what people may have edited
FILES = (*_NAMES, *(f"*/{name}" for name in _NAMES), f"{BASE_FOLDER}/*")  # a folder may hold a training run besides


def named_modules(directory: Path) -> list[str]:
    """Names of the subfolders that hold a module."""
    return sorted(path.parent.name for path in directory.glob(f"*/{CONFIG_NAME}"))
