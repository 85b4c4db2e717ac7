"""Published comparisons, at a budget of your choice: every method, every seed, and a table beside published figures.

    python recipes/reproduce.py --table quad_dependent --budget cpu
    python recipes/reproduce.py --table dsprites_lecture --budget cpu --seeds 3
    python recipes/reproduce.py --table dear_shift --budget cpu --seeds 3
    python recipes/reproduce.py --table quad --budget paper --seeds 5 --cluster slurm --cluster_options gpus_per_node=1

The tables quad to ident are the paper's, quad_beta and quad_expressivity its ablations. dsprites_lecture is how well
single latents of the field's other systems stand for the factors of dSprites (with --data_options archive=PATH of the
original pictures). The three of DEAR are on the pendulum: predicting from few labels, predicting where a correlation
is gone, setting factors. notes_identifiable and perturbation are of simulated screens: whether latents are found, and
unseen combinations.

Each run is a few calls of other recipes, written down in its log.txt to be copied. Whatever is finished is not done
again: after a crash or a kill, the same command goes on from the last checkpoints.

Budgets: ``smoke`` shows in two minutes that everything works; ``cpu`` takes under an hour a seed on two cores, with
what this library does best (latent objective, matching), and at most 20 minutes for a run of another system; ``paper``
is the published protocol, for a GPU: of the paper's tables 50,000 images a context, batches of 512, up to 100 epochs,
its module and the pixel objective. Its one difference: our batches mix the contexts, where the paper's micro-batches
hold one each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from context_module.cli import argument, parse_arguments, recipe_file, run_recipe
from context_module.study import (
    DEAR_TABLES,
    LECTURE_TABLE,
    PAPER_TABLES,
    PERTURBATION_TABLES,
    Plan,
    Run,
    StudyArguments,
    run_study,
)

TABLES = {**PAPER_TABLES, "dsprites_lecture": LECTURE_TABLE, **DEAR_TABLES, **PERTURBATION_TABLES}


@dataclass(kw_only=True)
class ReproduceArguments(StudyArguments):
    """The flags of this recipe."""

    table: Literal[
        "quad",
        "quad_dependent",
        "mnist",
        "mnist_nvae",
        "ident",
        "quad_beta",
        "quad_expressivity",
        "dsprites_lecture",
        "dear_efficiency",
        "dear_shift",
        "dear_generation",
        "notes_identifiable",
        "perturbation",
    ] = argument("quad_dependent", help="which comparison")
    budget: Literal["smoke", "cpu", "paper"] = argument("smoke", help="two minutes, an hour a seed, or as published")
    methods: list[str] = argument([], help="rows of the table, by default all; those a row builds upon run too")
    output_dir: str = argument("outputs/reproduce", help="the table goes to a folder in it, named table-budget")

    def __post_init__(self) -> None:
        super().__post_init__()
        known = TABLES[self.table].rows
        if unknown := [method for method in self.methods if method not in known]:
            raise ValueError(f"unknown method {unknown[0]!r}; methods: {', '.join(map(repr, known))}")


def runs_of_seed(args: ReproduceArguments, folder: Path, seed: int) -> dict[str, Run]:
    """A run per row, and those that rows need."""
    plan = Plan(folder, seed, args.budget, args.data_options, partial(recipe_file, __file__))
    return TABLES[args.table].runs(plan)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(ReproduceArguments, description=__doc__.splitlines()[0], argv=argv)
    folder = (Path(args.output_dir) / f"{args.table}-{args.budget}").resolve()
    table = TABLES[args.table]
    run_study(
        args,
        f"{args.table}, budget {args.budget}",
        folder,
        args.methods or table.rows,
        [runs_of_seed(args, folder, seed) for seed in range(args.seeds)],
        table.scores,
        table.columns,
        published=table.published,
        better=table.better,
        spread=table.spread,
    )


if __name__ == "__main__":
    run_recipe(main)
