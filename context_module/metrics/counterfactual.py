"""Are counterfactuals of given images those of the simulator that made the images?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextDataset, Simulator
from context_module.errors import ConceptError, DataError
from context_module.metrics.case import Case
from context_module.metrics.estimate import Estimate, average, check_samples, mean_estimate
from context_module.metrics.metric import Figure, Table, WholeMetric
from context_module.metrics.networks import ConvNet, train_network

_MOST = 500  # images of an evaluation

__all__ = [
    "METRIC",
    "CounterfactualConsistency",
    "CounterfactualScores",
    "FactorRegressor",
    "counterfactual_consistency",
    "train_factor_regressor",
]


class FactorRegressor(ConvNet):
    """Reads the true factors off images, standardised by the training data's means and standard deviations: (B, D).

    Args:
        factors: (N, D), of the training images.
        factor_names: of the D columns.
        image_shape: (C, H, W).
    """

    mean: Tensor
    std: Tensor
    values: Tensor

    def __init__(self, factors: Tensor, factor_names: Sequence[str], image_shape: tuple[int, int, int]) -> None:
        super().__init__(image_shape, len(factor_names))
        self.factor_names = tuple(factor_names)
        mean, std = _moments(factors)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("values", factors.T.sort().values.contiguous())

    def standardise(self, factors: Tensor) -> Tensor:
        """Factors (n, D) in the units of the readings; on the CPU."""
        return (factors.cpu() - self.mean.cpu()) / self.std.cpu()

    def value(self, name: str, readings: Tensor) -> Tensor:
        """What readings (n, D) say of one factor, in its own units (n,): the closest value of the training data.

        So it is one that a renderer can draw, of a discrete factor too.
        """
        column = self.factor_names.index(name)
        known = self.values[column].cpu()
        wanted = readings[:, column] * self.std[column].cpu() + self.mean[column].cpu()
        above = torch.searchsorted(known, wanted.contiguous()).clamp(max=len(known) - 1)
        below = (above - 1).clamp(min=0)
        return torch.where(wanted - known[below] < known[above] - wanted, known[below], known[above])


@dataclass(frozen=True)
class CounterfactualScores:
    """Images as they would be had one concept been intervened on, against the simulator's.

    Factors are read by the regressor and in units of their standard deviation; all figures are means over images.

    Attributes:
        effect: how far the concept moved from the reconstruction's; about zero for a model that does nothing.
        expected_effect: how far the simulator's intervention moves it.
        errors: of every other factor, how far off it is from the simulator's counterfactual: whether what follows from
            the concept has followed, and the rest stayed.
        floor: of the same, what the simulator's own counterfactual images would score. A factor that cannot be read
            has a high one.
        pixel_error: absolute difference from the simulator's counterfactual image, per pixel and channel.
        pixel_floor: that of the simulator's own.
    """

    effect: Estimate
    expected_effect: Estimate
    errors: dict[str, Estimate]
    floor: dict[str, Estimate]
    pixel_error: Estimate
    pixel_floor: Estimate


@dataclass(frozen=True)
class CounterfactualConsistency:
    """What `counterfactual_consistency` found.

    Attributes:
        concepts: the scores of an intervention on each concept.
        real: per factor, how far off the regressor's readings of the real images are.
        reconstruction: the same of the model's reconstructions.
        reconstruction_pixel_error: absolute difference of the reconstructions from the images.
    """

    concepts: dict[str, CounterfactualScores]
    real: dict[str, Estimate]
    reconstruction: dict[str, Estimate]
    reconstruction_pixel_error: Estimate

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def train_factor_regressor(
    data: ContextDataset,
    *,
    steps: int = 1000,
    batch_size: int = 128,
    seed: int = 0,
    device: str | torch.device | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> FactorRegressor:
    """Train a network to read the factors off real images, by least absolute errors.

    Args:
        data: images with their `factors`, of all contexts whose factors are to be read.
        steps, batch_size, seed, device, cache_dir, progress: as for `train_concept_classifier`.

    Returns:
        the regressor in eval mode.

    Raises:
        DataError: for data without factors, or factors that are not finite; for a batch size below 1.
        ValueError: for fewer than one step.
    """
    factors = _factors(data).float()
    if not factors.isfinite().all():
        raise DataError("factors must be finite to be learnt, some are NaN or infinite: leave those images out")
    mean, std = _moments(factors)
    return train_network(
        lambda: FactorRegressor(factors, data.factor_names, data.image_shape),
        data,
        (factors - mean) / std,
        F.l1_loss,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        device=device,
        cache_dir=cache_dir,
        progress=progress,
    )


@torch.no_grad()
def counterfactual_consistency(
    subject: Any,
    test: ContextDataset,
    simulator: Simulator,
    regressor: FactorRegressor,
    *,
    samples: int = 500,
    seed: int = 0,
    batch_size: int = 250,
) -> CounterfactualConsistency:
    """Abduct observational images, generate them under every intervention, and ask the simulator what should be there.

    The value that an intervention gives its concept is the model's to choose: it is read off the generated image, and
    the simulator sets the concept of the true factors to it. So a factor that the regressor cannot read (the
    orientation of a disc) says nothing, and one whose values run in a circle counts jumps at its ends as errors;
    both show in the floor.

    Args:
        subject: a `Subject` with ``counterfactuals``; of a wrapped base, ``subject_of(model)``.
        test: images that were not trained on, with their factors; the observational ones are used.
        simulator: that made them.
        regressor: of the factors.
        samples: number of images.
        seed: of what the subject draws, and of the simulator's interventions in `expected_effect`.
        batch_size: images generated at a time.

    Raises:
        ConceptError: for a concept of the subject that is no factor of the simulator.
        DataError: for data without factors or with others than the regressor or the simulator knows; for too few
            observational images, or fewer than `MIN_SAMPLES` asked for.
        ShapeError: for images of another shape than the regressor was trained on.
    """
    check_samples(samples)
    _check_names(subject, test, simulator, regressor)
    images = test.select(OBSERVATIONAL, samples)
    rows = (test.labels == test.context_names.index(OBSERVATIONAL)).nonzero().flatten()[:samples]
    factors = _factors(test)[rows]
    truth = regressor.standardise(factors)
    real = _by_name(regressor.read(images) - truth, regressor.factor_names)

    generated = _generate(subject, images, seed, batch_size)
    reconstructions = generated.pop(OBSERVATIONAL)
    reconstructed = regressor.read(reconstructions)
    concepts = {}
    for concept, counterfactuals in generated.items():
        intervened = simulator.draw(samples, concept, seed=seed, test=True)
        column = regressor.factor_names.index(concept)
        expected = (regressor.standardise(intervened) - truth)[:, column]
        effect = (regressor.read(counterfactuals) - reconstructed)[:, column]
        target, errors, pixel_error = _against_simulator(counterfactuals, concept, factors, simulator, regressor)
        _, floor, pixel_floor = _against_simulator(target, concept, factors, simulator, regressor)
        concepts[concept] = CounterfactualScores(
            *(mean_estimate(effect.abs()), mean_estimate(expected.abs()), errors, floor, pixel_error, pixel_floor)
        )
    return CounterfactualConsistency(
        concepts,
        real=real,
        reconstruction=_by_name(reconstructed - truth, regressor.factor_names),
        reconstruction_pixel_error=_pixel_error(reconstructions, images),
    )


def _moments(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,), that of a constant as 1."""
    std = factors.std(0)
    return factors.mean(0), torch.where(std > 0, std, 1.0)


