"""One loop for everything that trains, and what it trains on."""

from context_module.training.accelerator import make_accelerator, multiplies_bf16
from context_module.training.encoder import fit_encoder, wants_encoder
from context_module.training.encodings import EncodedDataset, encode_dataset
from context_module.training.gains import fit_gains
from context_module.training.gaussians import Moments, gaussian_map
from context_module.training.maps import fit_effects, fit_maps, map_to
from context_module.training.objectives import prior_gap
from context_module.training.run_directory import RunDirectory, read_metrics
from context_module.training.settings import TrainingSettings
from context_module.training.shift_axes import ShiftAxes, shift_axes
from context_module.training.trainer import Trainer, TrainingResult
from context_module.training.values import fit_values
from context_module.training.weights import trainable_state_dict

__all__ = [
    "EncodedDataset",
    "Moments",
    "RunDirectory",
    "ShiftAxes",
    "Trainer",
    "TrainingResult",
    "TrainingSettings",
    "encode_dataset",
    "fit_effects",
    "fit_encoder",
    "fit_gains",
    "fit_maps",
    "fit_values",
    "gaussian_map",
    "make_accelerator",
    "map_to",
    "multiplies_bf16",
    "prior_gap",
    "read_metrics",
    "shift_axes",
    "trainable_state_dict",
    "wants_encoder",
]
