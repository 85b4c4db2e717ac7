"""What is trained for: losses that the loop calls, and their terms, one a file."""

from context_module.objective import Objective, ParameterGroup
from context_module.training.objectives.critic import Adversarial, Critic
from context_module.training.objectives.directions import Directions, decoder_sketch
from context_module.training.objectives.edges import Acyclicity, Sparsity, acyclicity
from context_module.training.objectives.edits import EDIT_TERMS, EditObjective, LeastChange
from context_module.training.objectives.embedding import EmbeddingObjective
from context_module.training.objectives.gap import prior_gap
from context_module.training.objectives.interaction import Interaction
from context_module.training.objectives.latent import LATENT_TERMS, LatentObjective, latent_terms
from context_module.training.objectives.matching import Matching, matching_distance
from context_module.training.objectives.norms import relative_norms
from context_module.training.objectives.overlap import Overlap
from context_module.training.objectives.pack import PackObjective, new_pack
from context_module.training.objectives.pixel import PixelObjective
from context_module.training.objectives.terms import LatentStep, Term

__all__ = [
    "EDIT_TERMS",
    "LATENT_TERMS",
    "Acyclicity",
    "Adversarial",
    "Critic",
    "Directions",
    "EditObjective",
    "EmbeddingObjective",
    "Interaction",
    "LatentObjective",
    "LatentStep",
    "LeastChange",
    "Matching",
    "Objective",
    "Overlap",
    "PackObjective",
    "ParameterGroup",
    "PixelObjective",
    "Sparsity",
    "Term",
    "acyclicity",
    "decoder_sketch",
    "latent_terms",
    "matching_distance",
    "new_pack",
    "prior_gap",
    "relative_norms",
]
