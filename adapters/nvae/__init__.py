"""NVAE (Vahdat & Kautz 2020), in our own writing: reads the public checkpoints and trains networks of its own."""

from context_module.adapters.nvae.adapter import NVAEAdapter
from context_module.adapters.nvae.config import NVAEConfig, NVAEConfigError
from context_module.adapters.nvae.network import NVAE, NVAEOutput
from context_module.adapters.nvae.objective import NVAEObjective

__all__ = ["NVAE", "NVAEAdapter", "NVAEConfig", "NVAEConfigError", "NVAEObjective", "NVAEOutput"]
