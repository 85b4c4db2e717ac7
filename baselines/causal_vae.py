"""CausalVAE (Yang et al., CVPR 2021): a linear structural layer in a VAE, its concepts held to labels.

    eps ~ q(eps|x),   z = (I - A^T)^-1 eps,   decoder input g_i(A_i o z) + what the noise adds

A concept is a block of dimensions; g_i are small networks of a concept's causes. The loss is

    rec + alpha KL(eps) + lambda (|z - labels|^2 / 2 + |u - sigmoid(A^T u)|^2) + |z - g(A o z)|^2 + 3 h + h^2 / 2

with h(A) = tr((I + A o A / M)^M) - M, which is 0 for an acyclic A. Where the authors' code differs from their paper we
take the paper's: reconstruction is summed over all pixels, the encoder's variance is used, labels u are in [0, 1].
Their attention, which adds the noise, is of their code alone; without it eps_i itself is added. do() cuts A: in their
code an intervention also writes its value into a variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from context_module.baselines.gaussian import bernoulli_error, kl_per_dimension, reparameterised
from context_module.baselines.labelled import GraphSettings, LabelledBaseline
from context_module.baselines.labels import mean_of_known, squared_error
from context_module.baselines.structural_prior import allowed_edges
from context_module.baselines.vae import check_at_least
from context_module.normal import draw_normal
from context_module.options import argument

__all__ = ["Attention", "CausalVAE", "CausalVAESettings", "ConceptNets", "acyclicity", "structural_layer"]

_HIDDEN = 32


def structural_layer(noise: Tensor, graph: Tensor) -> Tensor:
    """z = (I - A^T)^-1 eps of blocks (B, M, w); A (M, M) is [cause, effect]."""
    eye = torch.eye(len(graph), dtype=graph.dtype, device=graph.device)
    return torch.linalg.solve(eye - graph.T, noise)


def acyclicity(graph: Tensor) -> Tensor:
    """h(A), a scalar, 0 or more: 0 if and only if A has no cycle (Yu et al., ICML 2019)."""
    size = len(graph)
    eye = torch.eye(size, dtype=graph.dtype, device=graph.device)
    return torch.linalg.matrix_power(eye + graph * graph / size, size).trace() - size


class ConceptNets(nn.Module):
    """g_i: a network of each of M concepts, blocks (B, M, w) to blocks (B, M, w)."""

    def __init__(self, concepts: int, width: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(width, _HIDDEN), nn.ELU(), nn.Linear(_HIDDEN, width)) for _ in range(concepts)
        )

    def forward(self, blocks: Tensor) -> Tensor:
        return torch.stack([net(block) for net, block in zip(self.nets, blocks.unbind(1), strict=True)], dim=1)


class Attention(nn.Module):
    """What the noise adds to concepts in the authors' code: blocks z and eps (B, M, w) to blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / width)

    def forward(self, z: Tensor, noise: Tensor) -> Tensor:
        scores = (z @ self.weight @ noise.transpose(1, 2)).sigmoid()
        return scores.softmax(1) @ noise


@dataclass(kw_only=True)
class CausalVAESettings(GraphSettings):
    """The structural layer of CausalVAE."""

    latents: int = argument(16, help="dimensions of the code, the same number for each factor")
    label_weight: float = argument(1.0, help="weight of what holds z and A to the labels")
    alpha: float = argument(0.3, help="weight of the KL of the noise")
    attention: bool = argument(True, help="noise is added by the authors' attention; false: as it is")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, alpha=self.alpha)
        if self.factors and self.latents % len(self.factors):
            raise ValueError(f"latents must be a multiple of the {len(self.factors)} factors, got {self.latents}")
        if self.label_loss != "ce":
            raise ValueError(f"causal_vae has a label loss of its own: label_loss must stay ce, got {self.label_loss}")


