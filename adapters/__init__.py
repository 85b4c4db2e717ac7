"""The bases this library knows: one adapter class per family, and the registry that finds them."""

if __name__ == "adapters":  # the folder imported from the repository's root: a second copy of every class
    raise ImportError(
        "'adapters' is a part of context_module: install the project (pip install -e .) and write "
        "'from context_module.adapters import ...'. (For AdapterHub's package of that name, leave this directory.)"
    )

from context_module.adapters.contract import DecoderAdapter, Decoding, Encoding, LatentSpec, Likelihood
from context_module.adapters.loading import load_base
from context_module.adapters.places import family_of
from context_module.adapters.pretraining import Pretraining
from context_module.adapters.registry import adapt, available_adapters, get_adapter, register_adapter

__all__ = [
    "DecoderAdapter",
    "Decoding",
    "Encoding",
    "LatentSpec",
    "Likelihood",
    "Pretraining",
    "adapt",
    "available_adapters",
    "family_of",
    "get_adapter",
    "load_base",
    "register_adapter",
]
