"""A new NVAE: its shape, and its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from context_module.adapters.nvae.adapter import NVAEAdapter
from context_module.adapters.nvae.config import NVAEConfig
from context_module.adapters.nvae.network import NVAE
from context_module.adapters.nvae.objective import NVAEObjective
from context_module.adapters.pretraining import Pretraining
from context_module.options import argument

if TYPE_CHECKING:
    from context_module.data import ContextDataset

__all__ = ["NVAEPretraining"]


@dataclass(kw_only=True)
class NVAEPretraining(Pretraining):
    """An NVAE for square images."""

    channels: int = argument(16, help="channels at the images' size; doubled by every halving of it")
    num_scales: int = argument(2, help="resolutions that hold latents")
    groups_per_scale: int = argument(1, help="latent groups of every scale")
    latent_channels: int = argument(8, help="channels of a latent group")
    num_blocks: int = argument(2, help="halvings of the size before the first scale")
    cells: int = argument(1, help="cells per block and group, in encoder and decoder")
    ops: str = argument("res_bnswish", help="preset of the cells' operations")
    likelihood: Literal["bernoulli", "normal", "logistic_mixture"] = argument("bernoulli", help="of the pixels")
    spectral_weight: float = argument(1e-2, help="weight of the spectral and batch-norm regularisers")

    def build(self, data: ContextDataset) -> tuple[NVAEAdapter, NVAEObjective]:
        channels, height, width = data.image_shape
        if height != width:
            raise ValueError(f"an NVAE takes square images, got {height}x{width}: set --resolution")
        config = NVAEConfig(
            image_size=height,
            in_channels=channels,
            likelihood=self.likelihood,
            num_scales=self.num_scales,
            groups_per_scale=self.groups_per_scale,
            ada_groups=False,
            latent_channels=self.latent_channels,
            encoder_channels=self.channels,
            decoder_channels=self.channels,
            num_blocks=self.num_blocks,
            preprocess_cells=self.cells,
            postprocess_cells=self.cells,
            encoder_cells=self.cells,
            decoder_cells=self.cells,
            ops=self.ops,
        )
        net = NVAE(config)
        return NVAEAdapter(net), NVAEObjective(net, self.spectral_weight)