class CausalVAE(LabelledBaseline):
    """A VAE whose concepts cause each other. Its codes are z."""

    name = "causal_vae"
    settings_class = CausalVAESettings
    settings: CausalVAESettings

    def __init__(self, settings: Any, image_shape: tuple[int, int, int], images: int) -> None:
        super().__init__(settings, image_shape, images)
        names = settings.factors
        self.effects = nn.Parameter(allowed_edges(names, settings.graph).float())
        self.nets = ConceptNets(len(names), self.width)
        self.attention = Attention(self.width) if settings.attention else None

    @property
    def width(self) -> int:
        return self.settings.latents // len(self.settings.factors)

    @property
    def graph(self) -> Tensor:
        """A (M, M), [cause, effect]."""
        return self.effects - torch.diag(self.effects.diagonal())

    def losses(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        x, labels, graph = batch["x"], batch["factors"], self.graph
        mean, log_var = self.encode(x)
        noise = self._blocks(reparameterised(mean, log_var))
        z = structural_layer(noise, graph)
        masked = self.nets(self._causes(z))
        error = bernoulli_error(self._decoded(masked + self._added(z, noise)), x)
        kl = kl_per_dimension(mean, log_var).sum(1)
        unit = self.scale.unit(labels).nan_to_num()
        standard = self.scale.standard(labels)[..., None].expand_as(z)
        of_label = 0.5 * squared_error(structural_layer(self._blocks(mean), graph), standard).sum(2)
        of_graph = mean_of_known(squared_error((unit @ graph).sigmoid(), unit), labels)
        held = (z - masked).square().sum((1, 2))
        h = acyclicity(graph)
        known = mean_of_known(of_label, labels) * labels.shape[1]
        told = self.label_strength(progress) * (known + of_graph * labels.shape[1])
        loss = error + self.settings.alpha * kl + told + held + 3 * h + 0.5 * h.square()
        return {"loss": loss, "error": error, "kl": kl, "labels": told.expand_as(loss), "cycles": h.expand_as(loss)}

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encode(x)
        noise = self._blocks(reparameterised(mean, log_var, generator))
        return structural_layer(noise, self.graph).flatten(1), kl_per_dimension(mean, log_var).sum(1)

    def centre(self, x: Tensor) -> Tensor:
        return structural_layer(self._blocks(self.encode(x)[0]), self.graph).flatten(1)

    def prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        noise = draw_normal(self.effects.new_empty(n, self.labelled), generator)
        return structural_layer(self._blocks(noise), self.graph).flatten(1)

    def decode(self, code: Tensor) -> Tensor:
        z = self._blocks(code)
        return self._decoded(self.nets(self._causes(z)) + self._added(z, self._noise(z)))

    def do(self, code: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        z, places = self._blocks(code), self._places(values)
        chosen = torch.zeros(z.shape[1], dtype=torch.bool, device=code.device)
        chosen[places] = True
        wanted = self._wanted(code, values)[..., None].expand_as(z)
        noise = self._noise(z)
        source = torch.where(chosen[:, None], wanted, noise)
        changed = structural_layer(source, self.graph.masked_fill(chosen, 0))
        given = self.nets(self._causes(changed)) + self._added(changed, noise)
        return self._decoded(torch.where(chosen[:, None], wanted, given)).sigmoid()

    def latents_of(self, labels: Tensor) -> Tensor:
        return self.scale.standard(labels)

    def _blocks(self, code: Tensor) -> Tensor:
        return code.unflatten(1, (-1, self.width))

    def _causes(self, z: Tensor) -> Tensor:
        """A_i o z, summed over the causes: A^T z."""
        return self.graph.T @ z

    def _noise(self, z: Tensor) -> Tensor:
        return z - self._causes(z)

    def _added(self, z: Tensor, noise: Tensor) -> Tensor:
        return noise if self.attention is None else self.attention(z, noise)

    def _decoded(self, blocks: Tensor) -> Tensor:
        return self.decoder(blocks.flatten(1)).float()
