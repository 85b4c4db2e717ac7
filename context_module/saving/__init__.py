"""A folder that holds a context module: what is in it, and its model card."""

from context_module.saving.card import model_card, write_card
from context_module.saving.checkpoint import BaseRecord, Checkpoint
from context_module.saving.details import CardDetails
from context_module.saving.info import BASE_CONFIGS, describe
from context_module.saving.layout import BASE_FOLDER, CONFIG_NAME, FILES, OWN_FILES

__all__ = [
    "BASE_CONFIGS",
    "BASE_FOLDER",
    "CONFIG_NAME",
    "FILES",
    "OWN_FILES",
    "BaseRecord",
    "CardDetails",
    "Checkpoint",
    "describe",
    "model_card",
    "write_card",
]
