"""The errors this library raises on purpose: one root, each also a builtin error."""

__all__ = [
    "AdapterError",
    "CheckpointError",
    "ConceptError",
    "ContextModuleError",
    "DataError",
    "HubError",
    "LoraError",
    "NonFiniteError",
    "OutputError",
    "OutputExistsError",
    "ShapeError",
    "UnfittedError",
]


class ContextModuleError(Exception):
    """Root of every error raised here on purpose."""


class AdapterError(ContextModuleError, ValueError):
    """A module's name that is taken or not known, or what a module is needed for while it is switched off."""


class ConceptError(ContextModuleError, ValueError):
    """A concept or context name that is not known, malformed or repeated."""


class ShapeError(ContextModuleError, ValueError):
    """A tensor of the wrong shape, dtype or value range."""


class DataError(ContextModuleError, ValueError):
    """Data that cannot be used: a missing folder, a corrupt image, a NaN."""


class CheckpointError(ContextModuleError, RuntimeError):
    """A file that is truncated, foreign, unsafe or made for another base."""


class HubError(ContextModuleError, OSError):
    """An upload to the Hugging Face Hub that cannot be."""


class LoraError(ContextModuleError, ValueError):
    """A base that LoRA cannot be added to, or LoRA where it must not be."""


class NonFiniteError(ContextModuleError, ArithmeticError):
    """A loss or statistic that became NaN or infinite."""


class OutputError(ContextModuleError, OSError):
    """An output folder that cannot be written, or has no room."""


class OutputExistsError(ContextModuleError, FileExistsError):
    """An output directory that already holds a finished run."""


class UnfittedError(ContextModuleError, RuntimeError):
    """An encoder that was made for a base without one, before it was trained."""
