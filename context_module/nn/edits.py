"""A context module whose interventions edit an observational decoder input: e + sum of what each concept changes.

Where `ContextModule` makes decoder inputs from the noise of every concept, this one starts from an observational
decoder input, drawn from noise or that of a given image, and moves it as little as an intervention asks for. In
closed form (`context_module.training.fit_maps`) an edit is the optimal-transport map between Gaussians; trained, it is
curved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from context_module.errors import ShapeError
from context_module.interventions import check_strengths
from context_module.nn.config import ContextModuleConfig, Edge
from context_module.nn.edit_composition import EditComposition
from context_module.nn.edit_maps import EditMaps
from context_module.nn.graph import CausalGraph
from context_module.normal import draw_normal

__all__ = ["MEMORY", "EditModule"]

MEMORY = 2048  # observational images kept, as coordinates
_SMOOTH = 0.2  # standard deviation of the noise around them, in their own; measured: as good as images encoded anew
_LEAST = 1e-6  # probability, beyond which float32 has no normal quantiles
_TOLD = 3.0  # standard deviations of noise that survive being a part of a rank
_STEPS = 8
_DAMPING, _LEAST_DAMPING = 1e-2, 1e-6  # of squared slopes, at first and at least
_ENOUGH = 2e-4  # of a row's length: encodings are no more exact
_NEAR = 0.05  # slopes are taken over so much of a standard deviation
_AT_ONCE = 64  # rows whose slopes are in memory


class EditModule(nn.Module):
    """Noise and an intervention mask to decoder inputs, by edits of observational ones.

    Works in coordinates c (B, r) of unit variance, the leading principal axes of decoder inputs as pictures show them:
    e = center + c @ synthesis. Noise z ~ N(0, I_r) becomes observational coordinates: that of one of the observational
    images it was fitted to, and a fifth of Gaussian noise (the smoothed bootstrap of Silverman 1986, section 6.4,
    which keeps mean and covariance). Under do(S) they become

        c + sum over k in S of s_k (change_k(c) - what of it follows from other concepts in S),

    with s_k the strength of the intervention. Where concept j is an ancestor of an intervened concept k, what j
    changes along k's own directions is taken out: k no longer follows its causes, and without this an effect would
    count twice. What j writes into the picture elsewhere stays. Of an ancestor that is undecided half of that is
    taken out: in squares, a quarter of what a wrong edge costs against three quarters of what a right one gains.

    Where pictures say so (`order`), one concept leads another instead: the other's change is that of where the first
    has come to, and nothing is taken out. So it is with light that falls on what has been changed before.

    Attributes:
        edits: the changes, a map per concept.
        memory: (M, r), coordinates of observational images. They can be decoded: a module fitted to images that are
            not to be shown should not be given away.
        readers, writers: (K, r, w_c) and (K, w_c, r): concept k's values are ``c @ readers[k]``, and to move them by v
            is to add ``v @ writers[k]``; w_c is the concept width.
        searches: whether the graph is to be found, not given.
        support: (K, K), how well the data support that concept j (column) acts on concept i (row); see `fit_maps`.
        order: (K, K), how much is to be said for concept j (column) to lead concept i (row); see `fit_maps`.
    """

    center: Tensor
    analysis: Tensor
    synthesis: Tensor
    visible: Tensor
    memory: Tensor
    mean: Tensor
    factor: Tensor
    readers: Tensor
    writers: Tensor
    support: Tensor
    undecided: Tensor
    order: Tensor
    range: Tensor
    log_scale: Tensor

    def __init__(self, config: ContextModuleConfig) -> None:
        super().__init__()
        self.config = config
        size, rank, concepts = math.prod(config.latent_shape), config.noise_size, len(config.concepts)
        values = min(config.concept_width, rank)
        self.edits = EditMaps(concepts, rank, config.inversion_width)
        for name, start in {
            "center": torch.zeros(size),
            "analysis": torch.eye(size, rank),
            "synthesis": torch.eye(rank, size),
            "visible": torch.ones(rank),
            "memory": torch.zeros(MEMORY, rank),
            "mean": torch.zeros(rank),
            "factor": torch.eye(rank),
            "readers": torch.zeros(concepts, rank, values),
            "writers": torch.zeros(concepts, values, rank),
            "support": torch.zeros(concepts, concepts),
            "undecided": torch.zeros(concepts, concepts),
            "order": torch.zeros(concepts, concepts),
            "range": torch.full((rank,), 4.0),
            "log_scale": torch.zeros(config.latent_shape),
        }.items():
            self.register_buffer(name, start)
        self.searches = config.graph is None
        self._compose()
        self.register_load_state_dict_post_hook(_loaded)

    @property
    def scale(self) -> Tensor:
        """Standard deviation of decoder inputs around what `forward` returns: (*latent_shape)."""
        return self.log_scale.exp()

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return self.center.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights; noise comes in it."""
        return self.center.dtype

    def forward(self, noise: Tensor, mask: Tensor, fixed: Mapping[str, Tensor] | None = None) -> Tensor:
        """Decoder inputs (B, *latent_shape), normalised: their means.

        Args:
            noise: (B, r), float.
            mask: (B, K), bool, true where a concept is intervened on; or float, the strengths, in [-2, 3].
            fixed: concept values (B, w_c) by name, to set concepts to instead: do(C_j = c).

        Raises:
            ShapeError: if noise or mask has another shape, or the mask another dtype.
            ConceptError: for a strength out of range.
        """
        self._check(noise, mask)
        return self.place(self.changed(self.observed(noise), mask, fixed))

    def coordinates(self, latent: Tensor) -> Tensor:
        """The coordinates (B, r) of decoder inputs (B, *latent_shape)."""
        return (latent.flatten(1).to(self.dtype) - self.center) @ self.analysis

    def place(self, coordinates: Tensor) -> Tensor:
        """The decoder inputs (B, *latent_shape) at coordinates (B, r)."""
        return torch.addmm(self.center, coordinates, self.synthesis).unflatten(1, self.config.latent_shape)

    def observed(self, noise: Tensor) -> Tensor:
        """Observational coordinates (B, r) of noise (B, r).

        The last number of the noise says which image: as a rank among all, what is left of it being noise again.
        """
        rank = torch.special.ndtr(noise[:, -1].float()) * len(self.memory)  # half precision has too few ranks
        chosen = rank.long().clamp(0, len(self.memory) - 1)
        rest = torch.special.ndtri((rank - chosen).clamp(_LEAST, 1 - _LEAST))
        noise = torch.cat([noise[:, :-1], rest[:, None].to(noise.dtype)], dim=1)
        return torch.addmm(self._shrunk(self.memory[chosen]), noise, _SMOOTH * self.factor)

    def noise_of(self, coordinates: Tensor) -> Tensor:
        """The noise (B, r) behind observational coordinates (B, r): of the image of the memory that is closest.

        Of those alone, if there are any, that are so close in the last coordinate that float32 tells it again.
        """
        white = self.whitened(coordinates)
        memory = self.whitened(self._shrunk(self.memory))
        far = (white[:, -1:] - memory[:, -1]).abs() > _TOLD * _SMOOTH
        chosen = torch.where(far, 1e6, 0.0).add(torch.cdist(white, memory)).argmin(1)
        noise = (white - memory[chosen]) / _SMOOTH
        rank = chosen + torch.special.ndtr(noise[:, -1])
        last = torch.special.ndtri((rank / len(self.memory)).clamp(_LEAST, 1 - _LEAST))
        return torch.cat([noise[:, :-1], last[:, None]], dim=1)

    def noise_deviation(self, variance: Tensor) -> Tensor:
        """Deviations (B, r), at most 1, of the noise behind decoder inputs of a variance (B, *latent_shape)."""
        spread = (variance.flatten(1).to(self.dtype) @ self.analysis.square()).clamp_min(1e-6).sqrt()
        deviation = (spread / (_SMOOTH * self.factor.square().sum(0).sqrt())).clamp(max=1.0)
        return torch.cat([deviation[:, :-1], deviation[:, -1:] / len(self.memory)], dim=1)

    def _shrunk(self, memory: Tensor) -> Tensor:
        return self.mean + math.sqrt(1 - _SMOOTH**2) * (memory - self.mean)

    def whitened(self, coordinates: Tensor) -> Tensor:
        """Coordinates (B, r) in which observational ones have unit variance and no correlation."""
        return torch.linalg.solve(self.factor.float(), (coordinates - self.mean).float(), left=False).to(self.dtype)

    def edited(self, linear: Tensor, shift: Tensor) -> MultivariateNormal:
        """The Gaussian with the moments of flat decoder inputs (D,) that an edit c -> c + c @ linear + shift makes.

        Those of observational ones go through the edit, and `scale` is the deviation around what it makes.

        Args:
            linear, shift: (r, r) and (r,).
        """
        edit = torch.eye(len(shift), device=self.device) + linear
        spread = self.factor @ edit @ self.synthesis
        covariance = spread.mT @ spread + self.scale.flatten().square().diag()
        return MultivariateNormal(self.place((self.mean @ edit + shift)[None]).flatten(), covariance)

    @torch.no_grad()
    def unchanged(self, coordinates: Tensor, mask: Tensor) -> Tensor:
        """The observational coordinates (B, r) that interventions made into these, as near as they can be found."""
        found = coordinates.to(self.dtype, copy=True)
        with torch.autocast(found.device.type, enabled=False):  # of slopes half precision leaves nothing
            for context in mask.unique(dim=0):
                if context.any():
                    rows = (mask == context).all(1)
                    found[rows] = torch.cat([self._before(part, context) for part in found[rows].split(_AT_ONCE)])
        return found.clamp(-self.range, self.range)

    def _before(self, coordinates: Tensor, context: Tensor) -> Tensor:
        """The same of rows of one context: Levenberg-Marquardt steps from that image of the memory that comes nearest.

        Damping keeps what an intervention leaves nothing of as it is in that image.
        """
        each = torch.eye(coordinates.shape[1], device=coordinates.device, dtype=coordinates.dtype)

        def made(before: Tensor) -> Tensor:
            flat = before.reshape(-1, before.shape[-1])
            return self.changed(flat, context.expand(len(flat), -1)).view_as(before)

        found = self.memory[torch.cdist(coordinates.float(), made(self.memory).float()).argmin(1)]
        missing, enough = coordinates - made(found), _ENOUGH * coordinates.norm(dim=1, keepdim=True)
        damping = coordinates.new_full((len(found), 1, 1), _DAMPING)
        for _ in range(_STEPS):
            slopes = (made(found[:, None] + _NEAR * each) - made(found)[:, None]) / _NEAR  # (B, r, r), causes in rows
            normal = slopes @ slopes.mT + damping * each
            step = torch.linalg.solve(normal.float(), (slopes @ missing[..., None]).float())[..., 0]
            nearer = found + step.to(found)
            still = coordinates - made(nearer)
            error = missing.norm(dim=1, keepdim=True)
            better = (still.norm(dim=1, keepdim=True) < error) & (error > enough)
            found, missing = torch.where(better, nearer, found), torch.where(better, still, missing)
            damping = torch.where(better[..., None], (damping / 4).clamp_min(_LEAST_DAMPING), damping * 8)
        return found

    def changed(self, coordinates: Tensor, mask: Tensor, fixed: Mapping[str, Tensor] | None = None) -> Tensor:
        """Observational coordinates (B, r) under interventions."""
        strengths, result = mask.to(coordinates.dtype), coordinates
        # what is far beyond all that was seen no decoder was trained on
        limit = torch.maximum(self.range, coordinates.abs())
        rows, concepts = mask.nonzero(as_tuple=True)
        if len(rows):
            if len(rows) == len(rows.unique()):  # each is alone in its row
                change = self.edits(coordinates[rows], concepts)
            else:
                change = self._composition.changes(self.edits, coordinates, limit, strengths, rows, concepts)
                change = self._composition.cut(change, strengths, rows, concepts, self.readers, self.writers)
            change = strengths[rows, concepts, None] * change
            result = result.index_add(0, rows, change.to(result.dtype))
        result = torch.maximum(torch.minimum(result, limit), -limit)
        for name, value in (fixed or {}).items():
            k = self.config.concepts.index(name)
            result = result + (value.to(result) - result @ self.readers[k]) @ self.writers[k]
        return result

    def concepts(self, noise: Tensor, mask: Tensor, fixed: Mapping[str, Tensor] | None = None) -> Tensor:
        """Concept values (B, K, w_c); arguments as for `forward`."""
        self._check(noise, mask)
        return self.values(self.changed(self.observed(noise), mask, fixed))

    def values(self, coordinates: Tensor) -> Tensor:
        """Concept values (B, K, w_c) at coordinates (B, r)."""
        return torch.einsum("br,krw->bkw", coordinates, self.readers)

    def fix_graph(self, edges: Iterable[Edge]) -> None:
        """The edges among concepts from now on, none of them undecided; ConceptError as `ContextModuleConfig` says."""
        self.config = replace(self.config, graph=tuple(edges))
        self.undecided.zero_()
        self._compose()

    def find_graph(self, support: Tensor, undecided: Tensor) -> None:
        """Take the edges among concepts from what the data support, as `context_module.training.fit_maps` finds it.

        Args:
            support, undecided: (K, K), effects in rows and causes in columns, zero where there is no edge.
        """
        self.fix_graph(CausalGraph(self.config.concepts, support.cpu(), ()).acyclic_edges())
        self.support.copy_(support)
        self.undecided.copy_(undecided)
        self._compose()

    def find_order(self, order: Tensor) -> None:
        """Take which concept leads which from what pictures say, as `context_module.training.fit_maps` finds it.

        Of a circle what least is to be said for is left out.

        Args:
            order: (K, K), those that are led in rows and those that lead in columns.
        """
        self.order.copy_(order)
        self._compose()

    @property
    def leads(self) -> tuple[Edge, ...]:
        """Pairs of concepts of which, intervened on together, the first leads the second."""
        names, leaders = self.config.concepts, self._composition.leaders
        return tuple((names[j], names[k]) for k in sorted(leaders) for j in sorted(leaders[k]))

    def graph(self) -> CausalGraph:
        """The edges that the data support, with how well; or those that were given, which count as certain.

        ``undecided`` ones are listed apart and take no part.
        """
        names, strengths = self.config.concepts, self.support.cpu().clone()
        if self.config.graph is not None:
            given = torch.zeros_like(strengths)
            for cause, effect in self.config.graph:
                found = strengths[names.index(effect), names.index(cause)]
                given[names.index(effect), names.index(cause)] = found if found > 0 else 1.0
            strengths = given
        open_ = self.undecided.cpu()
        undecided = tuple((names[j], names[k]) for k, j in open_.nonzero().tolist())
        return CausalGraph(names, strengths, undecided)

    def sample_noise(self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """n draws from N(0, temperature^2 I), (n, r), on the module's device (drawn on the generator's)."""
        like = torch.empty(n, self.config.noise_size, device=self.device)
        return draw_normal(like, generator).to(self.dtype) * temperature

    def _compose(self) -> None:
        """Take how changes go together from the graph, what is undecided, and the order."""
        names, graph = self.config.concepts, self.config.graph or ()
        self._composition = EditComposition.of(names, graph, self.undecided.cpu(), self.order.cpu())

    def _check(self, noise: Tensor, mask: Tensor) -> None:
        config = self.config
        if noise.ndim != 2 or noise.shape[1] != config.noise_size:
            raise ShapeError(f"noise must have shape (batch, {config.noise_size}), got {tuple(noise.shape)}")
        strengths = mask.is_floating_point()
        if not (strengths or mask.dtype == torch.bool) or tuple(mask.shape) != (len(noise), len(config.concepts)):
            raise ShapeError(
                f"the intervention mask (or strengths, as floats) must be torch.bool of shape ({len(noise)}, "
                f"{len(config.concepts)}), got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        if strengths:
            check_strengths(mask, config.concepts)

    def extra_repr(self) -> str:
        return f"concepts={list(self.config.concepts)}, coordinates={self.config.noise_size}"


def _loaded(module: EditModule, _: object) -> None:
    """What is undecided, and what leads, comes with the weights."""
    module._compose()