def _generate(subject: Any, images: Tensor, seed: int, batch_size: int) -> dict[str, Tensor]:
    """Per context, obs among them, what becomes of the given images."""
    generator = torch.Generator().manual_seed(seed)
    generated: dict[str, list[Tensor]] = {context: [] for context in subject.concepts.training_contexts}
    for batch in images.split(batch_size):
        found = subject.counterfactuals(batch.to(subject.device), list(generated), generator)
        for context, parts in generated.items():
            parts.append(found[context].cpu())
    return {context: torch.cat(parts).clamp(0, 1) for context, parts in generated.items()}


def _against_simulator(
    images: Tensor, concept: str, factors: Tensor, simulator: Simulator, regressor: FactorRegressor
) -> tuple[Tensor, dict[str, Estimate], Estimate]:
    """The simulator's counterfactual images with the concept as it is read in these, and how far these are off."""
    readings = regressor.read(images)
    target = simulator.counterfactual(factors, {concept: regressor.value(concept, readings)})
    off = _by_name(readings - regressor.standardise(target), regressor.factor_names)
    off.pop(concept)  # what is read is right by definition
    rendered = simulator.render(target).float() / 255
    return rendered, off, _pixel_error(images, rendered)


def _by_name(differences: Tensor, names: Sequence[str]) -> dict[str, Estimate]:
    return {name: mean_estimate(column.abs()) for name, column in zip(names, differences.T, strict=True)}


