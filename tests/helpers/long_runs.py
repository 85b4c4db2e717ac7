"""What a process holds while it trains, or generates, for long: memory, open files, and what is on disk."""

import os
from pathlib import Path

import torch

from context_module import wrap_decoder
from context_module.cli.training import TrainingArguments
from context_module.training import RunDirectory, Trainer, encode_dataset, fit_maps, make_accelerator
from context_module.training.objectives import EditObjective
from helpers.loop import a_process_of_its_own
from helpers.toy import CONCEPTS, Identity, images

_SHARES = (0.2, 1.0)  # of a run: once everything has been allocated, and at its end


def held():
    """Megabytes of memory, and open files, of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024, len(os.listdir("/proc/self/fd"))


def model_of():
    torch.manual_seed(0)
    return wrap_decoder(Identity(), CONCEPTS, form="edits", latent_noise=True)


def training(folder, steps):
    """What is held at both shares of a training; files and lines of its log at the end."""
    args = TrainingArguments(
        output_dir=str(folder),
        max_train_steps=steps,
        train_batch_size=16,
        validation_steps=max(1, steps // 20),
        checkpointing_steps=max(1, steps // 40),
        logging_steps=20,
    )
    seen, done = [], 0
    with a_process_of_its_own():
        model = model_of()
        train, val = (encode_dataset(model.base, part, progress=False) for part in images(100).split(0.1))
        objective = EditObjective(model, train)
        own = objective.after_step

        def after_step():
            nonlocal done
            own()
            done += 1
            if done in [int(share * steps) for share in _SHARES]:
                seen.append(held())

        objective.after_step = after_step
        Trainer(make_accelerator(args), args, RunDirectory(folder), objective, train, val).train()
    lines = len((Path(folder) / "metrics.jsonl").read_text().splitlines())
    return seen, len(list(Path(folder).iterdir())), lines


def generating(times):
    """What is held at both shares of many calls of `generate`."""
    model, seen = model_of().eval(), []
    fit_maps(model, images(100))
    for number in range(1, times + 1):
        model.generate(4, do={CONCEPTS[number % 3]: number / times}, seed=number)
        if number in [int(share * times) for share in _SHARES]:
            seen.append(held())
    return seen
