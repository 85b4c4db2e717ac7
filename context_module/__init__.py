"""Control a pretrained generative model concept by concept: a small context module in front of its decoder.

Example::

    from context_module import wrap_decoder

    model = wrap_decoder(base, concepts=["quad1", "size"])
    out = model(x, contexts)                            # losses per sample, reconstruction
    images = model.generate(16, do=("quad1", "size"))   # what was never seen together
"""

from context_module.adapters import adapt
from context_module.base import Abduction, ContextualOutput
from context_module.contexts import Concepts
from context_module.errors import ContextModuleError
from context_module.interventions import Value
from context_module.model import ContextualDecoder, wrap_decoder
from context_module.nn import ContextModule, ContextModuleConfig

__all__ = [
    "Abduction",
    "Concepts",
    "ContextModule",
    "ContextModuleConfig",
    "ContextModuleError",
    "ContextualDecoder",
    "ContextualOutput",
    "Value",
    "adapt",
    "wrap_decoder",
]
