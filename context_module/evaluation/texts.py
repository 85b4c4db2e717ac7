"""Score a language model with a context module: what a parser reads from its texts, against real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from context_module.base import base_samples
from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextData, TextContextDataset
from context_module.errors import ConceptError, DataError
from context_module.evaluation.generated import real_parts
from context_module.evaluation.result import ContextScores, Evaluation, Scores
from context_module.metrics import UNREADABLE, intended_share, read_factors, share_estimate, total_variation
from context_module.model import ContextualDecoder
from context_module.nn import evaluating

__all__ = ["evaluate_texts"]


@torch.no_grad()
def evaluate_texts(
    model: ContextualDecoder,
    data: ContextData,
    *,
    samples: int = 1000,
    contexts: Iterable[str] | None = None,
    pooled: bool = False,
    seed: int = 0,
    batch_size: int = 250,
    progress: bool = True,
) -> Evaluation:
    """Score the texts that a model draws in every context, beside the base's own, which knows no contexts.

    Of the concepts that the data's parser reads from texts, against as many real texts:

    - ``total_variation``: between their joint distributions;
    - ``concept_variation``: between those of each concept by itself, averaged;
    - ``intended``: the share of concepts distributed as in the context, and not as they would be if that one concept
      was intervened on and should not have been, or the other way round;
    - ``parses``: the share of texts that the parser reads.

    Args:
        model: a wrapped language model.
        data: with a parser, and factors of the texts; `held_out` and `test` as for `evaluate`.
        samples, contexts, pooled, seed, batch_size, progress: as for `evaluate`.

    Raises:
        ConceptError: if the data's concepts are not the model's, or for an unknown context.
        DataError: for data without a parser or factors, or with too few texts.
    """
    if set(model.concepts) != set(data.concepts):
        raise ConceptError(
            f"the model has the concepts {', '.join(model.concepts)}, the data {', '.join(data.concepts)}: "
            "evaluate it on data of the concepts it was trained on"
        )
    if data.parser is None or data.train.factors is None:
        raise DataError("no parser comes with this data to read factors from texts, so that they cannot be compared")
    parts = real_parts(data, contexts, samples)
    parser, names = data.parser, data.train.factor_names
    concepts = [names.index(name) for name in data.concepts]
    known = {context: _rows(data.train, context)[:, concepts] for context in data.train.context_names}

    def read(draw: Callable[[int], list[str]]) -> Tensor:
        texts = [text for size in _sizes(samples, batch_size) for text in draw(size)]
        return read_factors(texts, parser, len(names))[:, concepts]

    found = {}
    with evaluating(model):
        generator = torch.Generator().manual_seed(seed)
        base = read(partial(base_samples, model.base, sample=True, generator=generator))
        for context in tqdm(parts, desc="contexts", disable=not progress):
            do = OBSERVATIONAL if pooled else context
            generated = read(partial(model.generate, do=do, sample=True, generator=generator))
            real, other = _rows(parts[context], context)[: 2 * samples, concepts].split(samples)
            columns = {"model": generated, "base": base, "floor": other}
            scores: Scores = {
                "total_variation": {name: total_variation(rows, real, seed=seed) for name, rows in columns.items()},
                "concept_variation": {
                    name: total_variation(rows, real, joint=False, seed=seed) for name, rows in columns.items()
                },
                "parses": {name: share_estimate((rows[:, 0] != UNREADABLE).float()) for name, rows in columns.items()},
            }
            intervened = data.concepts.parse(context)
            others = [OBSERVATIONAL if name in intervened else name for name in data.concepts]
            if all(name in known for name in others):
                scores["intended"] = {
                    name: intended_share(rows, real, [known[other] for other in others], seed=seed)
                    for name, rows in columns.items()
                }
            found[context] = ContextScores(parts[context] is data.held_out, scores)
    return Evaluation(samples, seed, found)


def _rows(part: object, context: str) -> Tensor:
    """The factors of the real texts of a context."""
    assert isinstance(part, TextContextDataset)
    assert part.factors is not None
    return part.factors[part.labels == part.context_names.index(context)]


def _sizes(n: int, batch_size: int) -> Iterator[int]:
    for start in range(0, n, batch_size):
        yield min(batch_size, n - start)
