"""The paper's comparison, at a budget of your choice: every method, every seed, and a table beside its figures.

    python recipes/reproduce.py --table quad_dependent --budget cpu
    python recipes/reproduce.py --table quad --budget paper --seeds 5 --cluster slurm --cluster_options gpus_per_node=1

Each run is a few calls of pretrain.py, finetune.py and evaluate.py, written down in its log.txt to be copied. Whatever
is finished is not done again: after a crash or a kill, the same command goes on from the last checkpoints.

Budgets: ``smoke`` shows in two minutes that everything works; ``cpu`` takes under an hour a seed on two cores, with
what this library does best (latent objective, matching); ``paper`` is the paper's protocol with the paper's module,
for a GPU: 50,000 images a context, batches of 512, up to 100 epochs, the pixel objective. Its one difference: our
batches mix the contexts, where the paper's micro-batches hold one each.
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
    Command,
    Run,
    StudyArguments,
    evaluation,
    folder_name,
    run_study,
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


@dataclass(kw_only=True)
class ReproduceArguments(StudyArguments):
    """The flags of this recipe."""

    table: Literal["quad", "quad_dependent", "mnist"] = argument("quad_dependent", help="the data compared on")
    budget: Literal["smoke", "cpu", "paper"] = argument("smoke", help="two minutes, an hour a seed, or the paper's")
    methods: list[str] = argument(list(METHODS), help="rows of the table; those a row builds upon run too")
    output_dir: str = argument("outputs/reproduce", help="the table goes to a folder in it, named table-budget")

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [method for method in self.methods if method not in METHODS]:
            raise ValueError(f"unknown method {unknown[0]!r}; methods: {', '.join(map(repr, METHODS))}")


def runs_of_seed(args: ReproduceArguments, folder: Path, seed: int) -> dict[str, Run]:
    """A run per method."""
    budget = BUDGETS[args.budget]
    paths = {method: folder / folder_name(method) / f"seed-{seed}" for method in METHODS}
    common = {
        "base": "lightweight",
        "data": DATA[args.table],
        "data_options": args.data_options or None,
        "seed": seed,
        "cache_dir": folder / "cache",  # rendered once for all runs
    }

    def train(recipe: str, path: Path, kind: str, **options: Any) -> Command:
        options = {**common, **budget["data"], **budget["training"], **budget[kind], **options}
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
    return dict(zip(METHODS, runs, strict=True))


def scores_of(path: Path) -> dict[str, float]:
    """The table's figures of one finished run."""
    report = read_json(path / "evaluation" / "report.json")
    found = scores_of_compositions(report) | {"reconstruction": report["reconstruction"]["bits_per_pixel"]["value"]}
    return {column: found[column] for column in COLUMNS if column in found}


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(ReproduceArguments, description=__doc__.splitlines()[0], argv=argv)
    folder = (Path(args.output_dir) / f"{args.table}-{args.budget}").resolve()
    published = {
        method: {column: value for column, value in zip(COLUMNS, values, strict=False) if value is not None}
        for method, values in PUBLISHED[args.table].items()
    }
    seeds = [runs_of_seed(args, folder, seed) for seed in range(args.seeds)]
    title = f"{args.table}, budget {args.budget}"
    run_study(args, title, folder, args.methods, seeds, scores_of, COLUMNS, published=published, better=BETTER_BESIDE)


if __name__ == "__main__":
    run_recipe(main)
