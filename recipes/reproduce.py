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

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from context_module.arguments import argument, parse_arguments, run_recipe
from context_module.comparison import Comparison, Score
from context_module.data.registry import parse_options
from context_module.experiments import Command, Run, run_all
from context_module.files import read_json

RECIPES = Path(__file__).resolve().parent
METHODS = ("base", "base pooled", "CM pooled", "CM (frozen)", "CM (fine-tune)", "CM (end-to-end)")
COLUMNS = {"concept": "concept", "composition": "composition", "reconstruction": "reconstruction (bits)"}

# The published means over 5 seeds, in the order of COLUMNS: PMLR 323 (CLeaR 2026), lightweight VAE.
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
class ReproduceArguments:
    """The flags of this recipe."""

    table: Literal["quad", "quad_dependent", "mnist"] = argument("quad_dependent", help="the data compared on")
    budget: Literal["smoke", "cpu", "paper"] = argument("smoke", help="two minutes, an hour a seed, or the paper's")
    seeds: int = argument(1, help="runs of every method, with seeds 0, 1, ...")
    methods: list[str] = argument(list(METHODS), help="rows of the table; those a row builds upon run too")
    data_options: list[str] = argument([], help="further options of the data, each name=value, as in root=mnist/")
    output_dir: str = argument("outputs/reproduce", help="the table goes to a folder in it, named table-budget")
    cluster: Literal["local", "slurm"] = argument("local", help="run on this machine, or submit to Slurm")
    jobs: int | None = argument(None, help="runs at a time; default: one per GPU, or per core without; on Slurm 16")
    cluster_options: list[str] = argument([], help="of submitit's executor, each name=value")

    def __post_init__(self) -> None:
        if self.seeds < 1 or (self.jobs is not None and self.jobs < 1):
            raise ValueError(f"--seeds and --jobs must be at least 1, got {self.seeds} and {self.jobs}")
        if unknown := [method for method in self.methods if method not in METHODS]:
            raise ValueError(f"unknown method {unknown[0]!r}; methods: {', '.join(map(repr, METHODS))}")


def flags(**values: Any) -> list[str]:
    """Command-line flags: lists are spread, true stands alone."""
    words: list[str] = []
    for name, value in values.items():
        if value is not None:
            words += [
                f"--{name}",
                *([] if value is True else map(str, value) if isinstance(value, list) else [str(value)]),
            ]
    return words


