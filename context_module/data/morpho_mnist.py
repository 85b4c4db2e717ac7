"""Perturbed MNIST digits, after Morpho-MNIST (Castro et al., JMLR 2019): thinner, thicker, swollen, moved and so on.

What the perturbations do, and in what order, is described at `context_module.data.strokes.perturb`. Unperturbed digits
take the same way through the fine canvas, so that contexts differ in nothing but their concepts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from context_module.contexts import Concepts
from context_module.data.context_data import ContextData
from context_module.data.mnist import Digits, load_mnist
from context_module.data.simulated import simulate
from context_module.data.simulator import Simulator
from context_module.errors import DataError, ShapeError

__all__ = ["CONCEPTS", "PAIRS", "STRENGTHS", "MorphoMNISTSimulator", "morpho_mnist"]

CONCEPTS = Concepts(["scaled", "shear", "shift", "swel", "thic", "thin"])
#: The default strengths; `strokes.perturb` says what they mean. Those of the last three are Morpho-MNIST's.
STRENGTHS: Mapping[str, float] = {"scaled": 0.65, "shear": 0.5, "shift": 4.0, "swel": 3.0, "thic": 1.0, "thin": 0.7}
_RANGES = {
    "scaled": (0.2, 1.4),
    "shear": (-1.0, 1.0),
    "shift": (0.0, 8.0),
    "swel": (1.0, 8.0),
    "thic": (0.0, 3.0),
    "thin": (0.0, 0.9),
}
_CONTRADICTORY = {("thic", "thin")}


def _compositions(concepts: Concepts) -> tuple[str, ...]:
    return tuple(concepts.name(pair) for pair in combinations(concepts, 2) if pair not in _CONTRADICTORY)


#: The held-out pairs: all that do not undo each other.
PAIRS = _compositions(CONCEPTS)


def morpho_mnist(
    root: str | Path | None = None,
    *,
    resolution: int = 28,
    samples_per_context: int = 2_000,
    held_out_samples: int = 1_000,
    test_samples: int = 0,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    fracture: bool = False,
    scaled: float = STRENGTHS["scaled"],
    shear: float = STRENGTHS["shear"],
    shift: float = STRENGTHS["shift"],
    swel: float = STRENGTHS["swel"],
    thic: float = STRENGTHS["thic"],
    thin: float = STRENGTHS["thin"],
) -> ContextData:
    """Perturbed MNIST digits: the observational and the single-concept contexts, and held-out pairs of concepts.

    The training contexts show digits of MNIST's training part, no digit in two contexts as long as there are enough;
    held-out pairs and test samples show digits of its test part.

    Args:
        root: a folder with MNIST's idx files; see `load_mnist`. Default: download.
        resolution: height and width in pixels. 32 pads the picture of 28 pixels with black; all others show the same
            field of view as 28, antialiased.
        samples_per_context, held_out_samples, test_samples, seed, cache_dir: see `simulate`.
        fracture: a seventh concept, `fracture`; its pairs are held out too.
        scaled, shear, shift, swel, thic, thin: strengths, in this order from 0.2 to 1.4, -1 to 1 (radians), 0 to 8
            (pixels of 28), 1 to 8, 0 to 3 and 0 to 0.9; see `strokes.perturb`.

    Returns:
        ContextData whose factors (N, 2 + K) are the digit's number in MNIST, the digit, and per concept 0 or 1; see
        `MorphoMNISTSimulator`.

    Raises:
        DataError: for a strength out of range, a bad count, and whatever `load_mnist` refuses.
        ShapeError: for a resolution below 8 pixels.
        ImportError: if scikit-image or scipy is not installed.
    """
    strengths = {"scaled": scaled, "shear": shear, "shift": shift, "swel": swel, "thic": thic, "thin": thin}
    return simulate(
        MorphoMNISTSimulator(load_mnist(root), resolution, strengths=strengths, fracture=fracture),
        samples_per_context=samples_per_context,
        held_out_samples=held_out_samples,
        test_samples=test_samples,
        seed=seed,
        cache_dir=cache_dir,
    )


class MorphoMNISTSimulator(Simulator):
    """Draws MNIST digits and perturbs them.

    The factors are `source`, the digit's row in MNIST with the test part's rows numbered after those of the training
    part; `digit`, 0 to 9, which goes with the source; and for each concept 1 where it is intervened on, else 0. What a
    perturbation leaves to chance is determined by the source.

    Args:
        digits: MNIST, as of `load_mnist`.
        resolution, fracture: see `morpho_mnist`.
        strengths: replaces entries of `STRENGTHS`.

    Raises:
        DataError: for an unknown concept, or a strength out of range.
        ShapeError: for a resolution below 8 pixels.
        ImportError: if scikit-image or scipy is not installed.
    """

    name = "morpho_mnist"

    def __init__(
        self,
        digits: Digits,
        resolution: int = 28,
        *,
        strengths: Mapping[str, float] | None = None,
        fracture: bool = False,
    ) -> None:
        _strokes()  # before the work begins, is it installed?
        if resolution < 8:
            raise ShapeError(f"resolution must be at least 8 pixels to show a digit, got {resolution}")
        self.concepts = Concepts([*CONCEPTS, "fracture"]) if fracture else CONCEPTS
        self.factor_names = ("source", "digit", *self.concepts)
        self.compositions = _compositions(self.concepts)
        self.image_shape = (1, resolution, resolution)
        self.strengths = _checked_strengths(strengths)
        self._images = np.concatenate([digits.train_images, digits.test_images])
        self._labels = np.concatenate([digits.train_labels, digits.test_labels])
        self._n_train = len(digits.train_images)

    def settings(self) -> dict[str, Any]:
        digits = hashlib.sha256(self._images.tobytes()).hexdigest()
        return {"concepts": list(self.concepts), "strengths": self.strengths, "digits": digits}

    def sample(self, n: int, context: str, rng: np.random.Generator, test: bool = False) -> Tensor:
        """Digits without replacement, from the start again once all were drawn.

        Those of the test part for `test` and for two or more interventions. Of K + 1 training contexts, each begins
        with a share of the digits that is its own, every (K + 1)-th, and goes on with the others.
        """
        intervened = self.concepts.parse(context)
        first, last = (self._n_train, len(self._images)) if test or len(intervened) > 1 else (0, self._n_train)

        def one_pass() -> np.ndarray:
            rows = rng.permutation(np.arange(first, last))
            if len(intervened) > 1:
                return rows
            contexts = self.concepts.training_contexts
            others = rows % len(contexts) != contexts.index(context)
            return rows[np.argsort(others, kind="stable")]

        passes = -(-n // (last - first))
        sources = np.concatenate([np.empty(0, np.int64), *(one_pass() for _ in range(passes))])[:n]
        flags = np.tile([name in intervened for name in self.concepts], (n, 1))
        return torch.from_numpy(np.column_stack([sources, self._labels[sources], flags])).float()

    def render(self, factors: Tensor) -> Tensor:
        """Images of factors.

        Args:
            factors: (n, 2 + K); sources are whole numbers of the digits there are, and flags 0 or 1.

        Returns:
            uint8 (n, 1, resolution, resolution).

        Raises:
            ShapeError: for anything else.
        """
        self._check(factors)
        strokes = _strokes()
        resolution = self.image_shape[-1]
        images = np.empty((len(factors), *self.image_shape), np.uint8)
        for image, (source, _, *flags) in zip(images, factors.tolist(), strict=True):
            intervened = [name for name, flag in zip(self.concepts, flags, strict=True) if flag]
            rng = np.random.default_rng(int(source))
            fine = strokes.perturb(strokes.to_strokes(self._images[int(source)]), intervened, rng, self.strengths)
            image[0] = strokes.sample_down(fine, resolution)
        return torch.from_numpy(images)

    def _check(self, factors: Tensor) -> None:
        if factors.ndim != 2 or factors.shape[1] != len(self.factor_names):
            raise ShapeError(
                f"factors must have shape (n, {len(self.factor_names)}) for {', '.join(self.factor_names)}, "
                f"got {tuple(factors.shape)}"
            )
        source, flags = factors[:, 0], factors[:, 2:]
        if not ((source >= 0) & (source < len(self._images)) & (source == source.round())).all():
            raise ShapeError(f"sources must be whole numbers from 0 to {len(self._images) - 1}")
        if not ((flags == 0) | (flags == 1)).all():
            raise ShapeError(f"{', '.join(self.concepts)} must be 0 or 1 each: perturbations have one strength")


def _checked_strengths(strengths: Mapping[str, float] | None) -> dict[str, float]:
    merged = {**STRENGTHS, **(strengths or {})}
    for name, strength in merged.items():
        if name not in STRENGTHS:
            raise DataError(f"no perturbation {name!r} to set a strength of; those with one: {', '.join(STRENGTHS)}")
        low, high = _RANGES[name]
        if not isinstance(strength, (int, float)) or not low <= strength <= high:
            raise DataError(f"the strength of {name!r} must lie between {low} and {high}, got {strength!r}")
    return merged


def _strokes() -> ModuleType:
    try:
        from context_module.data import strokes
    except ModuleNotFoundError as error:
        raise ImportError(
            "perturbing digits needs scikit-image and scipy: pip install context-module[data]"
        ) from error
    return strokes
