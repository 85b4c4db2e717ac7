"""The posterior heads: q(z | x, context), a Gaussian over the noise, read off the base's encoder features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from context_module.nn.config import ContextModuleConfig
from context_module.nn.spatial import MapsToGrid

__all__ = ["PosteriorHeads"]

_WIDEST = 2.0  # log-variance, well beyond the prior's: one image unlike all others would else ruin a mean of losses


class PosteriorHeads(nn.Module):
    """A small MLP from encoder features (B, D) and intervention mask (B, K) to a Normal over the noise (B, (K+F) w_z).

    Its log-variance is at most 2. With ``reference=True`` it is the paper's: two Linear layers that read the features
    alone, without that bound. With ``inversion="factorised"`` the features of a base with spatial ones are read
    through a coarse grid (`context_module.nn.spatial.MapsToGrid`): D `posterior_width` parameters become at most 1,024
    `posterior_width`.
    """

    def __init__(self, config: ContextModuleConfig) -> None:
        super().__init__()
        self.reads_mask = not config.reference
        if config.reference:
            self.trunk: nn.Module = nn.Identity()
            width = config.num_features
        else:
            shape, size = config.feature_maps, config.num_features
            self.grid = MapsToGrid(shape) if config.inversion == "factorised" and shape else None
            if self.grid is not None:
                size = self.grid.grid_size
            # features come at any scale, whatever the base; the norm makes one learning rate fit all
            self.norm = nn.LayerNorm(size)
            width = config.posterior_width
            self.trunk = nn.Sequential(
                nn.Linear(size + len(config.concepts), width),
                nn.GELU(),
                nn.Linear(width, width),
                nn.GELU(),
            )
        self.mean = nn.Linear(width, config.noise_size)
        self.log_var = nn.Linear(width, config.noise_size)

    def forward(self, features: Tensor, mask: Tensor) -> Normal:
        features = features.to(self.mean.weight.dtype)
        if self.reads_mask:
            features = features if self.grid is None else self.grid(features)
            features = torch.cat([self.norm(features), mask.to(features.dtype)], dim=1)
        hidden = self.trunk(features)
        # float32 whatever the autocast: the KL of a nearly deterministic posterior needs the digits
        mean, log_var = self.mean(hidden).float(), self.log_var(hidden).float()
        if self.reads_mask:
            log_var = log_var.clamp(max=_WIDEST)
        return Normal(mean, (0.5 * log_var).exp(), validate_args=False)
