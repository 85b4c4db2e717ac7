"""What is scored, on what data, and how: the one thing that every metric is handed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from context_module.data import ContextData, ContextDataset, evaluation_loader
from context_module.metrics.subject import Subject

__all__ = ["Case", "batches"]


@dataclass(frozen=True)
class Case:
    """A subject, the data it is scored on, and the settings of the scoring.

    Attributes:
        subject: in eval mode.
        data: real images, or texts; `test` and `held_out` were never trained on.
        samples: compared per context.
        seed: of the samples and of the metrics.
        batch_size: images, or texts, generated at a time.
        projections: directions of the sliced Wasserstein distance.
        cache_dir: where networks that metrics train on the data are kept, if anywhere.
        progress: show progress bars.
        whole: the data, with contexts of concepts that the subject does not know, where there are any: they are not in
            `data`.
    """

    subject: Subject
    data: ContextData
    samples: int = 1000
    seed: int = 0
    batch_size: int = 250
    projections: int = 200
    cache_dir: str | Path | None = None
    progress: bool = True
    whole: ContextData | None = None
    _trained: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False, compare=False)

    def trained(self, train: Callable[..., Any]) -> Any:
        """The network that ``train(data, seed=, device=, cache_dir=, progress=)`` makes of the training data.

        It is trained once, for all metrics and contexts.
        """
        if train not in self._trained:
            self._trained[train] = train(
                self.data.train,
                seed=self.seed,
                device=self.subject.device,
                cache_dir=self.cache_dir,
                progress=self.progress,
            )
        return self._trained[train]


def batches(images: ContextDataset | Tensor, size: int) -> Iterator[Tensor]:
    """The images (n, C, H, W) of a data set, or of a tensor, in order, so many at a time."""
    if isinstance(images, Tensor):
        yield from images.split(size)
    else:
        for batch in evaluation_loader(images, size):
            yield batch["x"]
