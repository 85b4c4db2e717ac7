"""Pretrain a base on contexts pooled, their labels unused: what a context module is then put in front of.

    python recipes/pretrain.py --base nvae --data quad --resolution 32 --output_dir outputs/base

The result is a folder for ``recipes/finetune.py --base_checkpoint``: config.json and the weights, in
safetensors. Each family has flags of its own: ``--base NAME --help`` lists them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter, get_adapter
from context_module.adapters.lightweight import FEATURES, LightweightObjective
from context_module.baselines import regularizer_of
from context_module.cli import TrainingArguments, argument, given, next_command, parse_arguments, run_recipe
from context_module.drawing import labelled_samples
from context_module.objective import Objective
from context_module.training import Trainer, make_accelerator

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT = "nvae"


@dataclass(kw_only=True)
class PretrainArguments(TrainingArguments):
    """The flags of this recipe; those of the family come besides: see `Pretraining`."""

    least_steps = 0

    base: str = argument(
        DEFAULT,
        help="family: nvae, lightweight, diffusers, denoiser, transformers, vector_vae, or an installed adapter's",
    )
    resolution: int | None = argument(None, help="height and width of the images; default: the data's own")
    contexts: list[str] = argument([], help="training contexts to learn from, their labels unused; default: all")
    regularizer: str | None = argument(None, help="lightweight: beta_vae, tc_vae, dip_vae or factor_vae, for the KL")
    regularizer_options: list[str] = argument([], help="its settings, each name=value: see recipes/train_baseline.py")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regularizer_options and self.regularizer is None:
            raise ValueError("regularizer_options are of a regularizer: give --regularizer, too")

    max_train_steps: int = argument(1000, help="optimiser steps; 0: the base as it is initialised")
    learning_rate: float = argument(1e-2, help="peak learning rate; it falls to 1%% along a cosine")
    max_grad_norm: float = argument(200.0, help="gradients are clipped to this norm")


def arguments_of(family: str) -> Any:
    """The dataclass of all flags for a family: those of this recipe, and those of its `Pretraining`."""
    pretraining = get_adapter(family).pretraining()
    return dataclasses.make_dataclass(f"{family}_arguments", [], bases=(PretrainArguments, pretraining), kw_only=True)


def read(argv: Sequence[str] | None) -> Any:
    """The flags of a command line."""
    kind = arguments_of(given("base", DEFAULT, argv))
    return parse_arguments(kind, description=__doc__.splitlines()[0], argv=argv)


def regularized(args: Any, objective: Objective, images: int) -> Objective:
    """The objective of a lightweight base with the penalty of another method in place of the KL."""
    if not isinstance(objective, LightweightObjective) or objective.beta != 1:
        raise ValueError(
            "--regularizer takes the place of the KL of a lightweight base: give it with --base lightweight and "
            "without --beta; a weighted KL is --regularizer beta_vae"
        )
    penalty = regularizer_of(args.regularizer, args.regularizer_options, FEATURES, images)
    return LightweightObjective(objective.net, regularizer=penalty)


@torch.no_grad()
def preview(base: DecoderAdapter, x: Tensor | None) -> Image | str:
    """Images, what the base makes of them, and samples of its prior; of a language model texts that it writes."""
    generator = torch.Generator().manual_seed(0)
    if x is None:
        drawn = base.decode(base.sample_latent(8, generator), generator=generator).sample(generator)
        return labelled_samples({"samples": base.present(drawn)})
    encoding = base.encode(x.to(base.device))
    rows = {
        "images": x,
        "reconstructions": base.decode(encoding.mean, encoding, temperature=0.0).mean,
        "samples": base.decode(base.sample_latent(len(x), generator), generator=generator).mean,
    }
    return labelled_samples(rows)


def main(argv: list[str] | None = None) -> None:
    args = read(argv)
    run = args.run_directory(args.files)
    accelerator = make_accelerator(args)
    repository = args.hub_repository() if accelerator.is_main_process else None
    data = args.load(resolution=args.resolution)
    base, objective = args.build(data.train)
    if args.regularizer:
        objective = regularized(args, objective, len(data.train))
    if base.kind == "texts":
        data = args.load(**base.data_settings())
    if accelerator.is_main_process:
        print(data.describe())
    images = data.train.only(args.contexts) if args.contexts else data.train
    train_data, val_data = images.split(args.val_fraction, seed=args.seed)
    shown = val_data.first(2) if base.kind == "images" else None
    trainer = Trainer(accelerator, args, run, objective, train_data, val_data, preview=partial(preview, base, shown))
    result = trainer.train()
    if accelerator.is_main_process:
        args.settle(base.eval(), train_data, val_data)
        base.save(run.path)
        parameters = sum(parameter.numel() for parameter in base.parameters())
        print(
            f"{run.path}: {args.base} with {parameters:,d} parameters, best validation loss {result.loss:.1f} nats "
            f"per {base.kind[:-1]} at step {result.best_step} of {result.steps}, {result.seconds:.0f} s"
        )
        with run.finishing(dataclasses.asdict(result)):
            args.publish(run.path, repository, (*args.files, "README.md"), f"{args.base} base")
        words = ("--base", args.base, "--base_checkpoint", args.output_dir, "--data", args.data)
        print(next_command(__file__, "finetune", *words))


if __name__ == "__main__":
    run_recipe(main)
