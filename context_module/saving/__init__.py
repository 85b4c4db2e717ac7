"""A folder that holds a context module: what is in it, and its model card."""

from context_module.saving.card import CardDetails, model_card, write_card
from context_module.saving.checkpoint import base_entries, base_of, load_adapter, save_adapter
from context_module.saving.info import BASE_CONFIGS, describe
from context_module.saving.layout import BASE_FOLDER, CONFIG_NAME, FILES

__all__ = [
    "BASE_CONFIGS",
    "BASE_FOLDER",
    "CONFIG_NAME",
    "FILES",
    "CardDetails",
    "base_entries",
    "base_of",
    "describe",
    "load_adapter",
    "model_card",
    "save_adapter",
    "write_card",
]
