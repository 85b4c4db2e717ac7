"""A context module around a base."""

from context_module.model.decoder import ContextualDecoder, wrap_decoder
from context_module.model.pretrained import SavedModules
from context_module.model.rows import contexts_on_one_noise

__all__ = ["ContextualDecoder", "SavedModules", "contexts_on_one_noise", "wrap_decoder"]
