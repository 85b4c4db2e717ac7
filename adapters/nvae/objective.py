"""The loss an NVAE is trained with from scratch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from context_module.adapters.nvae.layers import BatchNorm, WeightNormConv2d
from context_module.adapters.nvae.network import NVAE
from context_module.objective import BatchObjective

__all__ = ["NVAEObjective"]


class NVAEObjective(BatchObjective):
    """The negative evidence lower bound, with NVAE's annealing and regularisers while training.

    While training, the KL's coefficient grows from 1e-4 to 1 over the first `anneal_share` of training, during which
    groups are also balanced: each is weighted by its own mean KL, so that none collapses early. The regularisers are
    the spectral norms of all convolutions and the largest scale of every batch norm (Vahdat & Kautz 2020). In eval
    mode the loss is the plain bound.

    Args:
        net: the network to train.
        spectral_weight: of the regularisers; 1e-2 suits small images, 1e-1 photographs.
        anneal_share: share of training, in [0, 1].
    """

    optimizer = torch.optim.Adamax
    group_shares: Tensor

    def __init__(self, net: NVAE, spectral_weight: float = 1e-2, anneal_share: float = 0.3) -> None:
        super().__init__()
        self.net = net
        self.spectral_weight = spectral_weight
        self.anneal_share = anneal_share
        self.spectral_norms = SpectralNorms(net)
        sizes = net.config.group_sizes
        # elements of a group's scale over the number of groups that share the scale
        shares = torch.tensor([size**2 / sizes.count(size) for size in sizes])
        self.register_buffer("group_shares", shares, persistent=False)

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            batch: "x" (B, C, H, W), images with values in [0, 1].
            progress: share of training that is done, in [0, 1].

        Returns:
            (B,) each, in nats: "loss" to minimise; and to log "neg_log_likelihood", "kl", and "kl_group_<g>" of every
            group, coarsest first.
        """
        return super().forward(batch, progress)

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        out = self.net(batch["x"])
        return {"neg_log_likelihood": out.neg_log_likelihood, "kl_per_group": out.kl_per_group.T}

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        neg_log_likelihood, kl_per_group = parts["neg_log_likelihood"], parts["kl_per_group"].T
        kl = kl_per_group.sum(0)
        cost = self._annealed(kl_per_group, progress) + self._penalty() if self.training else kl
        logged = {"neg_log_likelihood": neg_log_likelihood, "kl": kl}
        logged |= {f"kl_group_{group}": value for group, value in enumerate(kl_per_group)}
        return {"loss": neg_log_likelihood + cost, **{name: value.detach() for name, value in logged.items()}}

    def _annealed(self, kl_per_group: Tensor, progress: float) -> Tensor:
        """(G, B) -> (B,)."""
        if progress >= self.anneal_share:
            return kl_per_group.sum(0)
        weights = (kl_per_group.detach().abs().mean(1) + 0.01) / self.group_shares
        weights = weights / weights.mean()
        return max(progress / self.anneal_share, 1e-4) * (weights[:, None] * kl_per_group).sum(0)

    def _penalty(self) -> Tensor:
        scales = [layer.weight.abs().amax() for layer in self.net.modules() if isinstance(layer, BatchNorm)]
        largest = torch.stack(scales).sum() if scales else 0.0
        return self.spectral_weight * (self.spectral_norms() + largest)


class SpectralNorms(nn.Module):
    """The sum of the spectral norms of all convolution weights in use, by power iteration.

    Weights of one shape are iterated together: 40 times when built, then 4 times a call, from where the last ended.

    Args:
        net: its convolutions at this time are covered.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        by_shape: dict[tuple[int, ...], list[nn.Conv2d]] = {}
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                by_shape.setdefault(tuple(layer.weight.flatten(1).shape), []).append(layer)
        self._stacks = list(by_shape.values())  # a plain list: the network's layers are not to be registered again
        for index, (rows, _) in enumerate(by_shape):
            weights = self._weights(self._stacks[index]).detach()
            u = torch.randn(len(weights), rows, 1, device=weights.device)
            # saved, so that a resumed run goes on exactly
            self.register_buffer(f"u_{index}", _iterate(weights, u, iterations=40)[0])

    def forward(self) -> Tensor:
        """The sum, a scalar with gradient."""
        total = torch.zeros((), device=self._buffers["u_0"].device)  # type: ignore[union-attr]
        for index, layers in enumerate(self._stacks):
            weights = self._weights(layers)
            with torch.autocast(weights.device.type, enabled=False):
                u, v = _iterate(weights.detach(), getattr(self, f"u_{index}"), iterations=4)
                total = total + (u * (weights @ v)).sum()
            setattr(self, f"u_{index}", u)
        return total

    @staticmethod
    def _weights(layers: list[nn.Conv2d]) -> Tensor:
        return torch.stack([_weight_in_use(layer).flatten(1).float() for layer in layers])


@torch.no_grad()
def _iterate(weights: Tensor, u: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    for _ in range(iterations):
        v = functional.normalize(weights.mT @ u, dim=1)
        u = functional.normalize(weights @ v, dim=1)
    return u, v


def _weight_in_use(layer: nn.Conv2d) -> Tensor:
    return layer.effective_weight() if isinstance(layer, WeightNormConv2d) else layer.weight
