"""The shapes of what goes into the layers and comes out of them, checked in every test by jaxtyping and beartype.

They stand here and not in the code, which would need both packages to be imported. Each function is handed what a
forward pass of a layer was given and what it returned; dimensions of one name are of one size.
"""

from contextlib import contextmanager

import torch
from beartype import beartype
from jaxtyping import Float, Shaped, jaxtyped
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from context_module import ContextModule
from context_module.nn import ConceptInversionLayer, ConceptPack, EmbeddingLayer, InterventionLayer, PosteriorHeads
from context_module.training.objectives import Critic

checked = jaxtyped(typechecker=beartype)


@checked
def module(
    m: ContextModule,
    noise: Float[Tensor, "b {m.config.noise_size}"],
    mask: Shaped[Tensor, "b {len(m.config.concepts)}"],
    latent: Float[Tensor, "b *latent"],
) -> None:
    assert tuple(latent.shape[1:]) == m.config.latent_shape


@checked
def embedding(
    m: EmbeddingLayer,
    noise: Float[Tensor, "b noise"],
    mask: Shaped[Tensor, "b k"],
    exogenous: Float[Tensor, "{noise.shape[1]//m.widths[0]} b {m.widths[-1]}"],
) -> None: ...


@checked
def intervention(
    m: InterventionLayer,
    exogenous: Float[Tensor, "b {m.num_blocks*m.concept_width}"],
    mask: Shaped[Tensor, "b {len(m.concepts)}"],
    concepts: Float[Tensor, "b {m.num_blocks*m.concept_width}"],
) -> None: ...


@checked
def inversion(
    m: ConceptInversionLayer, concepts: Float[Tensor, "b {m.linear.in_features}"], latent: Float[Tensor, "b *latent"]
) -> None:
    assert tuple(latent.shape[1:]) == tuple(m.latent_shape)


@checked
def posterior(
    m: PosteriorHeads,
    features: Float[Tensor, "b d"],
    mask: Shaped[Tensor, "b k"],
    normal: torch.distributions.Normal,
) -> None:
    moments(m, features, normal.mean, normal.stddev)


@checked
def moments(
    m: PosteriorHeads,
    features: Float[Tensor, "b d"],
    mean: Float[Tensor, "b {m.mean.out_features}"],
    deviation: Float[Tensor, "b {m.mean.out_features}"],
) -> None: ...


@checked
def critic(
    m: Critic, seen: Float[Tensor, "b p"], mask: Shaped[Tensor, "b k"], logits: Float[Tensor, " b"]
) -> None: ...


@checked
def pack(
    m: ConceptPack,
    latent: Float[Tensor, "b *latent"],
    noise: Float[Tensor, "b {m.config.noise_width}"],
    change: Float[Tensor, "b *latent"],
) -> None: ...


CHECKS = {
    ContextModule: module,
    EmbeddingLayer: embedding,
    InterventionLayer: intervention,
    ConceptInversionLayer: inversion,
    PosteriorHeads: posterior,
    Critic: critic,
    ConceptPack: pack,
}
_GIVEN = {ConceptInversionLayer: 1}  # how many arguments count; two of the others


@contextmanager
def shapes_checked():
    """Every forward pass of these layers for a block of code."""

    def hook(layer, args, returned):
        kind = type(layer)
        if kind in CHECKS and not torch.compiler.is_compiling():
            CHECKS[kind](layer, *args[: _GIVEN.get(kind, 2)], returned)

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
