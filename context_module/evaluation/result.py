"""What an evaluation found: every figure with its interval, by context and in summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from context_module.metrics import Estimate, WholeMetric, average, built_in_metrics

__all__ = ["ContextScores", "Evaluation", "Scores"]

# metric -> column -> figure; the columns are model, base and floor (concept accuracy: model and real)
Scores = dict[str, dict[str, Estimate]]
_STRANGE = 0.05  # a share of images that is worth a word
_WHOLE = dict.fromkeys(metric.name for metric in built_in_metrics() if isinstance(metric, WholeMetric))


@dataclass(frozen=True)
class ContextScores:
    """Generated against real images of one context.

    Attributes:
        held_out: whether it is a composition that was never trained on.
        scores: of each metric, the figure of the ``model``; of the ``base``, which knows no contexts; and the
            ``floor``: of other real images of the same context. For concept accuracy ``real`` is the real images' own.
        examples: a few of the images that were compared (n, C, H, W) in [0, 1]: ``real`` ones, those of the ``model``
            and, where they were scored, of Gaussian ``maps``; none of texts.
    """

    held_out: bool
    scores: Scores
    examples: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def strangers(self) -> float | None:
        """The share of generated images that the base does not know, where that is more than a few."""
        share = self.scores.get("unfamiliar", {}).get("model")
        return share.value if share is not None and share.low > _STRANGE else None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; what was not asked for or does not apply is not there.

    Attributes:
        samples: images compared per context, real and generated alike.
        seed: of the generated images and of the metrics.
        contexts: scores by the context's name.
        whole: what metrics of the model as a whole found, by metric.
        skipped: metric -> why it does not apply here.
    """

    samples: int
    seed: int
    contexts: dict[str, ContextScores]
    whole: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Scores]:
        """Means over contexts: ``concept`` over obs and single concepts, ``composition`` over what was held out."""
        parts = {
            name: [context.scores for context in self.contexts.values() if context.held_out == held_out]
            for name, held_out in (("concept", False), ("composition", True))
        }
        return {name: _mean(part) for name, part in parts.items() if part}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, null for what was not measured.

        An estimate is ``{"value", "low", "high", "samples"}``.
        """
        return {
            "samples": self.samples,
            "seed": self.seed,
            "contexts": {
                name: {"held_out": context.held_out, **_plain(context.scores)}
                for name, context in self.contexts.items()
            },
            "summary": _plain(self.summary),
            **_WHOLE,
            **_plain(self.whole),
            "skipped": self.skipped,
        }


def _mean(parts: list[Scores]) -> Scores:
    known = {metric: columns for part in parts for metric, columns in part.items()}  # some are not of every context
    return {
        metric: {column: average([part[metric][column] for part in parts if metric in part]) for column in columns}
        for metric, columns in known.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.to_dict() if hasattr(value, "to_dict") else value
