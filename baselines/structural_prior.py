"""A prior in which factors cause each other: a structural equation model behind a monotone map of each factor.

    z = f(eps (I - A)^-1),   eps ~ N(0, I)

Rows are vectors; A[i, j] is the effect of factor i on factor j, learned on the edges that are allowed and 0 elsewhere;
f acts on each factor by itself, linearly, or as a monotone piecewise-linear function (Shen et al., "Weakly Supervised
Disentangled Generative Causal Representation Learning", JMLR 23(241), 2022). Public code cuts the gradient of the
heights of that function with respect to its slopes; here it is the true one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter

import torch
from torch import Tensor, nn

from context_module.errors import ConceptError
from context_module.normal import draw_normal

__all__ = ["LinearMap", "PiecewiseLinearMap", "StructuralPrior", "allowed_edges"]

_LEAST_SLOPE = 1e-3


def allowed_edges(names: Sequence[str], edges: Iterable[str]) -> Tensor:
    """Which entries of A may be other than 0: bool (M, M), [cause, effect].

    Args:
        names: of the factors.
        edges: words ``cause:effect``; the word ``full`` stands for every edge from a factor to a later one.

    Raises:
        ConceptError: for a word that is no edge, an unknown factor, or a cycle; names it.
    """
    allowed = torch.zeros(len(names), len(names), dtype=torch.bool)
    for word in edges:
        if word == "full":
            allowed |= torch.ones_like(allowed).triu(1)
            continue
        cause, separator, effect = word.partition(":")
        if not separator:
            raise ConceptError(f"{word!r} is no edge: expected cause:effect, such as light:length, or full")
        for name in (cause, effect):
            if name not in names:
                raise ConceptError(
                    f"the edge {word!r} names {name!r}, which is no factor; factors: {', '.join(names)}"
                )
        allowed[names.index(cause), names.index(effect)] = True
    try:
        TopologicalSorter({j: column.nonzero().flatten().tolist() for j, column in enumerate(allowed.T)}).prepare()
    except CycleError as error:
        cycle = " -> ".join(names[place] for place in reversed(error.args[1]))
        raise ConceptError(f"the graph of the prior has a cycle, {cycle}: leave one of its edges out") from None
    return allowed


class LinearMap(nn.Module):
    """f(u) = a u + b of every factor, (B, M) to (B, M)."""

    def __init__(self, factors: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.rand(factors) + 0.5)  # away from 0, which has no inverse
        self.shift = nn.Parameter(torch.zeros(factors))

    def forward(self, u: Tensor) -> Tensor:
        return self.slope * u + self.shift

    def inverse(self, z: Tensor) -> Tensor:
        return (z - self.shift) / self.slope

    def log_slopes_at(self, u: Tensor) -> Tensor:
        """log |f'(u)| (B, M)."""
        return self.slope.abs().log().expand_as(u)


class PiecewiseLinearMap(nn.Module):
    """f increasing, of every factor one, (B, M) to (B, M): linear between knots, and beyond the outer ones.

    Args:
        factors: M.
        knots: how many, evenly spaced.
        span: from -span to span.
    """

    knots: Tensor

    def __init__(self, factors: int, knots: int = 100, span: float = 5.0) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-span, span, knots))
        self.log_slopes = nn.Parameter(torch.randn(factors, knots + 1) / 5)  # the first and the last of the tails
        self.height = nn.Parameter(torch.full((factors,), -span))  # at the first knot

    def forward(self, u: Tensor) -> Tensor:
        slopes, heights = self._lines()
        piece = torch.bucketize(u.detach().T.contiguous(), self.knots)
        knot = (piece - 1).clamp(min=0)
        return (heights.gather(1, knot) + slopes.gather(1, piece) * (u.T - self.knots[knot])).T

    def inverse(self, z: Tensor) -> Tensor:
        slopes, heights = self._lines()
        piece = torch.searchsorted(heights.detach(), z.detach().T.contiguous())
        knot = (piece - 1).clamp(min=0)
        return (self.knots[knot] + (z.T - heights.gather(1, knot)) / slopes.gather(1, piece)).T

    def log_slopes_at(self, u: Tensor) -> Tensor:
        """log f'(u) (B, M)."""
        piece = torch.bucketize(u.detach().T.contiguous(), self.knots)
        return self._lines()[0].gather(1, piece).log().T

    def _lines(self) -> tuple[Tensor, Tensor]:
        """Slopes (M, knots + 1) of the pieces and heights (M, knots) of the knots."""
        slopes = self.log_slopes.exp() + _LEAST_SLOPE
        rises = slopes[:, 1:-1] * ((self.knots[-1] - self.knots[0]) / (len(self.knots) - 1))
        start = torch.zeros_like(self.height)[:, None]
        return slopes, self.height[:, None] + torch.cat([start, rises.cumsum(1)], dim=1)


class StructuralPrior(nn.Module):
    """The distribution of M factors that cause each other.

    Args:
        allowed: bool (M, M), [cause, effect], without a cycle.
        nonlinear: f is piecewise linear.
    """

    allowed: Tensor

    def __init__(self, allowed: Tensor, nonlinear: bool = False) -> None:
        super().__init__()
        self.register_buffer("allowed", allowed)
        self.effects = nn.Parameter(torch.zeros(allowed.shape))
        self.map = PiecewiseLinearMap(len(allowed)) if nonlinear else LinearMap(len(allowed))

    @property
    def graph(self) -> Tensor:
        """A (M, M)."""
        return self.effects * self.allowed

    def forward(self, noise: Tensor) -> Tensor:
        """Factors (B, M) of noise (B, M)."""
        return self.map(_solved(noise, self.graph))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws, (n, M)."""
        return self(draw_normal(self.effects[:1].expand(n, -1), generator))

    def noise(self, z: Tensor) -> Tensor:
        """What factors (B, M) were made of: f^-1(z) (I - A)."""
        u = self.map.inverse(z)
        return u - u @ self.graph

    def log_density(self, z: Tensor) -> Tensor:
        """log p(z) of factors (B, M), in nats (B,); I - A has determinant 1."""
        u = self.map.inverse(z)
        noise = u - u @ self.graph
        normal = -0.5 * (noise.square() + math.log(2 * math.pi))
        return (normal - self.map.log_slopes_at(u)).sum(1)

    def do(self, z: Tensor, values: Tensor, chosen: Tensor) -> Tensor:
        """Factors (B, M) with the chosen ones set, and what follows from them: the noise of all others is kept.

        It is exact for any number of factors and length of paths, where one pass over the graph, as in public code, is
        not: the columns of the chosen ones are cut out of A.

        Args:
            z: factors as they were.
            values: (B, M), read where `chosen`.
            chosen: bool (M,).
        """
        source = torch.where(chosen, self.map.inverse(values), self.noise(z))
        return torch.where(chosen, values, self.map(_solved(source, self.graph.masked_fill(chosen, 0))))


def _solved(source: Tensor, graph: Tensor) -> Tensor:
    """source (I - A)^-1 of rows, in float32 whatever the autocast."""
    eye = torch.eye(len(graph), dtype=graph.dtype, device=graph.device)
    return torch.linalg.solve(eye - graph, source, left=False)
