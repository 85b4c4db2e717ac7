"""Tables of simulated perturbation screens: are true latents found, and how near come combinations never trained on?

``notes_identifiable``: MCC, R2 and the graph from perturbations to latents, on four fifths of the perturbations, and
how well rows of the others are explained after transfer. ``perturbation``: held-out pairs, in a screen whose shifts
add up and in one where every pair has a shift besides; scores are 0 at the mean response and 1 at other real rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from context_module.io import read_json
from context_module.metrics import scaled_score
from context_module.study.plan import Plan, PublishedTable
from context_module.study.runs import Command, Run
from context_module.study.table import folder_name

__all__ = ["PERTURBATION_TABLES", "scores_of_combinations", "scores_of_latents"]

#: Methods by row, and the flags that each trains with.
METHODS: dict[str, dict[str, Any]] = {
    "beta-VAE": {"method": "vector_vae"},
    "iVAE": {"method": "ivae"},
    "sVAE": {"method": "svae"},
    "sVAE+": {"method": "svae_plus"},
    "SAMS-VAE": {"method": "sams_vae"},
    "discrepancy VAE": {"method": "discrepancy_vae"},
}
LATENT_COLUMNS = {
    "mcc": "MCC",
    "mcc_spearman": "MCC (Spearman)",
    "r2": "R²",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "nll_elbo": "NLL after transfer (ELBO)",
    "nll_iwelbo": "NLL after transfer (IWELBO)",
}
CLOSED, TRAINED, BASE = "context module (closed form)", "context module (trained)", "base"
EDITS: dict[str, Any] = {"graph": ["none"], "score_samples": 0}
IN_CLOSED_FORM = {**EDITS, "max_train_steps": 0}
#: What takes no training, by row, as the reports of the module have it.
ANSWERS = {"additive": "additive", "linear": "linear", "mean response": "mean_response"}
SCREENS = {"additive": "", "interactions": ", interactions"}
FIGURES = {
    "e_distance": "E-distance",
    "vector_mmd": "MMD",
    "delta_error": "error of changes",
    "delta_correlation": "correlation of changes",
    "discrimination": "discrimination",
}


def _identifiable(plan: Plan) -> dict[str, Run]:
    sizes, runs = plan.budget["screen"], {}
    options = [f"perturbations={sizes['perturbations']}", "pairs=0", *plan.data_options]
    learned = ["obs", *(f"p{number + 1}" for number in range(sizes["learned"]))]
    screen = {"data": "sparse_shifts", "data_options": options, "contexts": learned}

    def scored(row: str, *trainings: Command) -> Run:
        evaluated = plan.evaluate(plan.path(row), metrics=["latents", "transfer"], samples=sizes["samples"])
        return plan.run(row, *trainings, evaluated)

    for name, flags in METHODS.items():
        spent = {**plan.budget["identifiable"], **flags}
        runs[name] = scored(name, plan.train("train_baseline", plan.path(name), depth=2, **screen, **spent))
    path, spent = plan.path(CLOSED), plan.budget["vectors"]
    on_base = {
        "base": "vector_vae",
        "base_checkpoint": path / "base",
        "samples_per_context": spent["samples_per_context"],
    }
    runs[CLOSED] = scored(
        CLOSED,
        plan.train("pretrain", path / "base", base="vector_vae", **screen, **spent),
        plan.train("finetune", path, **screen, **on_base, **IN_CLOSED_FORM),
    )
    return runs


def scores_of_latents(path: Path) -> dict[str, float]:
    """The figures of one run, by column."""
    report = read_json(path / "evaluation" / "report.json")
    found = {**(report["latents"] or {}), **(report["transfer"] or {})}
    return {column: found[column]["value"] for column in LATENT_COLUMNS if column in found}


def _combinations(plan: Plan) -> dict[str, Run]:
    sizes = plan.budget["screen"]
    shape = [f"perturbations={sizes['combined']}", f"pairs={sizes['pairs']}"]

    def data(screen: str) -> dict[str, Any]:
        interactions = float(screen == "interactions")
        return {"data": "sparse_shifts", "data_options": [*shape, f"interactions={interactions}", *plan.data_options]}

    def scored(path: Path) -> Command:
        return plan.evaluate(path, metrics=["perturbation", "discrimination"], samples=sizes["samples"])

    def both(row: str, recipe: str, needs: tuple[str, ...] = (), **flags: Any) -> Run:
        commands = []
        for screen in SCREENS:
            path = plan.path(row) / screen
            bases = {"base": "vector_vae", "base_checkpoint": plan.path(BASE) / screen} if needs else {}
            commands += [plan.train(recipe, path, **data(screen), **bases, **flags), scored(path)]
        return plan.run(row, *commands, needs=needs)

    base = [
        plan.train("pretrain", plan.path(BASE) / screen, base="vector_vae", **data(screen), **plan.budget["vectors"])
        for screen in SCREENS
    ]
    runs = {
        BASE: plan.run(BASE, *base),
        CLOSED: both(CLOSED, "finetune", (BASE,), **IN_CLOSED_FORM),
        TRAINED: both(TRAINED, "finetune", (BASE,), **plan.budget["edits"], **EDITS),
    }
    for row in ANSWERS:  # their figures are in the module's reports
        runs[row] = plan.run(row, needs=(CLOSED,))
    for name, flags in METHODS.items():
        runs[name] = both(name, "train_baseline", depth=2, **plan.budget["identifiable"], **flags)
    return runs


def scores_of_combinations(path: Path) -> dict[str, float]:
    """The scaled figures of one run, by column; of what takes no training those in the reports of the module."""
    row, seed = path.parent.name, path.name
    answer = {name.replace(" ", "-"): column for name, column in ANSWERS.items()}.get(row, "model")
    folder = path if answer == "model" else path.parents[1] / folder_name(CLOSED) / seed
    scores = {}
    for screen in SCREENS:
        file = folder / screen / "evaluation" / "report.json"
        if not file.exists():  # of a module that failed
            continue
        report = read_json(file)
        figures: dict[str, Mapping[str, Any]] = {**report["summary"]["composition"]}
        if report["discrimination"]:
            figures["discrimination"] = report["discrimination"]
        for name in FIGURES:
            if name in figures:
                values = {column: figure["value"] for column, figure in figures[name].items()}
                scores[f"{name}-{screen}"] = scaled_score(values, answer)
    return scores


COMBINATION_COLUMNS = {
    f"{name}-{screen}": f"{title}{suffix}" for screen, suffix in SCREENS.items() for name, title in FIGURES.items()
}
PERTURBATION_TABLES = {
    "notes_identifiable": PublishedTable(
        rows=(CLOSED, *METHODS),
        columns=LATENT_COLUMNS,
        runs=_identifiable,
        scores=scores_of_latents,
        better={name: "lower" if name.startswith("nll") else "higher" for name in LATENT_COLUMNS},
    ),
    "perturbation": PublishedTable(
        rows=(CLOSED, TRAINED, *ANSWERS, *METHODS),
        columns=COMBINATION_COLUMNS,
        runs=_combinations,
        scores=scores_of_combinations,
        better=dict.fromkeys(COMBINATION_COLUMNS, "higher"),
    ),
}
