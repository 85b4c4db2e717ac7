"""Recipes that are killed at their writes, resumed, and compared with runs that were left alone."""

import hashlib
import os
import runpy
import shutil
import sys
from pathlib import Path

from helpers.kills import killed_at
from helpers.loop import forget_accelerate

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SMALL = "--samples_per_context 12 --val_fraction 0.1 --train_batch_size 14 --max_train_steps 4 --validation_steps 2"
SMALL = [*SMALL.split(), "--logging_steps", "1", "--checkpointing_steps", "2", "--checkpoints_total_limit", "1"]
SCORED = ["--value_draws", "0", "--score_samples", "8"]
OBS = ["--contexts", "obs", "--samples_per_context", "12", "--train_batch_size", "6", "--max_train_steps", "1"]

# by what a line of the table says: the recipe, its flags, and what it ends with
RUNS = {
    "finetune, edits": ("finetune", SCORED, "adapter_model.safetensors"),
    "finetune, structural": ("finetune", [*SCORED, "--form", "structural"], "adapter_model.safetensors"),
    "finetune, pixels": ("finetune", [*SCORED, "--objective", "pixel"], "adapter_model.safetensors"),
    "finetune --train_mode lora": ("finetune", [*SCORED, "--train_mode", "lora"], "adapter_model.safetensors"),
    "finetune --train_mode finetune": ("finetune", [*SCORED, "--train_mode", "finetune"], "base/model.safetensors"),
    "finetune --train_mode end_to_end": (
        "finetune",
        [*SCORED, "--train_mode", "end_to_end", "--base", "lightweight"],
        "base/model.safetensors",
    ),
    "pretrain --base nvae": ("pretrain", ["--resolution", "32"], "model.safetensors"),
    "pretrain --base lightweight": ("pretrain", ["--base", "lightweight", "--resolution", "64"], "model.safetensors"),
    "train_baseline --method factor_vae": (
        "train_baseline",
        ["--method", "factor_vae", "--data", "quad", "--resolution", "64"],
        "model.safetensors",
    ),
    "train_concept": ("train_concept", ["--module", "MODULE", "--concept", "size"], "size.safetensors"),
}


def recipe(name, *argv):
    """Run a recipe in this process."""
    sys.argv = [str(RECIPES / f"{name}.py"), *map(str, argv)]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{name} ended with {end.code}") from None
    finally:
        forget_accelerate()


def trials(title, count, work):
    """Kill a run at `count` of its writes, spread evenly; how many were tried, and those that ended otherwise."""
    name, flags, result = RUNS[title]
    flags = [work / "module" if flag == "MODULE" else flag for flag in flags]
    if work / "module" in flags:
        killed_at(-1, work / "module", lambda: recipe("finetune", "--output_dir", work / "module", *OBS))
    small = SMALL if name != "train_concept" else [flag if flag != "14" else "6" for flag in SMALL]
    writes = work / "writes"

    def run(folder, *more):
        recipe(name, "--output_dir", folder, *flags, *small, *more)

    def counted(folder):
        seen = 0

        def hook(event, args):
            nonlocal seen
            seen += event in ("open", "os.rename", "os.remove", "os.mkdir") and str(args[0]).startswith(str(folder))

        sys.addaudithook(hook)
        run(folder)
        writes.write_text(str(seen))

    alone = work / "alone"
    killed_at(-1, alone, lambda: counted(alone))
    expected, total = hashlib.sha256((alone / result).read_bytes()).hexdigest(), int(writes.read_text())
    tried, wrong = 0, []
    for number in range(0, total, max(1, total // count)):
        folder = work / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        if not killed_at(number, folder, lambda folder=folder: run(folder)):
            break
        tried += 1
        try:
            if not (folder / "result.json").exists():
                killed_at(-1, folder, lambda folder=folder: run(folder, "--resume_from_checkpoint", "latest"))
            if hashlib.sha256((folder / result).read_bytes()).hexdigest() != expected:
                wrong.append(f"{title}: killed at write {number}: another result")
        except (AssertionError, OSError) as error:
            wrong.append(f"{title}: killed at write {number}: {str(error).strip().splitlines()[-1]}")
    return tried, wrong


os.environ.setdefault("HF_HUB_OFFLINE", "1")
