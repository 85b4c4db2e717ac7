"""Published comparisons, at a budget of your choice: every method, every seed, and a table beside published figures.

    python recipes/reproduce.py --table quad_dependent --budget cpu
    python recipes/reproduce.py --table dsprites_lecture --budget cpu --seeds 3
    python recipes/reproduce.py --table quad --budget paper --seeds 5 --cluster slurm --cluster_options gpus_per_node=1

The tables quad, quad_dependent and mnist are the paper's; dsprites_lecture is how well single latents of the field's
other systems stand for the factors of dSprites (with --data_options archive=PATH of the original pictures).

Each run is a few calls of pretrain.py, finetune.py, train_baseline.py and evaluate.py, written down in its log.txt to
be copied. Whatever is finished is not done again: after a crash or a kill, the same command goes on from the last
checkpoints.

Budgets: ``smoke`` shows in two minutes that everything works; ``cpu`` takes under an hour a seed on two cores, with
what this library does best (latent objective, matching), and at most 20 minutes for a run of another system; ``paper``
is the paper's protocol with the paper's module, for a GPU: 50,000 images a context, batches of 512, up to 100 epochs,
the pixel objective. Its one difference: our batches mix the contexts, where the paper's micro-batches hold one each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from context_module.cli import argument, parse_arguments, recipe_file, run_recipe
from context_module.io import read_json
from context_module.study import (
    BESIDE,
    BETTER_BESIDE,
    BUDGETS,
    LECTURE,
    LECTURE_COLUMNS,
    LECTURE_PUBLISHED,
    SYSTEMS,
    SYSTEMS_PUBLISHED,
    Command,
    Run,
    StudyArguments,
    evaluation,
    folder_name,
    run_study,
    scores_of_codes,
    scores_of_compositions,
    training,
)

METHODS = ("base", "base pooled", "CM pooled", "CM (frozen)", "CM (fine-tune)", "CM (end-to-end)")
COLUMNS = {
    "concept": "concept",
    "composition": "composition",
    "reconstruction": "reconstruction (bits)",
    **BESIDE,
}

# The published means over 5 seeds, of the first three COLUMNS: PMLR 323 (CLeaR 2026), lightweight VAE.
PUBLISHED: dict[str, dict[str, tuple[float | None, ...]]] = {
    "quad": {
        "base": (0.175, 0.288, 0.444),
        "base pooled": (0.166, 0.248, 0.446),
        "CM pooled": (0.202, 0.306, 0.840),
        "CM (frozen)": (0.086, 0.132, 0.559),
        "CM (fine-tune)": (0.059, 0.086, 0.518),
        "CM (end-to-end)": (0.063, 0.081, 0.519),
    },
    "quad_dependent": {
        "base": (0.170, 0.222, 0.767),
        "base pooled": (0.167, 0.212, 0.746),
        "CM pooled": (0.166, 0.203, 0.752),
        "CM (frozen)": (0.121, 0.134, 0.889),
        "CM (fine-tune)": (0.112, 0.121, 0.840),
        "CM (end-to-end)": (0.116, 0.127, 0.828),
    },
    "mnist": {
        "base": (0.127, None, 0.181),
        "base pooled": (0.131, None, 0.214),
        "CM pooled": (0.131, None, 0.228),
        "CM (frozen)": (0.115, None, 0.231),
        "CM (fine-tune)": (0.112, None, 0.235),
        "CM (end-to-end)": (0.109, None, 0.259),
    },
}
DATA = {"quad": "quad", "quad_dependent": "quad_dependent", "mnist": "morpho_mnist"}
ARCHITECTURE = {"quad": "simple64bn", "quad_dependent": "simple64bn", "mnist": "conv3"}
LATENTS = 128  # as the bases have
ON_SPRITES = "dsprites_lecture"


def rows_of(table: str) -> list[str]:
    """The rows of a table, in order."""
    return list(LECTURE) if table == ON_SPRITES else [*METHODS, *SYSTEMS]


@dataclass(kw_only=True)
class ReproduceArguments(StudyArguments):
    """The flags of this recipe."""

    table: Literal["quad", "quad_dependent", "mnist", "dsprites_lecture"] = argument(
        "quad_dependent", help="the data compared on, or the field's systems on dSprites"
    )
    budget: Literal["smoke", "cpu", "paper"] = argument("smoke", help="two minutes, an hour a seed, or the paper's")
    methods: list[str] = argument([], help="rows of the table, by default all; those a row builds upon run too")
    output_dir: str = argument("outputs/reproduce", help="the table goes to a folder in it, named table-budget")

    def __post_init__(self) -> None:
        super().__post_init__()
        known = rows_of(self.table)
        if unknown := [method for method in self.methods if method not in known]:
            raise ValueError(f"unknown method {unknown[0]!r}; methods: {', '.join(map(repr, known))}")


def runs_of_seed(args: ReproduceArguments, folder: Path, seed: int) -> dict[str, Run]:
    """A run per method."""
    if args.table == ON_SPRITES:
        return runs_on_sprites(args, folder, seed)
    budget = BUDGETS[args.budget]
    paths = {method: folder / folder_name(method) / f"seed-{seed}" for method in (*METHODS, *SYSTEMS)}
    common = {
        "base": "lightweight",
        "data": DATA[args.table],
        "data_options": args.data_options or None,
        "seed": seed,
        "cache_dir": folder / "cache",  # rendered once for all runs
    }

    def train(recipe: str, path: Path, kind: str, **options: Any) -> Command:
        options = {**common, **budget["data"], **budget["training"], **budget[kind], **options}
        if kind == "system":
            options |= {"base": None, "architecture": ARCHITECTURE[args.table], "latents": LATENTS}
        if recipe == "finetune.py":
            options |= {"score_samples": 0, "value_draws": 0}  # evaluate.py scores; no concept is set to a value
        return training(recipe_file(__file__, recipe), path, **options)

    def run(method: str, *trainings: Command, needs: tuple[str, ...] = ()) -> Run:
        path = paths[method]
        options = {"metrics": ["sliced_wasserstein", "reconstruction"], **budget["evaluation"]}
        commands = (*trainings, evaluation(recipe_file(__file__, "evaluate.py"), path, **options))
        return Run(f"{method}, seed {seed}", path, commands, tuple(f"{need}, seed {seed}" for need in needs))

    def with_base(method: str, kind: str, needs: tuple[str, ...] = (), **options: Any) -> Run:
        """A module that trains with its base, then is matched to it."""
        path, contexts = paths[method], {"pooled": options.pop("pooled", None)}
        if "matched" not in budget:
            return run(method, train("finetune.py", path, kind, **options, **contexts), needs=needs)
        start = path / "with-base"
        first = train("finetune.py", start, kind, **options, **contexts)
        return run(method, first, train("finetune.py", path, "matched", module=start, **contexts), needs=needs)

    pooled, frozen = paths["base pooled"], paths["CM (frozen)"]
    # the paper fine-tunes from the base alone; a small budget does better from the module on the frozen base
    start, needed = (
        ({"base_checkpoint": pooled}, "base pooled") if args.budget == "paper" else ({"module": frozen}, "CM (frozen)")
    )
    runs = [
        run("base", train("pretrain.py", paths["base"], "base", contexts=["obs"])),
        run("base pooled", train("pretrain.py", pooled, "pooled")),
        with_base("CM pooled", "joint", train_mode="end_to_end", pooled=True),
        run("CM (frozen)", train("finetune.py", frozen, "frozen", base_checkpoint=pooled), needs=("base pooled",)),
        with_base("CM (fine-tune)", "finetune", (needed,), train_mode="finetune", **start),
        with_base("CM (end-to-end)", "joint", train_mode="end_to_end"),
    ]
    for name, flags in SYSTEMS.items():
        runs.append(run(name, train("train_baseline.py", paths[name], "system", **flags)))
    return dict(zip((*METHODS, *SYSTEMS), runs, strict=True))


def runs_on_sprites(args: ReproduceArguments, folder: Path, seed: int) -> dict[str, Run]:
    """A run per system of the field, on sprites drawn from the whole grid."""
    budget = BUDGETS[args.budget]
    common = {"data": "dsprites_grid", "data_options": args.data_options or None, "cache_dir": folder / "cache"}
    runs = {}
    for name, flags in LECTURE.items():
        path = folder / folder_name(name) / f"seed-{seed}"
        options = {**common, "seed": seed, **budget["lecture"], **flags}
        metrics = ["disentanglement", *(["categories"] if flags["method"] in ("joint_vae", "cascade_vae") else [])]
        scored = evaluation(recipe_file(__file__, "evaluate.py"), path, metrics=metrics, **budget["codes"])
        commands = (training(recipe_file(__file__, "train_baseline.py"), path, **options), scored)
        runs[name] = Run(f"{name}, seed {seed}", path, commands)
    return runs


def scores_of(path: Path) -> dict[str, float]:
    """The table's figures of one finished run."""
    report = read_json(path / "evaluation" / "report.json")
    found = scores_of_compositions(report) | {"reconstruction": report["reconstruction"]["bits_per_pixel"]["value"]}
    return {column: found[column] for column in COLUMNS if column in found}


def scores_of_system(path: Path) -> dict[str, float]:
    """The figures of one finished run on sprites."""
    return scores_of_codes(read_json(path / "evaluation" / "report.json"))


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(ReproduceArguments, description=__doc__.splitlines()[0], argv=argv)
    folder = (Path(args.output_dir) / f"{args.table}-{args.budget}").resolve()
    seeds = [runs_of_seed(args, folder, seed) for seed in range(args.seeds)]
    title = f"{args.table}, budget {args.budget}"
    rows = args.methods or rows_of(args.table)
    if args.table == ON_SPRITES:
        table: dict[str, Any] = {"published": LECTURE_PUBLISHED, "spread": True}
        table["better"] = dict.fromkeys(LECTURE_COLUMNS, "higher")
        run_study(args, title, folder, rows, seeds, scores_of_system, LECTURE_COLUMNS, **table)
        return
    published = {
        method: {column: value for column, value in zip(COLUMNS, values, strict=False) if value is not None}
        for method, values in (PUBLISHED[args.table] | SYSTEMS_PUBLISHED[args.table]).items()
    }
    run_study(args, title, folder, rows, seeds, scores_of, COLUMNS, published=published, better=BETTER_BESIDE)


if __name__ == "__main__":
    run_recipe(main)
