"""Data that is made here: images of every context of a simulator, in memory or in memory-mapped files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from context_module.data.context_data import ContextData
from context_module.data.dataset import ArrayContextDataset, MappedImages
from context_module.data.simulator import Simulator
from context_module.errors import DataError
from context_module.io import progress_bar, rendered_array, write_json

__all__ = ["simulate"]

_CHUNK = 1024  # images rendered at a time


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
        DataError: for a bad count, or a `cache_dir` that cannot be written or has no room.
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

    training = simulator.contexts or simulator.concepts.training_contexts
    train = part(training, samples_per_context)
    assert train is not None
    held_out = part(simulator.compositions, held_out_samples)
    return ContextData(
        train,
        held_out,
        part(training, test_samples, test=True),
        simulator.graph,
        simulator,
        target=simulator.target,
        spurious=simulator.spurious,
    )


def _rendered_file(simulator: Simulator, factors: Tensor, cache_dir: Path) -> MappedImages:
    """The images of these factors in a file that is named after all they depend on, rendered unless it is there."""
    version = importlib.metadata.version("context-module")  # its renderers may change from one to the next
    described = json.dumps(
        [version, simulator.name, simulator.settings(), list(simulator.image_shape)], sort_keys=True
    )
    key = hashlib.sha256(described.encode() + factors.numpy().tobytes()).hexdigest()[:16]
    path = cache_dir / f"{simulator.name}-{key}.npy"
    shape = (len(factors), *simulator.image_shape)

    def images(start: int) -> Iterator[Tensor]:
        with progress_bar(total=len(factors), initial=start, desc=f"rendering {simulator.name}", unit="image") as bar:
            for chunk in factors[start:].split(_CHUNK):
                yield simulator.render(chunk)
                bar.update(len(chunk))

    rendered_array(path, shape, images)
    if not path.with_suffix(".json").exists():
        write_json(path.with_suffix(".json"), {"name": simulator.name, "settings": simulator.settings()})
    return MappedImages(path)
