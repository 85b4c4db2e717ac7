"""Data in contexts: data sets by name, your own images, and the loader that mixes contexts in a batch."""

from context_module.data.base import ArrayContextDataset, ContextData, ContextDataset, MappedImages
from context_module.data.folders import FolderContextDataset, image_folders
from context_module.data.loader import MixedContextBatchSampler, evaluation_loader, mixed_context_loader
from context_module.data.quad import quad
from context_module.data.registry import available_data, load_data, parse_options
from context_module.data.simulator import Simulator, simulate

__all__ = [
    "ArrayContextDataset",
    "ContextData",
    "ContextDataset",
    "FolderContextDataset",
    "MappedImages",
    "MixedContextBatchSampler",
    "Simulator",
    "available_data",
    "evaluation_loader",
    "image_folders",
    "load_data",
    "mixed_context_loader",
    "parse_options",
    "quad",
    "simulate",
]
