"""Diffusers' autoencoders as bases: `AutoencoderKL` and its relatives, one row of a table each."""

from context_module.adapters.diffusers.adapter import DiffusersAdapter
from context_module.adapters.diffusers.autoencoders import AUTOENCODERS
from context_module.adapters.diffusers.objective import AutoencoderKLObjective

__all__ = ["AUTOENCODERS", "AutoencoderKLObjective", "DiffusersAdapter"]
