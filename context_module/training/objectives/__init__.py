"""What is trained for: losses that the loop calls, and their terms, one a file."""

from context_module.objective import Objective, ParameterGroup
from context_module.training.objectives.critic import Critic
from context_module.training.objectives.directions import Directions, decoder_sketch
from context_module.training.objectives.edges import acyclicity, relative_norms
from context_module.training.objectives.embedding import EmbeddingObjective
from context_module.training.objectives.interaction import interaction
from context_module.training.objectives.latent import LatentObjective
from context_module.training.objectives.overlap import overlap
from context_module.training.objectives.pack import PackObjective, new_pack
from context_module.training.objectives.pixel import PixelObjective

__all__ = [
    "Critic",
    "Directions",
    "EmbeddingObjective",
    "LatentObjective",
    "Objective",
    "PackObjective",
    "ParameterGroup",
    "PixelObjective",
    "acyclicity",
    "decoder_sketch",
    "interaction",
    "new_pack",
    "overlap",
    "relative_norms",
]
