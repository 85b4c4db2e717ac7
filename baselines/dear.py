"""DEAR (Shen et al., JMLR 23(241), 2022): a generator whose prior has a causal graph, and an encoder, with labels.

    min over E, G, F of  KL(q_E(x, z) || p_G,F(x, z)) + lambda L(mean of E, labels)

F is the `StructuralPrior` of the factors; further dimensions are standard normal. A critic D of pairs, the mean of a
score of the image, one of the code and one of both, is trained to be log q / p:

    D: softplus(-D(x, E(x))) + softplus(D(G(z), z))      E: D(x, E(x)) + lambda L      G, F: -s D(G(z), z)

with s = exp(D) without gradient, clamped to [0.5, 2]. All players step at once, each by the gradient of its own loss
alone, where public code lets the critic step first. Images are in [0, 1], through a sigmoid. There is no likelihood,
and no loss of validation images says which weights are best: the last are kept.

Where G is given a likelihood the same KL needs no critic: the prior has a density, and it is the negative ELBO but for
a constant. That trains in the time of a VAE, and differs from `supervised_vae` by its prior alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from context_module.baselines.gaussian import bernoulli_error, log_normal, reparameterised
from context_module.baselines.labelled import GraphSettings, LabelledBaseline
from context_module.baselines.sagan import image_critic
from context_module.baselines.structural_prior import StructuralPrior, allowed_edges
from context_module.baselines.vae import check_at_least
from context_module.normal import draw_normal
from context_module.objective import ParameterGroup
from context_module.options import argument

__all__ = ["DEAR", "DEARSettings", "critic_loss", "generator_loss"]

_SCALES = (0.5, 2.0)
_FEATURES = 512
_CORRELATED = 0.2  # of noise that the prior takes to be independent, in absolute value


def critic_loss(of_encoded: Tensor, of_generated: Tensor) -> Tensor:
    """Of the scores (B,) of pairs (x, E(x)) and (G(z), z): a scalar; its optimum is their log-density ratio."""
    return F.softplus(-of_encoded).mean() + F.softplus(of_generated).mean()


def generator_loss(of_generated: Tensor) -> Tensor:
    """-s D(G(z), z), each (B,): the gradient of KL(q || p), with the ratio s clamped."""
    return -of_generated.detach().exp().clamp(*_SCALES) * of_generated


@dataclass(kw_only=True)
class DEARSettings(GraphSettings):
    """The prior of DEAR, and its players."""

    prior: Literal["linear", "nonlinear"] = argument("linear", help="the map behind the structural equations")
    match: Literal["critic", "likelihood"] = argument(
        "critic", help="how the two joint distributions are: by a critic (published), or as a VAE, by a likelihood"
    )
    critic_lr: float = argument(2.0, help="the critic's learning rate, in units of the others'")
    graph_lr: float = argument(20.0, help="that of the effects along the graph")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, critic_lr=self.critic_lr, graph_lr=self.graph_lr)


class _Critic(nn.Module):
    """Scores (B,) of pairs of an image and a code."""

    def __init__(self, architecture: str, image_shape: tuple[int, int, int], latents: int) -> None:
        super().__init__()
        channels = image_shape[0]
        of_sagan = architecture == "resnet_sagan64"
        self.image = image_critic(channels, _FEATURES) if of_sagan else _convolutions(image_shape)
        self.code = _layers(latents, _FEATURES, _FEATURES)
        self.both = _layers(2 * _FEATURES, _FEATURES, 1)
        self.of_image, self.of_code = (spectral_norm(nn.Linear(_FEATURES, 1)) for _ in range(2))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        image, code = F.leaky_relu(self.image(x), 0.2), F.leaky_relu(self.code(z), 0.2)
        scores = self.of_image(image) + self.of_code(code) + self.both(torch.cat([image, code], dim=1))
        return scores[:, 0].float() / 3


def _layers(inputs: int, width: int, outputs: int) -> nn.Sequential:
    sizes = (inputs, width, width)
    hidden = [layer for a, b in pairwise(sizes) for layer in (_linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*hidden, _linear(width, outputs))


def _linear(inputs: int, outputs: int) -> nn.Module:
    return spectral_norm(nn.Linear(inputs, outputs))


def _convolutions(image_shape: tuple[int, int, int]) -> nn.Sequential:
    """As the conv64 encoder, normalised, for images of any size."""
    channels, height, width = image_shape
    layers: list[nn.Module] = []
    for wide in (32, 32, 64, 64):
        layers += [spectral_norm(nn.Conv2d(channels, wide, 4, 2, 1)), nn.LeakyReLU(0.2)]
        channels, height, width = wide, height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), _linear(channels * height * width, _FEATURES))


class DEAR(LabelledBaseline):
    """A generator with a structural prior and an encoder, matched to each other by a critic."""

    name = "dear"
    settings_class = DEARSettings
    settings: DEARSettings

    def __init__(self, settings: Any, image_shape: tuple[int, int, int], images: int) -> None:
        super().__init__(settings, image_shape, images)
        allowed = allowed_edges(settings.factors, settings.graph)
        self.structure = StructuralPrior(allowed, settings.prior == "nonlinear")
        self.critic: _Critic | None = None
        if settings.match == "critic":
            self.critic = _Critic(settings.architecture, image_shape, settings.latents)
        self.comparable = self.critic is None

    def losses(self, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        x = batch["x"]
        mean, log_var = self.encode(x)
        code = reparameterised(mean, log_var)
        labels = self.label_error(mean, batch["factors"], progress)
        if self.critic is None:
            error, kl = bernoulli_error(self.decode(code), x), self._kl(code, log_var)
            return {"loss": error + kl + labels, "error": error, "kl": kl, "labels": labels.expand_as(error)}
        z = self.prior(len(x))
        generated = self.decode(z).sigmoid()
        # one backward pass: the others see the critic's weights as constants, the critic sees their pairs as such
        weights = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        of_encoded = torch.func.functional_call(self.critic, weights, (x, code))
        of_generated = torch.func.functional_call(self.critic, weights, (generated, z))
        told = critic_loss(self.critic(x, code.detach()), self.critic(generated.detach(), z.detach()))
        loss = of_encoded + generator_loss(of_generated) + told + labels
        return {"loss": loss, "critic": told.expand_as(loss), "labels": labels.expand_as(loss), "ratio": of_encoded}

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Codes from the posterior, and an estimate from them of its KL to the prior (B,)."""
        mean, log_var = self.encode(x)
        code = reparameterised(mean, log_var, generator)
        return code, self._kl(code, log_var)

    def _kl(self, code: Tensor, log_var: Tensor) -> Tensor:
        """log q(z|x) in the mean, less log p(z) of draws."""
        negentropy = -0.5 * (log_var + math.log(2 * math.pi) + 1).sum(1)
        rest = code[:, self.labelled :]
        log_prior = log_normal(rest, torch.zeros_like(rest), torch.zeros_like(rest)).sum(1)
        return negentropy - log_prior - self.structure.log_density(code[:, : self.labelled])

    def prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        factors = self.structure.sample(n, generator)
        rest = factors.new_empty(n, self.settings.latents - self.labelled)
        return torch.cat([factors, draw_normal(rest, generator)], dim=1)

    def intervene(self, code: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Codes with factors set and what follows from them, the noise of the other factors kept."""
        chosen = torch.zeros(self.labelled, dtype=torch.bool, device=code.device)
        chosen[self._places(values)] = True
        changed = self.structure.do(code[:, : self.labelled], self._wanted(code, values), chosen)
        return torch.cat([changed, code[:, self.labelled :]], dim=1)

    def parameter_groups(self) -> list[ParameterGroup]:
        settings, effects = self.settings, self.structure.effects
        critic = [] if self.critic is None else list(self.critic.parameters())
        apart = {effects, *critic}
        others = [one for one in self.parameters() if one not in apart]
        graph = ParameterGroup([effects], lr_scale=settings.graph_lr)
        if not critic:
            return [ParameterGroup(others), graph]
        betas = (0.0, 0.999)
        return [ParameterGroup(others, betas=betas), ParameterGroup(critic, settings.critic_lr, betas), graph]

    @torch.no_grad()
    def notes(self, images: Tensor) -> list[str]:
        """Pairs of factors whose noise is not independent on images, where no edge of the graph may explain it."""
        codes = torch.cat([self.centre(part) for part in images.split(250)])
        noise = self.structure.noise(codes[:, : self.labelled])
        correlations, allowed, found = torch.corrcoef(noise.T), self.structure.allowed, []
        for i, one in enumerate(self.scale.names):
            for j, other in enumerate(self.scale.names[:i]):
                if correlations[i, j].abs() > _CORRELATED and not (allowed[i, j] or allowed[j, i]):
                    found.append(
                        f"{other} and {one} go together ({correlations[i, j]:+.2f} is left of their noise) without an "
                        "edge between them: the graph may miss one, or a common cause"
                    )
        return found
