"""The paper's tables: its methods, and rows of systems that learn without interventions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from context_module.io import read_json
from context_module.study.plan import Plan, PublishedTable
from context_module.study.runs import Command, Run
from context_module.study.scores import BESIDE, BETTER_BESIDE, scores_of_compositions

__all__ = ["PAPER_TABLES", "SYSTEMS"]

METHODS = ("base", "base pooled", "CM pooled", "CM (frozen)", "CM (fine-tune)", "CM (end-to-end)")
#: Rows beside them: beta other than 1, and samples of a context from the aggregate posterior of its images.
SYSTEMS: dict[str, dict[str, Any]] = {
    "TC-VAE": {"method": "tc_vae", "beta": 6.0},
    "Ada-GVAE": {"method": "ada_vae", "beta": 4.0},
    "TVAE": {"method": "tvae", "beta": 4.0},
}
COLUMNS = {
    "concept": "concept",
    "composition": "composition",
    "reconstruction": "reconstruction (bits)",
    **BESIDE,
}
#: The published means over 5 seeds, of the first three columns: PMLR 323 (CLeaR 2026), lightweight VAE. Those of the
#: systems do not compare with ours: they were trained by squared error without an output activation and scored
#: through a sigmoid, so that no image is black or white; that TC-VAE has beta 1, which is a plain VAE; and their
#: samples are of N(0, I), the same in every context.
PUBLISHED: dict[str, dict[str, tuple[float | None, ...]]] = {
    "quad": {
        "base": (0.175, 0.288, 0.444),
        "base pooled": (0.166, 0.248, 0.446),
        "CM pooled": (0.202, 0.306, 0.840),
        "CM (frozen)": (0.086, 0.132, 0.559),
        "CM (fine-tune)": (0.059, 0.086, 0.518),
        "CM (end-to-end)": (0.063, 0.081, 0.519),
        "TC-VAE": (0.330, 0.346),
        "Ada-GVAE": (0.335, 0.355, 2.017),
        "TVAE": (0.334, 0.341),
    },
    "quad_dependent": {
        "base": (0.170, 0.222, 0.767),
        "base pooled": (0.167, 0.212, 0.746),
        "CM pooled": (0.166, 0.203, 0.752),
        "CM (frozen)": (0.121, 0.134, 0.889),
        "CM (fine-tune)": (0.112, 0.121, 0.840),
        "CM (end-to-end)": (0.116, 0.127, 0.828),
        "TC-VAE": (0.366, 0.374),
        "Ada-GVAE": (0.375, 0.377, 2.443),
        "TVAE": (0.370, 0.368),
    },
    "mnist": {
        "base": (0.127, None, 0.181),
        "base pooled": (0.131, None, 0.214),
        "CM pooled": (0.131, None, 0.228),
        "CM (frozen)": (0.115, None, 0.231),
        "CM (fine-tune)": (0.112, None, 0.235),
        "CM (end-to-end)": (0.109, None, 0.259),
        "TC-VAE": (0.484,),
        "Ada-GVAE": (0.500, None, 1.035),
        "TVAE": (0.486,),
    },
}
DATA = {"quad": "quad", "quad_dependent": "quad_dependent", "mnist": "morpho_mnist"}
ARCHITECTURE = {"quad": "simple64bn", "quad_dependent": "simple64bn", "mnist": "conv3"}
LATENTS = 128  # as the bases have


def _runs(plan: Plan, table: str) -> dict[str, Run]:
    budget = plan.budget
    paths = {method: plan.path(method) for method in (*METHODS, *SYSTEMS)}
    common = {"base": "lightweight", "data": DATA[table], "data_options": plan.data_options or None}

    def train(recipe: str, path: Path, kind: str, **options: Any) -> Command:
        options = {**common, **budget["data"], **budget["training"], **budget[kind], **options}
        if kind == "system":
            options |= {"base": None, "architecture": ARCHITECTURE[table], "latents": LATENTS}
        if recipe == "finetune":
            options |= {"score_samples": 0, "value_draws": 0}  # evaluate.py scores; no concept is set to a value
        return plan.train(recipe, path, **options)

    def run(method: str, *trainings: Command, needs: tuple[str, ...] = ()) -> Run:
        scored = plan.evaluate(paths[method], metrics=["sliced_wasserstein", "reconstruction"], **budget["evaluation"])
        return plan.run(method, *trainings, scored, needs=needs)

    def with_base(method: str, kind: str, needs: tuple[str, ...] = (), **options: Any) -> Run:
        """A module that trains with its base, then is matched to it."""
        path, contexts = paths[method], {"pooled": options.pop("pooled", None)}
        if "matched" not in budget:
            return run(method, train("finetune", path, kind, **options, **contexts), needs=needs)
        start = path / "with-base"
        first = train("finetune", start, kind, **options, **contexts)
        return run(method, first, train("finetune", path, "matched", module=start, **contexts), needs=needs)

    pooled, frozen = paths["base pooled"], paths["CM (frozen)"]
    # the paper fine-tunes from the base alone; a small budget does better from the module on the frozen base
    start, needed = (
        ({"base_checkpoint": pooled}, "base pooled")
        if plan.spending == "paper"
        else ({"module": frozen}, "CM (frozen)")
    )
    runs = [
        run("base", train("pretrain", paths["base"], "base", contexts=["obs"])),
        run("base pooled", train("pretrain", pooled, "pooled")),
        with_base("CM pooled", "joint", train_mode="end_to_end", pooled=True),
        run("CM (frozen)", train("finetune", frozen, "frozen", base_checkpoint=pooled), needs=("base pooled",)),
        with_base("CM (fine-tune)", "finetune", (needed,), train_mode="finetune", **start),
        with_base("CM (end-to-end)", "joint", train_mode="end_to_end"),
    ]
    for name, flags in SYSTEMS.items():
        runs.append(run(name, train("train_baseline", paths[name], "system", **flags)))
    return dict(zip((*METHODS, *SYSTEMS), runs, strict=True))


def _scores(path: Path) -> dict[str, float]:
    report = read_json(path / "evaluation" / "report.json")
    found = scores_of_compositions(report) | {"reconstruction": report["reconstruction"]["bits_per_pixel"]["value"]}
    return {column: found[column] for column in COLUMNS if column in found}


def _published(table: str) -> dict[str, dict[str, float]]:
    return {
        method: {column: value for column, value in zip(COLUMNS, values, strict=False) if value is not None}
        for method, values in PUBLISHED[table].items()
    }


PAPER_TABLES = {
    name: PublishedTable(
        rows=(*METHODS, *SYSTEMS),
        columns=COLUMNS,
        runs=partial(_runs, table=name),
        scores=_scores,
        published=_published(name),
        better=BETTER_BESIDE,
    )
    for name in DATA
}
