"""How well single latents of the field's systems stand for the factors of dSprites (Jeong & Song, ICML 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from context_module.io import read_json
from context_module.study.plan import Plan, PublishedTable
from context_module.study.runs import Run

__all__ = ["LECTURE_TABLE", "scores_of_codes"]

#: Rows, by number of continuous dimensions m, and the flags that each trains with.
ROWS: dict[str, dict[str, Any]] = {
    "beta-VAE (m = 5)": {"method": "beta_vae", "latents": 5, "beta": 10.0},
    "beta-VAE (m = 10)": {"method": "beta_vae", "latents": 10, "beta": 4.0},
    "FactorVAE (m = 5)": {"method": "factor_vae", "latents": 5},
    "FactorVAE (m = 10)": {"method": "factor_vae", "latents": 10},
    "CascadeVAE-C (m = 5)": {"method": "cascade_vae_c", "latents": 5, "beta_low": 0.7},
    "CascadeVAE-C (m = 10)": {"method": "cascade_vae_c", "latents": 10, "beta_low": 1.0},
    "JointVAE (m = 6)": {"method": "joint_vae", "latents": 6},
    "JointVAE (m = 4)": {"method": "joint_vae", "latents": 4},
    "CascadeVAE (m = 6)": {"method": "cascade_vae", "latents": 6, "beta_low": 1.0},
    "CascadeVAE (m = 4)": {"method": "cascade_vae", "latents": 4, "beta_low": 2.0},
}
COLUMNS = {"factor_vae": "FactorVAE score", "shape": "shape, unsupervised"}
#: Means over 10 seeds.
PUBLISHED: dict[str, dict[str, float]] = {
    "beta-VAE (m = 5)": {"factor_vae": 0.7011},
    "beta-VAE (m = 10)": {"factor_vae": 0.7441},
    "FactorVAE (m = 5)": {"factor_vae": 0.8109},
    "FactorVAE (m = 10)": {"factor_vae": 0.8215},
    "CascadeVAE-C (m = 5)": {"factor_vae": 0.8169},
    "CascadeVAE-C (m = 10)": {"factor_vae": 0.8174},
    "JointVAE (m = 6)": {"factor_vae": 0.7451, "shape": 0.4479},
    "JointVAE (m = 4)": {"factor_vae": 0.7306, "shape": 0.4399},
    "CascadeVAE (m = 6)": {"factor_vae": 0.9049, "shape": 0.7884},
    "CascadeVAE (m = 4)": {"factor_vae": 0.9134, "shape": 0.7600},
}


def _runs(plan: Plan) -> dict[str, Run]:
    runs = {}
    for name, flags in ROWS.items():
        path = plan.path(name)
        options = {"data": "dsprites_grid", "data_options": plan.data_options or None, **plan.budget["lecture"]}
        metrics = ["disentanglement", *(["categories"] if flags["method"] in ("joint_vae", "cascade_vae") else [])]
        scored = plan.evaluate(path, metrics=metrics, **plan.budget["codes"])
        runs[name] = plan.run(name, plan.train("train_baseline", path, **options, **flags), scored)
    return runs


def scores_of_codes(report: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a report.json, by column: of a method without categories, the first alone."""
    scores = {"factor_vae": report["disentanglement"]["factor_vae"]["value"]}
    if report.get("categories"):  # None where it was not measured
        scores["shape"] = report["categories"]["code 1"]["shape"]["value"]
    return scores


LECTURE_TABLE = PublishedTable(
    rows=tuple(ROWS),
    columns=COLUMNS,
    runs=_runs,
    scores=lambda path: scores_of_codes(read_json(path / "evaluation" / "report.json")),
    published=PUBLISHED,
    better=dict.fromkeys(COLUMNS, "higher"),
    spread=True,
)
