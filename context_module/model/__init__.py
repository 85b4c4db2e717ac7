"""A context module around a base."""

from context_module.model.decoder import ContextualDecoder
from context_module.model.rows import contexts_on_one_noise
from context_module.model.train_modes import TrainMode, set_train_mode
from context_module.model.wrap import wrap_decoder

__all__ = ["ContextualDecoder", "TrainMode", "contexts_on_one_noise", "set_train_mode", "wrap_decoder"]
