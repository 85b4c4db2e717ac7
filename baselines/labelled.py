"""What methods that learn from labels are: the first dimensions of their codes are held to labels of factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from context_module.baselines.labels import (
    LabelEmbedding,
    LabelScale,
    annealed,
    covariance_penalty,
    cross_entropy,
    mean_of_known,
    squared_error,
)
from context_module.baselines.vae import Baseline, BaselineSettings, check_at_least
from context_module.data import ContextData, ContextDataset, FactorView
from context_module.errors import ConceptError, DataError
from context_module.normal import draw_uniform
from context_module.options import argument

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = ["GraphSettings", "LabelledBaseline", "LabelledSettings"]

_MOST_VALUES = 20  # of a factor whose values are told apart one by one
_EDGE = 0.01  # of the range of labels, at either end: a logit further out is hardly ever seen


@dataclass(kw_only=True)
class LabelledSettings(BaselineSettings):
    """Which labels a method learns from, and how."""

    factors: list[str] = argument([], help="labelled factors, that the first dimensions stand for; default: concepts")
    labels: float = argument(1.0, help="share of the images whose labels are used, in (0, 1]")
    label_loss: Literal["ce", "l2", "covariance", "embedding"] = argument(
        "ce", help="ce: means are logits of labels scaled to [0, 1]; l2: they are standardised labels"
    )
    label_weight: float = argument(5.0, help="weight of that loss, a mean over labels")
    label_schedule: Literal["fixed", "anneal", "fine_tune"] = argument(
        "fixed", help="anneal: the weight rises over label_share of the training; fine_tune: it is none before"
    )
    label_share: float = argument(0.5, help="share of the training, see label_schedule")
    label_values: list[int] = argument([], help="of embedding: how many values each factor has; default: the data's")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, label_weight=self.label_weight)
        if not 0 < self.labels <= 1:
            raise ValueError(
                f"labels must be a share in (0, 1], got {self.labels:g}: without any label take a method that learns "
                "from images alone, such as tc_vae"
            )
        if not 0 < self.label_share <= 1:
            raise ValueError(f"label_share must be in (0, 1], got {self.label_share:g}")

    def completed(self, data: ContextData) -> Self:
        """These settings with factors and values as the data has them.

        Raises:
            DataError: for data without factors, or others than are asked for.
        """
        known = data.train.factor_names
        if not known:
            raise DataError("this method learns from labels, and the data has no factors: give data that has some")
        factors = self.factors or list(data.concepts)
        if unknown := [name for name in factors if name not in known]:
            raise DataError(f"the data has no labels of {unknown[0]!r}; it has those of {', '.join(known)}")
        found = replace(super().completed(data), factors=factors)
        return replace(found, label_values=self._values(data.train, factors))

    def _values(self, images: ContextDataset, factors: list[str]) -> list[int]:
        if self.label_loss != "embedding" or self.label_values:
            return self.label_values
        assert images.factors is not None
        counts = [len(images.factors[:, images.factor_names.index(name)].unique()) for name in factors]
        for name, count in zip(factors, counts, strict=True):
            if count > _MOST_VALUES:
                raise DataError(f"an embedding of {name!r} would have {count} values: take the ce or l2 loss")
        return counts


@dataclass(kw_only=True)
class GraphSettings(LabelledSettings):
    """Which factors may cause each other."""

    graph: list[str] = argument(
        [],
        help="edges, each cause:effect, or full for all from a factor to later ones: those that the prior of dear may "
        "have, and those that causal_vae starts with; default: the data's",
    )

    def completed(self, data: ContextData) -> Self:
        found = super().completed(data)
        if self.graph:
            return found
        if data.graph is None:
            raise DataError("the graph of the data is not known: give the edges, each cause:effect, or full")
        graph = [f"{cause}:{effect}" for cause, effect in data.graph if {cause, effect} <= set(found.factors)]
        return replace(found, graph=graph)


class LabelledBaseline(Baseline):
    """A baseline that is told some true factors, and sets them.

    Attributes:
        scale: the units of labels.
    """

    settings: LabelledSettings

    def __init__(self, settings: Any, image_shape: tuple[int, int, int], images: int) -> None:
        super().__init__(settings, image_shape, images)
        names = settings.factors
        if not names:
            raise ValueError(f"{self.name} learns from labels: give the names of its factors")
        check_at_least(len(names) * self.width, latents=settings.latents)
        self.scale = LabelScale(names)
        self.embedding = LabelEmbedding(settings.label_values) if settings.label_loss == "embedding" else None

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        return batch  # labels that are missing, and what is told of them, are of all images together

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        return self.losses(parts, progress)

    @property
    def width(self) -> int:
        """How many dimensions of the code a factor has."""
        return 1

    @property
    def labelled(self) -> int:
        """How many dimensions of the code stand for factors: they come first."""
        return len(self.settings.factors) * self.width

    def view(self, data: ContextDataset, seed: int = 0) -> FactorView:
        """The data with labels, of a random share of the images; the scale is fitted to those.

        Raises:
            DataError: for a factor that no image has a label of, or that is the same in all.
        """
        if data.factors is None:
            raise DataError("this method learns from labels, and the data has no factors")
        columns = [data.factor_names.index(name) for name in self.scale.names]
        labels = data.factors[:, columns].float()
        kept = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        labels[kept[max(1, round(self.settings.labels * len(labels))) :]] = torch.nan
        self.scale.fit(labels.to(self.device))
        return FactorView(data, self.scale.names, labels)

    def label_error(self, means: Tensor, labels: Tensor, progress: float) -> Tensor:
        """The weighted loss of a batch, a scalar, from means (B, D) and labels (B, M) in their own units."""
        first = means[:, : len(self.scale.names)]
        if self.settings.label_loss == "covariance":
            error = covariance_penalty(means, self.scale.standard(labels))
        elif self.embedding is not None:
            error = mean_of_known(self.embedding(first, self.scale.unit(labels)), labels)
        elif self.settings.label_loss == "l2":
            error = mean_of_known(squared_error(first, self.scale.standard(labels)), labels)
        else:
            error = mean_of_known(cross_entropy(first, self.scale.unit(labels)), labels)
        return self.label_strength(progress) * error

    def label_strength(self, progress: float) -> float:
        """The weight of labels when so much of the training is done."""
        settings = self.settings
        return settings.label_weight * annealed(settings.label_schedule, progress, settings.label_share)

    def latents_of(self, labels: Tensor) -> Tensor:
        """The codes (B, M) that labels (B, M) in their own units stand for."""
        if self.settings.label_loss == "ce":
            return self.scale.unit(labels).clamp(_EDGE, 1 - _EDGE).logit()
        if self.embedding is not None:
            numbers = (self.scale.unit(labels).clamp(0, 1)).T
            rows = zip(numbers, self.embedding.places, strict=True)
            return torch.stack([places[(row * (len(places) - 1)).round().long()] for row, places in rows], dim=1)
        return self.scale.standard(labels)

    def intervene(self, code: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Codes (B, D) with factors set: here each by itself, all others as they are. Arguments as for `do`."""
        changed, places, wanted = code.clone(), self._places(values), self._wanted(code, values)
        changed[:, places] = wanted[:, places]
        return changed

    def do(self, code: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Images (B, C, H, W) in [0, 1] with factors set, and with what follows from them by the method's own lights.

        Args:
            code: (B, D), as `decode` takes them; of given images, `centre`.
            values: by factor, in the units of its labels, (B,) or a single number.

        Raises:
            ConceptError: for what is no factor of this model.
        """
        return self.decode(self.intervene(code, values)).sigmoid()

    def draw_values(self, names: list[str], n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Values (n,) of factors, uniform in the ranges that their labels have."""
        found = {}
        for name in names:
            place = self._places({name: None})[0]
            low, high = self.scale.low[place], self.scale.high[place]
            found[name] = low + (high - low) * draw_uniform(low.expand(n), generator)
        return found

    def _places(self, values: Mapping[str, Any]) -> list[int]:
        if unknown := [name for name in values if name not in self.scale.names]:
            raise ConceptError(f"no factor {unknown[0]!r} here; its factors: {', '.join(self.scale.names)}")
        return [self.scale.names.index(name) for name in values]

    def _wanted(self, code: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """(B, M): the codes of these values, and of the other factors' means."""
        labels = self.scale.mean.repeat(len(code), 1)
        for name, place in zip(values, self._places(values), strict=True):
            labels[:, place] = torch.as_tensor(values[name], dtype=labels.dtype).to(labels.device)
        return self.latents_of(labels)
