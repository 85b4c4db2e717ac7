"""What is said of a module when its training ends: of every concept, and of every composition."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextData, ContextDataset
from context_module.evaluation.labels import labels_table, score_by_labellers
from context_module.evaluation.notes import posterior_notes, unfamiliar_notes
from context_module.evaluation.scoring import evaluate
from context_module.evaluation.subject import subject_of
from context_module.evaluation.tables import composition_table, intervention_table, perturbation_table
from context_module.metrics import MIN_SAMPLES
from context_module.model import ContextualDecoder
from context_module.training import EncodedDataset

__all__ = ["FinishedScores", "score_finished"]

_LABELLED = 200  # pictures of each context that labellers look at


@dataclass
class FinishedScores:
    """Tables as Markdown, under their titles, by the name of a file; and notes on what is not in them, or odd."""

    tables: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def score_finished(
    model: ContextualDecoder,
    data: ContextData,
    validation: ContextDataset,
    *,
    samples: int = 1000,
    pooled: bool = False,
    encodings: EncodedDataset | None = None,
    seed: int = 0,
) -> FinishedScores:
    """Score what a module makes of its concepts and compositions; contexts with too few images are named.

    Args:
        model: trained.
        data: with what was trained on as `train`; compositions come from `held_out`.
        validation: images of the training contexts that were not trained on.
        samples: compared of each context, at most half of its images: the others are the floor. 0: nothing is scored.
        pooled, encodings: see `evaluate`.
        seed: of the samples.
    """
    found, texts = FinishedScores(), model.base.kind == "texts"
    if not samples:
        return found
    if texts and data.parser is None:
        found.notes.append("no tables of scores: no parser comes with this data to read factors from texts")
        return found
    found.notes += posterior_notes(model, validation, pooled=pooled)
    if model.base.kind == "vectors":
        return _of_vectors(model, data, found, samples, pooled, seed)
    metrics = ["sliced_wasserstein", *(["unfamiliar"] if subject_of(model).embedder else [])]
    unseen = dataclasses.replace(data, test=validation)
    if data.labellers and not texts and not pooled:  # which see what a distance of pictures hardly does
        number = max(min(samples, _LABELLED), MIN_SAMPLES)
        shares = labels_table(score_by_labellers(model, unseen, data.labellers, samples=number, seed=seed))
        title = f"What the labellers of the data find in pictures ({number} of each; judge by others: evaluate.py)"
        found.tables["labels.md"] = f"{title}:\n\n{shares}"
        return found
    for file, what, scored_on, part, table in (
        ("interventions.md", "single concepts, of validation images", unseen, validation, intervention_table),
        ("composition.md", "compositions never trained on", data, data.held_out, composition_table),
    ):
        contexts, number = _scorable(part, samples, what, found.notes)
        if not contexts:
            continue
        scored = evaluate(
            model,
            scored_on,
            samples=number,
            metrics=None if texts else metrics,
            contexts=contexts,
            pooled=pooled,
            encodings=encodings,
            seed=seed,
        )
        distance = "Total variation distance (joint, of the concepts)" if texts else "Sliced Wasserstein distance"
        title = f"{distance} to real {model.base.kind} of {what} ({number} of each)"
        found.tables[file] = f"{title}:\n\n{table(scored)}"
        found.notes += unfamiliar_notes(scored)
    return found


def _of_vectors(
    model: ContextualDecoder, data: ContextData, found: FinishedScores, samples: int, pooled: bool, seed: int
) -> FinishedScores:
    contexts, number = _scorable(data.held_out, samples, "combinations never trained on", found.notes)
    if contexts:
        options = {"metrics": ["perturbation"], "contexts": contexts, "pooled": pooled, "seed": seed}
        scored = evaluate(model, data, samples=number, **options)  # type: ignore[arg-type]
        title = f"Combinations never trained on, {len(contexts)} of them, {number} rows of each"
        found.tables["composition.md"] = f"{title}:\n\n{perturbation_table(scored)}"
    return found


def _scorable(part: ContextDataset | None, most: int, what: str, notes: list[str]) -> tuple[list[str], int]:
    """The contexts with enough to score, obs left out, and how many of each."""
    if part is None:
        return [], 0
    counts = {name: count for name, count in part.counts.items() if name != OBSERVATIONAL}
    if few := [f"{name} ({count})" for name, count in counts.items() if count < 2 * MIN_SAMPLES]:
        listed = f"{', '.join(few)}; it takes {2 * MIN_SAMPLES} {part.kind} of a context"
        notes.append(f"not in the table of {what}: {listed}")
    kept = [name for name, count in counts.items() if count >= 2 * MIN_SAMPLES]
    samples = min([most, *(counts[name] // 2 for name in kept)])
    if kept and samples < MIN_SAMPLES:
        notes.append(f"no table of {what}: it takes {MIN_SAMPLES} samples of each, {most} were asked for")
        return [], 0
    return kept, samples
