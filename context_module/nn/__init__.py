"""From noise and an intervention mask to a base's decoder input; knows no base and no data."""

from context_module.nn.config import Composition, ContextModuleConfig, Edge, Form, Inversion, ancestors_of, auto_widths
from context_module.nn.edits import EditModule
from context_module.nn.equations import iterated, solved
from context_module.nn.graph import CausalGraph, learned_graph
from context_module.nn.layers import ConceptInversionLayer, EmbeddingLayer, InterventionLayer
from context_module.nn.modes import evaluating
from context_module.nn.module import ContextModule
from context_module.nn.pack import ConceptPack, ConceptPackConfig
from context_module.nn.posterior import PosteriorHeads
from context_module.nn.value_maps import ValueMap, ValueMaps

__all__ = [
    "CausalGraph",
    "Composition",
    "ConceptInversionLayer",
    "ConceptPack",
    "ConceptPackConfig",
    "ContextModule",
    "ContextModuleConfig",
    "Edge",
    "EditModule",
    "EmbeddingLayer",
    "Form",
    "InterventionLayer",
    "Inversion",
    "PosteriorHeads",
    "ValueMap",
    "ValueMaps",
    "ancestors_of",
    "auto_widths",
    "evaluating",
    "iterated",
    "learned_graph",
    "solved",
]
