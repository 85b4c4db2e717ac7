"""The tables of DEAR (Shen et al., JMLR 23(241), 2022), on the pendulum: what labels of factors are good for.

Methods that are told the labels of four factors, classifiers trained end to end, and a context module, which is told
contexts and no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from context_module.io import read_json
from context_module.study.budgets import STRUCTURAL
from context_module.study.plan import Plan, PublishedTable
from context_module.study.runs import Command, Run

__all__ = ["DEAR_TABLES", "scores_of_prediction", "scores_of_setting"]

SYSTEMS: dict[str, dict[str, Any]] = {
    "DEAR (nonlinear)": {"method": "dear", "prior": "nonlinear", "latents": 6},
    "DEAR (linear)": {"method": "dear", "latents": 6},
    "DEAR (10% of labels)": {"method": "dear", "prior": "nonlinear", "latents": 6, "labels": 0.1},
    "S-VAE": {"method": "supervised_vae", "latents": 6},
    "S-beta-VAE": {"method": "supervised_vae", "latents": 6, "penalty_options": ["beta=4"]},
    "S-TCVAE": {"method": "supervised_vae", "latents": 6, "penalty": "tc_vae", "penalty_options": ["beta=4"]},
    "CausalVAE": {"method": "causal_vae", "latents": 16},
}
MODULE, STRUCTURAL_MODULE = "context module (no labels)", "structural context module (no labels)"
FACTORS = ("pendulum", "light", "length", "position")
FEW = 100  # labelled images
CORRUPTION = {"dear_efficiency": 0.2, "dear_shift": 0.2, "dear_generation": 0.0}

EFFICIENCY = ("DEAR (nonlinear)", "DEAR (linear)", "DEAR (10% of labels)", "S-TCVAE", "S-VAE", "S-beta-VAE", "ResNet")
SHIFT = ("DEAR (linear)", "DEAR (nonlinear)", "ERM", "ERM-multilabel", "S-beta-VAE", "S-TCVAE", "S-VAE")
GENERATION = ("DEAR (linear)", "DEAR (nonlinear)", "CausalVAE", "S-VAE")
#: Published means of the pendulum, as shares.
PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "dear_efficiency": {
        "DEAR (nonlinear)": (0.9062, 0.9257, 0.9793),
        "DEAR (linear)": (0.9021, 0.9331, 0.9668),
        "S-TCVAE": (0.8536, 0.9033, 0.9451),
        "S-VAE": (0.8416, 0.9089, 0.9260),
        "S-beta-VAE": (0.7995, 0.8787, 0.9098),
        "ResNet": (0.7971, 0.9064, 0.8797),
    },
    "dear_shift": {
        "DEAR (linear)": (0.7495, 0.9361),
        "DEAR (nonlinear)": (0.7248, 0.9311),
        "ERM": (0.6048, 0.8740),
        "ERM-multilabel": (0.6170, 0.8720),
        "S-beta-VAE": (0.4412, 0.8699),
        "S-TCVAE": (0.3550, 0.8664),
        "S-VAE": (0.2078, 0.8426),
    },
    "dear_generation": {},
}
COLUMNS = {
    "dear_efficiency": {
        "few": f"{FEW} labels",
        "full": "all labels",
        "efficiency": "ratio",
        "few_of_factors": f"{FEW} labels, factors' codes",
        "full_of_factors": "all labels, factors' codes",
    },
    "dear_shift": {
        "worst": "worst group",
        "average": "average",
        "worst_of_factors": "worst group, factors' codes",
        "average_of_factors": "average, factors' codes",
    },
    "dear_generation": {
        **{factor: f"do({factor}): others off by" for factor in FACTORS},
        "mean": "mean",
        "floor": "at best",
        "effect": "moves it by",
        "pixels": "pixels off by",
    },
}


def _runs(plan: Plan, table: str) -> dict[str, Run]:
    budget, corruption = plan.budget, CORRUPTION[table]
    options = [f"corruption={corruption}"] if corruption else []
    options += ["background_correlation=0.8"] if table == "dear_shift" else []
    common = {"data": "pendulum", "data_options": [*options, *plan.data_options] or None, **budget["pendulum"]}
    metric = "counterfactual" if table == "dear_generation" else "downstream"

    def scored(row: str, *trainings: Command, needs: tuple[str, ...] = ()) -> Run:
        evaluation = plan.evaluate(plan.path(row), metrics=[metric], **budget["heads"])
        return plan.run(row, *trainings, evaluation, needs=needs)

    runs = {}
    for row, flags in SYSTEMS.items():
        of_kind = budget["supervised"] | (budget["dear"] if flags["method"] == "dear" else {})
        given = {**common, "contexts": ["obs"], **of_kind, **flags}
        runs[row] = scored(row, plan.train("train_baseline", plan.path(row), **given))
    for row, also in {"ERM": None, "ERM-multilabel": list(FACTORS)}.items():
        runs[row] = plan.run(
            row, plan.train("train_classifier", plan.path(row), **common, **budget["classifier"], also=also)
        )
    both = [
        plan.train("train_classifier", plan.path("ResNet") / name, **common, **budget["classifier"], images=images)
        for name, images in (("few", FEW), ("full", None))
    ]
    runs["ResNet"] = plan.run("ResNet", *both)
    base = plan.path(MODULE) / "base"

    def module(row: str, **form: Any) -> Command:
        given = {"base_checkpoint": base, "score_samples": 0, "value_draws": 0, **common, **budget["module"], **form}
        return plan.train("finetune", plan.path(row), base="lightweight", **given)

    pretrained = plan.train("pretrain", base, base="lightweight", **common, **budget["pretraining"])
    runs[MODULE] = scored(MODULE, pretrained, module(MODULE))
    structural = module(STRUCTURAL_MODULE, train_batch_size=448, **STRUCTURAL)
    runs[STRUCTURAL_MODULE] = scored(STRUCTURAL_MODULE, structural, needs=(MODULE,))
    return runs


def scores_of_prediction(folder: Path) -> dict[str, float]:
    """Accuracies of a finished run, by column: of a representation, or of classifiers trained end to end."""
    if (folder / "full").is_dir():
        few, full = (read_json(folder / name / "accuracy.json")["accuracy"]["value"] for name in ("few", "full"))
        return {"few": few, "full": full, "efficiency": few / full}
    if (folder / "accuracy.json").is_file():
        found = read_json(folder / "accuracy.json")
        return {"worst": found["worst_group"]["value"], "average": found["average"]["value"]}
    report = read_json(folder / "evaluation" / "report.json")["downstream"]
    scores = _accuracies(report)
    if "labelled_codes" in report:
        scores |= {f"{name}_of_factors": value for name, value in _accuracies(report["labelled_codes"]).items()}
    return scores


def _accuracies(found: Mapping[str, Any]) -> dict[str, float]:
    scores = {name: found["sample_efficiency"][name]["value"] for name in ("few", "full", "efficiency")}
    shift = found["under_shift"]
    return scores | {"worst": shift["worst_group"]["value"], "average": shift["average"]["value"]}


def scores_of_setting(folder: Path) -> dict[str, float]:
    """How far off the other factors are where one is set, in standard deviations, and what bounds it."""
    concepts = read_json(folder / "evaluation" / "report.json")["counterfactual"]["concepts"]

    def mean(found: Mapping[str, Any]) -> float:
        # without corruption and blue skies two factors never change: what is read of them is noise
        return fmean(found[name]["value"] for name in found if name in FACTORS)

    errors = {name: mean(scores["errors"]) for name, scores in concepts.items()}
    return {
        **errors,
        "mean": fmean(errors.values()),
        "floor": fmean(mean(scores["floor"]) for scores in concepts.values()),
        "effect": fmean(scores["effect"]["value"] for scores in concepts.values()),
        "pixels": fmean(scores["pixel_error"]["value"] for scores in concepts.values()),
    }


DEAR_TABLES = {
    name: PublishedTable(
        rows=(*rows, MODULE, STRUCTURAL_MODULE) if name == "dear_generation" else (*rows, MODULE),
        columns=COLUMNS[name],
        runs=partial(_runs, table=name),
        scores=scores_of_setting if name == "dear_generation" else scores_of_prediction,
        published={row: dict(zip(COLUMNS[name], values, strict=False)) for row, values in PUBLISHED[name].items()},
        better={} if name == "dear_generation" else dict.fromkeys(COLUMNS[name], "higher"),
        spread=name != "dear_generation",
    )
    for name, rows in {"dear_efficiency": EFFICIENCY, "dear_shift": SHIFT, "dear_generation": GENERATION}.items()
}
