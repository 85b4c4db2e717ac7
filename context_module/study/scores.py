"""What tables of many runs take from the reports of their evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from context_module.evaluation import headline

__all__ = ["BESIDE", "BETTER_BESIDE", "scores_of_compositions"]

#: Headings of the columns of what costs nothing, and which end of them is better.
BESIDE = {"maps": "Gaussian maps", "recon": "the base's own", "headline": "of what the base allows"}
BETTER_BESIDE: Mapping[str, Literal["lower", "higher"] | None] = {"maps": None, "recon": None, "headline": "higher"}


def scores_of_compositions(report: Mapping[str, Any]) -> dict[str, float]:
    """Sliced Wasserstein distances of a report.json, by column of a table.

    ``concept`` and ``composition`` are the means over training contexts and over compositions; where there are
    compositions, ``worst_pair`` is the largest of theirs and ``floor`` that of real images; where the evaluation has
    what costs nothing, ``maps`` and ``recon`` are its means, ``headline`` is `headline` of these, and ``worst_beside``
    is by how much the module is further off than Gaussian maps where it is so most, negative if it is nowhere.
    """
    summary = report["summary"]
    scores = {part: found["sliced_wasserstein"]["model"]["value"] for part, found in summary.items()}
    if "composition" not in summary:
        return scores
    mean = {column: found["value"] for column, found in summary["composition"]["sliced_wasserstein"].items()}
    pairs = [found["sliced_wasserstein"] for found in report["contexts"].values() if found["held_out"]]
    scores["worst_pair"] = max(pair["model"]["value"] for pair in pairs)
    scores["floor"] = mean["floor"]
    if "maps" in mean:
        scores |= {"maps": mean["maps"], "recon": mean["recon"], "headline": headline(mean)}
        scores["worst_beside"] = max(pair["model"]["value"] - pair["maps"]["value"] for pair in pairs)
    return scores
