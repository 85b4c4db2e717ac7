"""The three layers of a context module: embedding, intervention, concept inversion.

Source: 'Intervening to Learn and Compose Causally Disentangled Representations' (CLeaR 2026). The mask is data: each
layer computes masked products for the whole batch at once, whatever contexts it mixes. Inside, blocks come first,
(blocks, batch, width), so that all of a layer's blocks are one batched matrix product, linear in their number.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.nn.config import ContextModuleConfig
from context_module.nn.equations import iterated, solved
from context_module.nn.spatial import GridToMaps

__all__ = ["BlockLinear", "ConceptInversionLayer", "EmbeddingLayer", "InterventionLayer"]

_ITERATED = 24  # blocks up to which it is faster to pass effects on, step by step


class BlockLinear(nn.Module):
    """A linear map of its own for each block: (blocks, B, in_width) -> (blocks, B, out_width)."""

    def __init__(self, num_blocks: int, in_width: int, out_width: int) -> None:
        super().__init__()
        # variance-preserving before a GELU, so that the module starts at the scale of its noise
        self.weight = nn.Parameter(torch.randn(num_blocks, in_width, out_width) * math.sqrt(2 / in_width))
        self.bias = nn.Parameter(torch.zeros(num_blocks, 1, out_width))

    def forward(self, blocks: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, blocks, self.weight)

    def extra_repr(self) -> str:
        num_blocks, in_width, out_width = self.weight.shape
        return f"blocks={num_blocks}, in_width={in_width}, out_width={out_width}"


class EmbeddingLayer(nn.Module):
    """Noise to exogenous values, block by block: h_j = GELU(W_j z_j + b_j), then depth - 1 layers per block.

    An intervention on concept j swaps block j's first weight and bias for its interventional ones, which start as a
    copy of the observational ones; one of strength m goes from the one pre-activation to the other, and beyond. Blocks
    never mix (but for the dense observational weight with ``reference=True``, which any intervention cuts: it is
    multiplied by the product of 1 - m over the concepts, so that everything here is linear in each strength).
    """

    off_diagonal: Tensor

    def __init__(self, config: ContextModuleConfig) -> None:
        super().__init__()
        num_concepts, num_blocks, width = len(config.concepts), config.num_blocks, config.noise_width
        self.widths, self.free_blocks = config.widths, config.free_blocks
        self.observational = BlockLinear(num_blocks, width, width)
        self.interventional = BlockLinear(num_concepts, width, width)
        with torch.no_grad():
            self.interventional.weight.copy_(self.observational.weight[:num_concepts])
        # (in, out); its diagonal blocks are not used, `observational` holds those
        self.dense = nn.Parameter(torch.zeros(config.noise_size, config.noise_size)) if config.reference else None
        if config.reference:  # nothing else here grows with the square of the number of concepts
            self.register_buffer("off_diagonal", _off_diagonal(num_concepts, width), persistent=False)
        self.layers = nn.ModuleList(BlockLinear(num_blocks, a, b) for a, b in itertools.pairwise(config.widths))
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(num_blocks * width) if config.reference else nn.Identity() for width in config.widths[1:]
        )

    def forward(self, noise: Tensor, mask: Tensor) -> Tensor:
        """Noise (B, (K+F) w_z) and mask (B, K), bool or strengths, to exogenous values (K+F, B, w_c)."""
        num_concepts = mask.shape[1]
        blocks = noise.unflatten(1, (-1, self.widths[0])).transpose(0, 1)
        hidden = self.observational(blocks)
        if self.dense is not None:
            dense = noise @ (self.dense * self.off_diagonal)
            unintervened = (1 - mask.to(dense.dtype)).prod(dim=1, keepdim=True)
            dense = dense * unintervened.to(dense.dtype)  # autocast takes products in float32
            hidden = hidden + dense.unflatten(1, (-1, self.widths[0])).transpose(0, 1)
        # lerp with a weight of 0 or 1 is an exact selection, and twice as fast as where, forward and backward
        intervened = mask.t()[..., None].to(hidden.dtype)
        concepts = hidden[:num_concepts].lerp(self.interventional(blocks[:num_concepts]), intervened)
        hidden = F.gelu(torch.cat([concepts, hidden[num_concepts:]]) if self.free_blocks else concepts)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = F.gelu(self._normalise(layer(hidden), norm))
        return hidden

    @torch.no_grad()
    def quieten(self, share: float) -> None:
        """Scale the first weights of all concepts, of both mechanisms, and not those of the free blocks."""
        self.observational.weight[: len(self.interventional.weight)].mul_(share)
        self.interventional.weight.mul_(share)

    @staticmethod
    def _normalise(blocks: Tensor, norm: nn.Module) -> Tensor:
        if isinstance(norm, nn.Identity):
            return blocks
        return norm(blocks.transpose(0, 1).flatten(1)).unflatten(1, (len(blocks), -1)).transpose(0, 1)

    def extra_repr(self) -> str:
        return f"widths={'-'.join(map(str, self.widths))}, free_blocks={self.free_blocks}"


class InterventionLayer(nn.Module):
    """Exogenous values to concept values: a structural equation model over the concept blocks.

    With S the intervened set, A and B learned off-diagonal (w_c x w_c) blocks, and every concept in S cut off from its
    causes:

    - ``structural``: c = eps + b + (1 - m) * (A c), iterated K + F times from c = eps: exact for an acyclic A; of more
      than 24 blocks the equations are solved instead (`context_module.nn.equations`). All mechanisms but the
      intervened ones are shared by all contexts.
    - ``reduced`` (the paper): c_i = eps_i + b_i + [i not in S] (sum_{j not in S} A_ij eps_j + sum_{j in S} B_ij
      eps_j); with ``composition="published"`` the factor [i not in S] stands before the A term alone.

    Free blocks are nodes of it like concepts, but that nothing ever intervenes on them: what no concept explains (a
    colour, a shape) may be a cause or an effect of concepts. An intervention then cuts it off with all other causes,
    where without such edges the concept would have to undo what free blocks write, which does not compose.

    An intervention of strength m_j counts as j in S with weight m_j and as j not in S with weight 1 - m_j: with more
    than 1 it goes from the observational mechanism beyond the interventional one, on a straight line. With a
    ``graph``, blocks of A and B between concepts are zero outside it.
    """

    edge_mask: Tensor

    def __init__(self, config: ContextModuleConfig) -> None:
        super().__init__()
        self.concepts, self.free_blocks, self.concept_width = config.concepts, config.free_blocks, config.concept_width
        self.form, self.composition = config.form, config.composition
        size = config.num_blocks * config.concept_width
        spread = 0.1 / math.sqrt(max(1, size))  # small: the concepts start out nearly independent
        # A transposed: effects[j w_c + s, i w_c + t] is the effect of concept j's s-th value on concept i's t-th
        self.effects = nn.Parameter(torch.randn(size, size) * spread)
        self.interventional_effects = (
            nn.Parameter(torch.randn(size, size) * spread) if config.form == "reduced" else None
        )
        self.bias = nn.Parameter(torch.zeros(size))
        self.register_buffer("edge_mask", _edge_mask(config), persistent=False)

    @property
    def num_blocks(self) -> int:
        """K + F."""
        return len(self.concepts) + self.free_blocks

    def forward(self, exogenous: Tensor, mask: Tensor) -> Tensor:
        """Exogenous values (B, (K+F) w_c) and mask (B, K), bool or strengths, to values (B, (K+F) w_c)."""
        # nothing ever intervenes on a free block
        mask = F.pad(mask, (0, self.free_blocks)).to(exogenous.dtype)
        effects = self.effects * self.edge_mask
        if self.interventional_effects is None:
            values = iterated if self.num_blocks <= _ITERATED else solved
            return values(exogenous, self.bias, mask, effects)
        forced = mask.repeat_interleave(self.concept_width, dim=1)
        uncut, own = 1 - forced, exogenous + self.bias
        interventional = self.interventional_effects * self.edge_mask
        observed, forced = (exogenous * uncut) @ effects, exogenous * forced
        if self.composition == "do":
            return torch.addcmul(own, uncut, torch.addmm(observed, forced, interventional))
        return torch.addcmul(torch.addmm(own, forced, interventional), uncut, observed)

    def effects_of(self, block: int, *, intervened: bool = False) -> Tensor:
        """(w_c, (K+F) w_c), the effects of one block's values on those of all: A's, or B's where it is intervened on.

        In the structural form there is but A.
        """
        effects = (
            self.interventional_effects if intervened and self.interventional_effects is not None else self.effects
        )
        width = self.concept_width
        return (effects * self.edge_mask)[block * width : (block + 1) * width]

    def effect_norms(self) -> Tensor:
        """(K+F, K+F), how strong each learned edge is: entry [i, j] is the Frobenius norm of A_ij, block j's on i."""
        shape = (self.num_blocks, self.concept_width)
        blocks = (self.effects * self.edge_mask).unflatten(1, shape).unflatten(0, shape)
        return (blocks.square().sum((1, 3)) + 1e-12).sqrt().t()  # the root of zero has no gradient

    def fix_graph(self, config: ContextModuleConfig) -> None:
        """Leave out all edges between concepts but those of the configuration's graph, from now on."""
        self.edge_mask.copy_(_edge_mask(config))

    @torch.no_grad()
    def clamp_effects(self) -> None:
        """Clamp all effects to [0, 1], as the paper's training does after every step."""
        for effects in (self.effects, self.interventional_effects):
            if effects is not None:
                effects.clamp_(0, 1)

    def extra_repr(self) -> str:
        composition = f", composition={self.composition!r}" if self.form == "reduced" else ""
        widths = f"concepts={list(self.concepts)}, concept_width={self.concept_width}"
        return f"{widths}, form={self.form!r}{composition}"


