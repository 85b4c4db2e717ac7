"""The field's other systems, to compare with: each a loss of its own on the same networks, loop, data and metrics."""

if __name__ == "baselines":  # the folder imported from the repository's root: a second copy of every class
    raise ImportError(
        "'baselines' is a part of context_module: install the project (pip install -e .) and write "
        "'from context_module.baselines import ...'."
    )

from context_module.baselines.classifier import Classifier, ClassifierSettings
from context_module.baselines.labelled import LabelledBaseline, LabelledSettings
from context_module.baselines.networks import ARCHITECTURES
from context_module.baselines.perturbation import PerturbationSettings, PerturbationVAE
from context_module.baselines.perturbation_subject import PerturbationSubject
from context_module.baselines.registry import available_baselines, get_baseline, load_baseline, register_baseline
from context_module.baselines.regularized import RegularizedSettings, RegularizedVAE, Regularizer, regularizer_of
from context_module.baselines.subject import BaselineSubject
from context_module.baselines.traversals import traversals
from context_module.baselines.vae import Baseline, BaselineSettings

__all__ = [
    "ARCHITECTURES",
    "Baseline",
    "BaselineSettings",
    "BaselineSubject",
    "Classifier",
    "ClassifierSettings",
    "LabelledBaseline",
    "LabelledSettings",
    "PerturbationSettings",
    "PerturbationSubject",
    "PerturbationVAE",
    "RegularizedSettings",
    "RegularizedVAE",
    "Regularizer",
    "available_baselines",
    "get_baseline",
    "load_baseline",
    "register_baseline",
    "regularizer_of",
    "traversals",
]
