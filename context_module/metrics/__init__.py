"""How good is a model, and how sure is that? One file per family of metrics; every figure comes with its interval."""

from context_module.metrics.axioms import latent_divergence
from context_module.metrics.case import Case
from context_module.metrics.categories import category_accuracy
from context_module.metrics.concept_accuracy import (
    ConceptAccuracy,
    ConceptClassifier,
    concept_accuracy,
    train_concept_classifier,
)
from context_module.metrics.counterfactual import (
    CounterfactualConsistency,
    counterfactual_consistency,
    train_factor_regressor,
)
from context_module.metrics.disentanglement import disentanglement
from context_module.metrics.downstream import sample_efficiency
from context_module.metrics.estimate import (
    MIN_SAMPLES,
    Estimate,
    average,
    bootstrap,
    bootstrap_indices,
    mean_estimate,
    share_estimate,
)
from context_module.metrics.features import frechet_distance, kernel_distance
from context_module.metrics.graph import GraphScores
from context_module.metrics.kernel import energy_distance, mmd
from context_module.metrics.latents import SHIFTED, latent_scores, target_scores
from context_module.metrics.leak import leak
from context_module.metrics.metric import ContextMetric, Figure, Metric, Table, WholeMetric, inapplicable
from context_module.metrics.perturbation import (
    ANSWERS,
    delta_scores,
    discrimination_score,
    e_distance,
    responses_of,
    scaled_score,
)
from context_module.metrics.precision_recall import PrecisionRecall, precision_recall
from context_module.metrics.reconstruction import Reconstruction, reconstruction_bits
from context_module.metrics.registry import (
    available_metrics,
    built_in_metrics,
    figure_of,
    get_metric,
    register_metric,
)
from context_module.metrics.responses import Responses, expression
from context_module.metrics.shift import accuracy_under_shift, shift_accuracy
from context_module.metrics.sliced_wasserstein import sliced_wasserstein
from context_module.metrics.subject import Subject
from context_module.metrics.texts import UNREADABLE, intended_share, read_factors, total_variation
from context_module.metrics.transfer import TRANSFER_DRAWS
from context_module.metrics.unfamiliar import unfamiliar

__all__ = [
    "ANSWERS",
    "MIN_SAMPLES",
    "SHIFTED",
    "TRANSFER_DRAWS",
    "UNREADABLE",
    "Case",
    "ConceptAccuracy",
    "ConceptClassifier",
    "ContextMetric",
    "CounterfactualConsistency",
    "Estimate",
    "Figure",
    "GraphScores",
    "Metric",
    "PrecisionRecall",
    "Reconstruction",
    "Responses",
    "Subject",
    "Table",
    "WholeMetric",
    "accuracy_under_shift",
    "available_metrics",
    "average",
    "bootstrap",
    "bootstrap_indices",
    "built_in_metrics",
    "category_accuracy",
    "concept_accuracy",
    "counterfactual_consistency",
    "delta_scores",
    "discrimination_score",
    "disentanglement",
    "e_distance",
    "energy_distance",
    "expression",
    "figure_of",
    "frechet_distance",
    "get_metric",
    "inapplicable",
    "intended_share",
    "kernel_distance",
    "latent_divergence",
    "latent_scores",
    "leak",
    "mean_estimate",
    "mmd",
    "precision_recall",
    "read_factors",
    "reconstruction_bits",
    "register_metric",
    "responses_of",
    "sample_efficiency",
    "scaled_score",
    "share_estimate",
    "shift_accuracy",
    "sliced_wasserstein",
    "target_scores",
    "total_variation",
    "train_concept_classifier",
    "train_factor_regressor",
    "unfamiliar",
]