class ConceptInversionLayer(nn.Module):
    """Concept values to the decoder input, e = W c + b: implicitly inverts a linear map from embeddings to concepts.

    With ``inversion_width`` a residual MLP follows, e + f(e): the linear map and its identifiability stay in front of
    it, and the base's latents may be as curved as they are. It starts as the identity.

    For a latent of D = C H W values, W and f have D ((K+F) w_c + 2 v) parameters with v = `inversion_width`, and as
    many multiplications per sample. With ``inversion="factorised"`` they end in a coarse grid of at most 16 x 8 x 8
    values instead, whatever D is, and a factorised linear map goes on from there
    (`context_module.nn.spatial.GridToMaps`): its parameters grow with C + H + W, but for a bias for each of the D
    values, and its multiplications, at most 128 for each of them, with D.
    """

    def __init__(self, config: ContextModuleConfig) -> None:
        super().__init__()
        self.latent_shape = config.latent_shape
        self.maps = GridToMaps(config.latent_shape) if config.inversion == "factorised" else None
        size = math.prod(config.latent_shape) if self.maps is None else self.maps.grid_size
        width = config.inversion_width
        self.linear = nn.Linear(config.num_blocks * config.concept_width, size)
        self.residual = None
        if width:
            last = nn.Linear(width, size)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.residual = nn.Sequential(nn.Linear(size, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), last)

    def forward(self, concepts: Tensor) -> Tensor:
        """Concept and free values (B, (K+F) w_c) to decoder inputs (B, *latent_shape)."""
        embedding = self.linear(concepts)
        if self.residual is not None:
            embedding = embedding + self.residual(embedding)
        return embedding.unflatten(1, self.latent_shape) if self.maps is None else self.maps(embedding)

    @torch.no_grad()
    def fit(self, mean: Tensor, spread: Tensor) -> None:
        """Start from the mean and standard deviation, (*latent_shape) or (D,) each, of what is to come out."""
        if self.maps is None:
            self.linear.weight.mul_(spread.flatten()[:, None])
            self.linear.bias.copy_(mean.flatten())
        else:
            self.maps.spread.copy_(spread.view_as(self.maps.spread))
            self.maps.mean.copy_(mean.view_as(self.maps.mean))

    def extra_repr(self) -> str:
        return f"latent_shape={tuple(self.latent_shape)}"


def _off_diagonal(num_blocks: int, width: int) -> Tensor:
    """(size, size) with zeros in the diagonal blocks and ones elsewhere."""
    return torch.kron(1 - torch.eye(num_blocks), torch.ones(width, width))


def _edge_mask(config: ContextModuleConfig) -> Tensor:
    """((K+F) w_c, (K+F) w_c), laid out as `effects`, causes in rows: ones in the blocks that may be learned."""
    concepts = len(config.concepts)
    allowed = 1 - torch.eye(config.num_blocks)
    if config.graph is not None:
        allowed[:concepts, :concepts] = 0
        for cause, effect in config.graph:
            allowed[config.concepts.index(cause), config.concepts.index(effect)] = 1
    return torch.kron(allowed, torch.ones(config.concept_width, config.concept_width))
