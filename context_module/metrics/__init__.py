"""How good is a wrapped model? One file per family of metrics."""

from context_module.metrics.composition import CompositionScore, composition_scores, composition_table
from context_module.metrics.sliced_wasserstein import sliced_wasserstein

__all__ = ["CompositionScore", "composition_scores", "composition_table", "sliced_wasserstein"]