# What the budgets say: of data, of every training, of each kind of training, and of the evaluation. A module that
# trained with its base is matched to that base's embeddings in the end, base frozen, where the budget has a "matched".
SMOKE = {
    "data": {"samples_per_context": 60},
    "training": {"train_batch_size": 28, "validation_steps": 4, "checkpointing_steps": 1},
    "base": {"max_train_steps": 4},
    "pooled": {"max_train_steps": 4},
    "frozen": {"max_train_steps": 8},
    "finetune": {"max_train_steps": 4, "objective": "pixel"},
    "joint": {"max_train_steps": 4, "objective": "pixel", "latent_noise": True},
    "matched": {"max_train_steps": 8},
    "evaluation": {"samples": 20, "projections": 20},
}
LATENT = {"max_train_steps": 4000, "train_batch_size": 448}
PIXEL = {"objective": "pixel", "mixed_precision": "bf16", "max_grad_norm": 1000}
CPU = {
    "data": {"samples_per_context": 6000},
    "training": {"train_batch_size": 128, "lr_warmup_steps": 100, "validation_steps": 500},
    "base": {"max_train_steps": 1500, "learning_rate": 2e-3, "mixed_precision": "bf16"},
    "pooled": {"max_train_steps": 3000, "learning_rate": 2e-3, "mixed_precision": "bf16"},
    "frozen": LATENT,
    "finetune": {"max_train_steps": 800, "learning_rate": 5e-4, **PIXEL},
    "joint": {"max_train_steps": 2000, "learning_rate": 2e-3, "latent_noise": True, **PIXEL},
    "matched": LATENT,
    "evaluation": {"samples": 1000},
}
EPOCH = 7 * 35_000 // 512  # steps, of 70% of 50,000 images of each context
PAPERS_MODULE = {
    "objective": "pixel",
    "reference": True,
    "form": "reduced",
    "noise_width": 32,
    "concept_width": 8,
    "free_blocks": 0,
    "inversion_width": 0,
}
PAPER = {
    "data": {"samples_per_context": 50_000, "val_fraction": 0.3},
    "training": {
        "train_batch_size": 512,
        "gradient_accumulation_steps": 8,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 200,
        "early_stopping_patience": 20,
        "validation_steps": EPOCH,
        "checkpointing_steps": EPOCH,
        "max_train_steps": 100 * EPOCH,
    },
    "base": {"validation_steps": EPOCH // 7, "max_train_steps": 100 * EPOCH // 7},
    "pooled": {},
    "frozen": PAPERS_MODULE,
    "finetune": PAPERS_MODULE,
    "joint": PAPERS_MODULE,
    "evaluation": {"samples": 1280, "projections": 50},
}
BUDGETS: dict[str, dict[str, dict[str, Any]]] = {"smoke": SMOKE, "cpu": CPU, "paper": PAPER}


def runs_of_seed(args: ReproduceArguments, folder: Path, seed: int) -> dict[str, Run]:
    """A run per method."""
    budget = BUDGETS[args.budget]
    paths = {
        method: folder / method.replace(" ", "-").replace("(", "").strip(")") / f"seed-{seed}" for method in METHODS
    }
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
            options["score_samples"] = 0  # evaluate.py does
        argv = (str(RECIPES / recipe), *flags(output_dir=path, **options))
        return Command(argv, path / "result.json", resumable=True)

    def run(method: str, *trainings: Command, needs: tuple[str, ...] = ()) -> Run:
        path = paths[method]
        options = {"metrics": ["sliced_wasserstein", "reconstruction"], **budget["evaluation"]}
        argv = (str(RECIPES / "evaluate.py"), *flags(model=path, output_dir=path / "evaluation", **options))
        evaluation = Command(argv, path / "evaluation" / "report.json")
        return Run(f"{method}, seed {seed}", path, (*trainings, evaluation), tuple(f"{n}, seed {seed}" for n in needs))

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


def with_needs(runs: dict[str, Run], methods: list[str]) -> list[Run]:
    """The runs of these methods, and those they build upon."""
    by_name = {run.name: run for run in runs.values()}
    chosen: dict[str, Run] = {}

    def add(run: Run) -> None:
        for need in run.needs:
            add(by_name[need])
        chosen[run.name] = run

    for method in methods:
        add(runs[method])
    return list(chosen.values())


def slots(args: ReproduceArguments) -> list[dict[str, str]]:
    """Environment variables of each run that may go on at a time: a GPU each, or a share of the cores."""
    if args.cluster == "slurm":
        return [{}] * (args.jobs or 16)
    if gpus := torch.cuda.device_count():
        return [{"CUDA_VISIBLE_DEVICES": str(job % gpus)} for job in range(args.jobs or gpus)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = args.jobs or cores
    return [{"OMP_NUM_THREADS": str(max(1, cores // jobs))}] * jobs


def scores_of(path: Path) -> dict[str, float]:
    """The table's figures of one finished run."""
    report = read_json(path / "evaluation" / "report.json")
    scores = {
        part: report["summary"][part]["sliced_wasserstein"]["model"]["value"]
        for part in ("concept", "composition")
        if part in report["summary"]
    }
    scores["reconstruction"] = report["reconstruction"]["bits_per_pixel"]["value"]
    return scores


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(ReproduceArguments, description=__doc__.splitlines()[0], argv=argv)
    folder = (Path(args.output_dir) / f"{args.table}-{args.budget}").resolve()
    seeds = [runs_of_seed(args, folder, seed) for seed in range(args.seeds)]
    failures = run_all(
        [run for runs in seeds for run in with_needs(runs, args.methods)],
        slots=slots(args),
        cluster=args.cluster,
        folder=folder / "jobs",
        options=parse_options(args.cluster_options),
    )
    scores: dict[str, dict[str, Score | None]] = {}
    for method in args.methods:
        finished = [scores_of(runs[method].folder) for runs in seeds if runs[method].finished]
        scores[method] = {
            column: Score.of([values[column] for values in finished if column in values]) for column in COLUMNS
        }
    published = {
        method: {column: value for column, value in zip(COLUMNS, values, strict=True) if value is not None}
        for method, values in PUBLISHED[args.table].items()
    }
    title = f"{args.table}, budget {args.budget}, {args.seeds} seed{'s' * (args.seeds > 1)}"
    comparison = Comparison(title, COLUMNS, scores, published)
    comparison.save(folder)
    print(f"{comparison.markdown()}\n\n{folder}: table.md, table.csv, table.png")
    if failures:
        lines = "\n".join(f"- {name}: {reason}" for name, reason in failures.items())
        raise ValueError(f"{len(failures)} runs failed; mend the cause and give the same command again\n{lines}")


if __name__ == "__main__":
    run_recipe(main)