def _pixel_error(images: Tensor, others: Tensor) -> Estimate:
    return mean_estimate((images - others).abs().flatten(1).mean(1))


def _factors(data: ContextDataset) -> Tensor:
    if data.factors is None:
        raise DataError("the data has no factors to compare with: they are known of data from a simulator")
    return data.factors


def _check_names(subject: Any, test: ContextDataset, simulator: Simulator, regressor: FactorRegressor) -> None:
    _factors(test)
    known: Mapping[str, tuple[str, ...]] = {"simulator": simulator.factor_names, "regressor": regressor.factor_names}
    for owner, names in known.items():
        if names != test.factor_names:
            raise DataError(
                f"the data has the factors {', '.join(test.factor_names)}, the {owner} {', '.join(names)}: "
                "all three must belong to one data set"
            )
    if unknown := [concept for concept in subject.concepts if concept not in simulator.concepts]:
        raise ConceptError(
            f"the simulator does not intervene on {', '.join(unknown)}; its concepts: {', '.join(simulator.concepts)}"
        )


def _score(case: Case) -> CounterfactualConsistency:
    test, simulator = case.data.test, case.data.simulator
    assert test is not None
    assert simulator is not None
    regressor = case.trained(train_factor_regressor)
    samples = min(case.samples, _MOST)
    return counterfactual_consistency(case.subject, test, simulator, regressor, samples=samples, seed=case.seed)


def _reason(case: Case) -> str | None:
    if case.data.test is None:
        return "the data has no images of the training contexts that were not trained on"
    if case.subject.concepts is None:
        return "the model knows no interventions"
    if case.data.simulator is None:
        return "it is not known how the images came about"
    return "the true factors of the images are not known" if case.data.test.factors is None else None


def _tables(found: CounterfactualConsistency) -> list[Table]:
    """What each intervention does, and how well factors are read; the errors of each factor are in the JSON alone."""
    acts = [
        (
            concept,
            {
                "effect": scores.effect,
                "expected": scores.expected_effect,
                "errors": average(list(scores.errors.values())),
                "floor": average(list(scores.floor.values())),
                "pixels": scores.pixel_error,
            },
        )
        for concept, scores in found.concepts.items()
    ]
    reads = [(name, {"real": real, "model": found.reconstruction[name]}) for name, real in found.real.items()]
    return [
        Table(
            acts,
            [
                ("effect", "moves it by"),
                ("expected", "in the simulator by"),
                ("errors", "other factors off by"),
                ("floor", "at best, off by"),
                ("pixels", "pixels off by"),
            ],
            "concept",
            "An intervention on one concept, in standard deviations of the factors",
        ),
        Table(
            reads,
            [("real", "real images"), ("model", "reconstructions")],
            "factor",
            "How far off factors are when read from real images and from their reconstructions",
        ),
    ]


METRIC = WholeMetric(
    name="counterfactual",
    figure=Figure(
        "Counterfactual consistency",
        "closer to the simulator is better",
        "Real images are abducted and generated again under an intervention, and a regressor reads their true factors "
        "off: what the intervention does not reach should stay, the rest should follow the simulator.",
    ),
    asks=("counterfactuals",),
    reason=_reason,
    score=_score,
    tables=_tables,
)
