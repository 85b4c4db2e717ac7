"""How good is a model, and how sure is that? One file per family of metrics; every figure comes with its interval."""

from context_module.metrics.estimate import Estimate, average, bootstrap, bootstrap_indices, mean_estimate
from context_module.metrics.kernel import energy_distance, mmd
from context_module.metrics.precision_recall import PrecisionRecall, precision_recall
from context_module.metrics.reconstruction import Reconstruction, reconstruction_bits
from context_module.metrics.sliced_wasserstein import sliced_wasserstein

__all__ = [
    "Estimate",
    "PrecisionRecall",
    "Reconstruction",
    "average",
    "bootstrap",
    "bootstrap_indices",
    "energy_distance",
    "mean_estimate",
    "mmd",
    "precision_recall",
    "reconstruction_bits",
    "sliced_wasserstein",
]
