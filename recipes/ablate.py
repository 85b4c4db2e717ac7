"""What each part of the latent training is worth: the default training beside trainings with one thing changed.

    python recipes/ablate.py --budget cpu --seeds 3
    python recipes/ablate.py --budget cpu --rows default "without matching" --base_checkpoint outputs/base
    python recipes/ablate.py --rows default --base lightweight nvae --resolution 32 --data quad dsprites pendulum

Every row is recipes/finetune.py with its defaults on a frozen base, but for what the row's name says. That base is
pretrained first, on all contexts pooled and anew for every seed, unless ``--base_checkpoint`` names one. Each run is
a few calls of pretrain.py, finetune.py and evaluate.py, written down in its log.txt to be copied. Whatever is
finished is not done again: after a crash or a kill, the same command goes on from the last checkpoints.

Of several data sets or families of bases there is a table each, and one of all, with the means over them: with the
row ``default`` alone that is what a module is worth, beside what costs nothing, wherever one may use it.

Budgets: ``smoke`` shows in some minutes that everything works; ``cpu`` gives the latent rows 1,000 steps, half of the
defaults', and the two pixel rows, whose steps run through the decoder, fewer images in time of the same order.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from context_module.cli import argument, parse_arguments, recipe_file, run_recipe
from context_module.errors import CheckpointError
from context_module.io import read_json
from context_module.study import (
    BESIDE,
    BETTER_BESIDE,
    BUDGETS,
    PAPERS_MODULE,
    PIXEL,
    STRUCTURAL,
    Comparison,
    Run,
    StudyArguments,
    evaluation,
    folder_name,
    run_study,
    scores_of_compositions,
    training,
)

BASE = "base pooled"
END_TO_END = "paper's training"
ROWS: dict[str, dict[str, Any]] = {
    "default": {},
    "in closed form": {"max_train_steps": 0},
    "without matching": {"matching": 0},
    "without critic": {"adversarial": 0},
    "without least change": {"least_change": 0},
    "without edges": {"graph": ["none"]},
    "structural form": STRUCTURAL,
    "structural, without interaction term": STRUCTURAL | {"interaction": 0},
    "structural, without overlap term": STRUCTURAL | {"overlap": 0},
    "structural, without acyclicity": STRUCTURAL | {"acyclicity": 0},
    "structural, without sparsity": STRUCTURAL | {"sparsity": 0},
    "structural, without dropping edges": STRUCTURAL | {"edge_threshold": 0},
    "structural, linear inversion": STRUCTURAL | {"inversion_width": 0},
    "structural, without free blocks": STRUCTURAL | {"free_blocks": 0},
    "structural, beta 0.2": STRUCTURAL | {"beta": 0.2},
    "reduced form": STRUCTURAL | {"form": "reduced"},
    "pixel objective": {**PIXEL, "latent_noise": True},
    END_TO_END: {**PIXEL, **PAPERS_MODULE, "train_mode": "end_to_end"},  # base and module from scratch
}
# What each row spends; rows that are not named spend what the default does. Steps of the last are those of the base
# that the others start from, and of the pixel objective on it.
CPU_PIXEL = {"train_batch_size": 128, "learning_rate": 2e-3, "lr_warmup_steps": 100}
SPENT: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {"default": BUDGETS["smoke"]["training"] | {"max_train_steps": 8}},
    "cpu": {
        "default": {"max_train_steps": 1000, "train_batch_size": 448},
        "pixel objective": {"max_train_steps": 1000, **CPU_PIXEL},
        END_TO_END: {"max_train_steps": 4000, **CPU_PIXEL},
    },
}
EVALUATION = {"smoke": BUDGETS["smoke"]["evaluation"], "cpu": {"samples": 1000}}
METRICS = ["sliced_wasserstein", "precision_recall", "concept_accuracy", "graph", "leak"]

COLUMNS = {
    "concept": "concept",
    "composition": "composition",
    "worst_pair": "worst pair",
    **BESIDE,
    "worst_beside": "worst pair beside maps",
    "floor": "floor",
    "precision": "precision",
    "concept_accuracy": "accuracy, contexts",
    "composition_accuracy": "accuracy, pairs",
    "leak": "leak",
    "graph_distance": "graph distance",
}
BETTER: dict[str, Literal["lower", "higher"] | None] = {
    **BETTER_BESIDE,
    "floor": None,
    "precision": "higher",
    "concept_accuracy": "higher",
    "composition_accuracy": "higher",
}


@dataclass(kw_only=True)
class AblateArguments(StudyArguments):
    """The flags of this recipe."""

    budget: Literal["smoke", "cpu"] = argument("smoke", help="some minutes, or trainings of minutes on a CPU")
    rows: list[str] = argument(list(ROWS), help="rows of the table")
    data: list[str] = argument(["quad_dependent"], help="as in recipes/finetune.py; one or several")
    resolution: int | None = argument(None, help="height and width of the images; default: the data's own")
    base: list[str] = argument(["lightweight"], help="family of the base; one or several")
    base_checkpoint: str | None = argument(
        None, help="the base, for images of the data's size; default: pretrain one for every seed"
    )
    output_dir: str = argument(
        "outputs/ablate", help="tables go to folders in it, named data-budget, with the family where there are several"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise ValueError(f"unknown row {unknown[0]!r}; rows: {', '.join(map(repr, ROWS))}")
        if self.base_checkpoint and len(self.data) * len(self.base) > 1:
            raise ValueError(
                "--base_checkpoint is one base, of the images of one data set: give one --data and --base"
            )
        if self.base_checkpoint and not Path(self.base_checkpoint).exists():
            raise CheckpointError(
                f"--base_checkpoint {self.base_checkpoint}: no such file or folder; leave it out to pretrain a base"
            )


def runs_of_seed(args: AblateArguments, data: str, family: str, folder: Path, seed: int) -> dict[str, Run]:
    """A run per row, and one of the base unless it is given."""
    budget, spent = BUDGETS[args.budget], SPENT[args.budget]
    common = {
        "base": family,
        "data": data,
        "data_options": args.data_options or None,
        "seed": seed,
        "cache_dir": folder / "cache",  # rendered and encoded once for all runs
        **budget["data"],
    }
    runs: dict[str, Run] = {}
    if args.base_checkpoint:
        base = Path(args.base_checkpoint).resolve()
    else:
        base = folder / folder_name(BASE) / f"seed-{seed}"
        options = {**common, **budget["training"], **budget["pooled"], "resolution": args.resolution}
        runs[BASE] = Run(
            f"{BASE}, seed {seed}", base, (training(recipe_file(__file__, "pretrain.py"), base, **options),)
        )
    for row, changed in ROWS.items():
        path = folder / folder_name(row) / f"seed-{seed}"
        # evaluate.py scores; no concept is set to a value
        options = {**common, "score_samples": 0, "value_draws": 0, **spent.get(row, spent["default"]), **changed}
        needs: tuple[str, ...] = ()
        if row != END_TO_END:
            options["base_checkpoint"] = base
            needs = tuple(run.name for run in runs.values() if run.folder == base)
        commands = (
            training(recipe_file(__file__, "finetune.py"), path, **options),
            evaluation(recipe_file(__file__, "evaluate.py"), path, metrics=METRICS, **EVALUATION[args.budget]),
        )
        runs[row] = Run(f"{row}, seed {seed}", path, commands, needs)
    return runs


def scores_of(path: Path) -> dict[str, float]:
    """The table's figures of one finished run; accuracies are shares of those of real images."""
    report = read_json(path / "evaluation" / "report.json")
    scores, summary = scores_of_compositions(report), report["summary"]
    for part, found in summary.items():
        model, real = (found["concept_accuracy"][column]["value"] for column in ("model", "real"))
        if real > 0:
            scores[f"{part}_accuracy"] = model / real
    if "composition" in summary:
        scores["precision"] = summary["composition"]["precision"]["model"]["value"]
    shares = [share["value"] for found in report["leak"].values() for share in found.values()]
    scores["leak"] = statistics.fmean(shares)
    if "structural_hamming_distance" in report["graph"]:
        scores["graph_distance"] = report["graph"]["structural_hamming_distance"]
    return scores


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(AblateArguments, description=__doc__.splitlines()[0], argv=argv)
    tables: dict[str, Comparison] = {}
    for data, family in itertools.product(args.data, args.base):
        name = Path(data).resolve().name  # data may be a folder
        title = f"{name}, {family}" if len(args.base) > 1 else name
        folder = (Path(args.output_dir) / f"{title.replace(', ', '-')}-{args.budget}").resolve()
        seeds = [runs_of_seed(args, data, family, folder, seed) for seed in range(args.seeds)]
        print(f"{title}:\n")
        tables[title] = run_study(
            args, f"{title}, budget {args.budget}", folder, args.rows, seeds, scores_of, COLUMNS, better=BETTER
        )
    if len(tables) > 1:
        together = Comparison.together(f"all data, budget {args.budget}", tables)
        together.save(Path(args.output_dir) / f"all-{args.budget}")
        print(
            f"\nall:\n\n{together.markdown()}\n\n{Path(args.output_dir) / f'all-{args.budget}'}: table.md, table.csv"
        )


if __name__ == "__main__":
    run_recipe(main)
