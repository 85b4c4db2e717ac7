"""Data that is made here: a simulator draws the true factors of a context and renders them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from context_module.contexts import Concepts
from context_module.data.base import ArrayContextDataset, ContextData, MappedImages
from context_module.errors import DataError
from context_module.files import write_atomically, write_json

__all__ = ["Simulator", "simulate"]

_CHUNK = 1024  # images rendered at a time


class Simulator(ABC):
    """Where images come from, as far as it is known: a distribution of factors in every context, and a renderer.

    A subclass sets the attributes and writes `settings`, `sample` and `render`; `counterfactual` too, where factors
    act on each other.

    Attributes:
        name: of the data set.
        concepts: the factors that contexts intervene on; each is also one of `factor_names`.
        factor_names: of the D columns of a table of factors.
        compositions: the held-out contexts, as names.
        image_shape: (C, H, W).
        graph: (cause, effect) pairs of concepts: the direct edges among them; None where it is not known.
        target, spurious: names of two binary factors for the metrics of `context_module.metrics.downstream`: what is
            to be predicted, and what only correlates with it; None for data without such a task.
    """

    name: str
    concepts: Concepts
    factor_names: tuple[str, ...]
    compositions: tuple[str, ...]
    image_shape: tuple[int, int, int]
    graph: tuple[tuple[str, str], ...] | None = ()
    target: str | None = None
    spurious: str | None = None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that the images depend on besides the seed, as plain values for JSON: the cache's key."""

    @abstractmethod
    def sample(self, n: int, context: str, rng: np.random.Generator, test: bool = False) -> Tensor:
        """Factors of n images of a context, float32 (n, D).

        The first rows must not depend on n. `test` tells data that has a test part of its own which one to draw from.
        """

    def draw(self, n: int, context: str | Iterable[str] = "obs", *, seed: int = 0, test: bool = False) -> Tensor:
        """Factors of n images of a context, float32 (n, D), each context and part from a random stream of its own."""
        names = self.concepts.parse(context)
        number = sum(1 << self.factor_names.index(name) for name in names)
        stream = np.random.SeedSequence(seed, spawn_key=(number, 1) if test else (number,))
        return self.sample(n, self.concepts.name(names), np.random.default_rng(stream), test)

    @abstractmethod
    def render(self, factors: Tensor) -> Tensor:
        """Images of factors (n, D): uint8 (n, *image_shape), a function of the factors alone."""

    def counterfactual(self, factors: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The factors (n, D) of the same images had the concepts in `values` been set to these values (n,).

        What does not descend from them stays; what does follows its mechanism, with its own noise as it was. Here:
        factors that do not act on each other.
        """
        changed = factors.clone()
        for name, value in values.items():
            changed[:, self.factor_names.index(name)] = value.to(changed)
        return changed


def simulate(
    simulator: Simulator,
    *,
    samples_per_context: int,
    held_out_samples: int = 0,
    test_samples: int = 0,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> ContextData:
    """Images of all contexts of a simulator, from a random stream per context: more images only append.

    Args:
        simulator: draws and renders them.
        samples_per_context: training images of the observational and of each single-concept context.
        held_out_samples: images of each held-out composition; 0 for none.
        test_samples: further images of each training context; 0 for none.
        seed: the same seed gives the same bits; a context's images do not depend on the counts of the others.
        cache_dir: render into files below this folder, once, and memory-map them. Default: in memory.

    Raises:
        DataError: for a bad count.
    """
    if samples_per_context < 1 or held_out_samples < 0 or test_samples < 0:
        raise DataError(
            "samples_per_context must be at least 1, held_out_samples and test_samples at least 0, got "
            f"{samples_per_context}, {held_out_samples} and {test_samples}"
        )

    def part(contexts: Sequence[str], n: int, test: bool = False) -> ArrayContextDataset | None:
        if not n or not contexts:
            return None
        factors = torch.cat([simulator.draw(n, context, seed=seed, test=test) for context in contexts])
        images: Tensor | MappedImages
        if cache_dir is None:
            images = torch.cat([simulator.render(chunk) for chunk in factors.split(_CHUNK)])
        else:
            images = _rendered_file(simulator, factors, Path(cache_dir))
        labels = torch.arange(len(contexts)).repeat_interleave(n)
        return ArrayContextDataset(images, labels, contexts, simulator.concepts, factors, simulator.factor_names)

    training = simulator.concepts.training_contexts
    train = part(training, samples_per_context)
    assert train is not None
    held_out = part(simulator.compositions, held_out_samples)
    return ContextData(train, held_out, part(training, test_samples, test=True), simulator.graph, simulator)


def _rendered_file(simulator: Simulator, factors: Tensor, cache_dir: Path) -> MappedImages:
    """The images of these factors in a file that is named after all they depend on, rendered unless it is there."""
    version = importlib.metadata.version("context-module")  # its renderers may change from one to the next
    described = json.dumps(
        [version, simulator.name, simulator.settings(), list(simulator.image_shape)], sort_keys=True
    )
    key = hashlib.sha256(described.encode() + factors.numpy().tobytes()).hexdigest()[:16]
    path = cache_dir / f"{simulator.name}-{key}.npy"
    if not path.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        shape = (len(factors), *simulator.image_shape)

        def write(temporary: Path) -> None:
            images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            bar = tqdm(total=len(factors), desc=f"rendering {simulator.name}", unit="image")
            for start in range(0, len(factors), _CHUNK):
                images[start : start + _CHUNK] = simulator.render(factors[start : start + _CHUNK]).numpy()
                bar.update(min(_CHUNK, len(factors) - start))
            bar.close()
            images.flush()

        write_atomically(path, write)
        write_json(path.with_suffix(".json"), {"name": simulator.name, "settings": simulator.settings()})
    return MappedImages(path)
