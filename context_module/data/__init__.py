"""Data in contexts: data sets by name, your own images, and the loader that mixes contexts in a batch."""

from context_module.data.attributes import attributes
from context_module.data.augment import augment
from context_module.data.cells import cells, to_anndata
from context_module.data.context_data import ContextData
from context_module.data.dataset import ArrayContextDataset, ContextDataset, MappedImages
from context_module.data.dsprites import dsprites, dsprites_grid
from context_module.data.folders import FolderContextDataset, image_folders
from context_module.data.grammar import grammar
from context_module.data.hub import HubContextDataset, hub_dataset
from context_module.data.labelled import LabelledDataset
from context_module.data.labellers import Labeller, load_labellers
from context_module.data.loader import MixedContextBatchSampler, evaluation_loader, mixed_context_loader
from context_module.data.morpho_mnist import morpho_mnist
from context_module.data.options import parse_options
from context_module.data.own_samples import own_samples
from context_module.data.pendulum import PendulumSimulator, pendulum, shift_environments
from context_module.data.pictures import ImageReader
from context_module.data.quad import quad
from context_module.data.registry import available_data, data_function, load_data, register_data
from context_module.data.sampled_images import SampledDataset
from context_module.data.samples import from_samples
from context_module.data.shifts import shift_chain, sparse_shifts
from context_module.data.simulated import simulate
from context_module.data.simulator import Simulator
from context_module.data.texts import TextContextDataset, read_by, text_folders
from context_module.data.vectors import VectorContextDataset, check_counts, log_normalised
from context_module.data.views import FactorView, PairView, TripletView, cross_pairs, pairs, triplets, with_factors

__all__ = [
    "ArrayContextDataset",
    "ContextData",
    "ContextDataset",
    "FactorView",
    "FolderContextDataset",
    "HubContextDataset",
    "ImageReader",
    "LabelledDataset",
    "Labeller",
    "MappedImages",
    "MixedContextBatchSampler",
    "PairView",
    "PendulumSimulator",
    "SampledDataset",
    "Simulator",
    "TextContextDataset",
    "TripletView",
    "VectorContextDataset",
    "attributes",
    "augment",
    "available_data",
    "cells",
    "check_counts",
    "cross_pairs",
    "data_function",
    "dsprites",
    "dsprites_grid",
    "evaluation_loader",
    "from_samples",
    "grammar",
    "hub_dataset",
    "image_folders",
    "load_data",
    "load_labellers",
    "log_normalised",
    "mixed_context_loader",
    "morpho_mnist",
    "own_samples",
    "pairs",
    "parse_options",
    "pendulum",
    "quad",
    "read_by",
    "register_data",
    "shift_chain",
    "shift_environments",
    "simulate",
    "sparse_shifts",
    "text_folders",
    "to_anndata",
    "triplets",
    "with_factors",
]
