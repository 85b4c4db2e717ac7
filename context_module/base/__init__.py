"""What one does with a base of any family: hold it, adapt it, sample from it alone."""

from context_module.base.alone import base_output, base_samples
from context_module.base.batch_norm import readjust_batch_norm
from context_module.base.fingerprint import fingerprint, plain_name, same_weights
from context_module.base.held import HeldBase, TakenLora
from context_module.base.lora import (
    LoraSettings,
    foreign_lora,
    is_lora,
    remove_lora,
    train_lora,
    without_lora,
)
from context_module.base.outputs import Abduction, ContextualOutput

__all__ = [
    "Abduction",
    "ContextualOutput",
    "HeldBase",
    "LoraSettings",
    "TakenLora",
    "base_output",
    "base_samples",
    "fingerprint",
    "foreign_lora",
    "is_lora",
    "plain_name",
    "readjust_batch_norm",
    "remove_lora",
    "same_weights",
    "train_lora",
    "without_lora",
]
