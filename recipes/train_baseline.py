"""Train one of the field's other systems, to compare with: on the same loop and data, scored by the same metrics.

    python recipes/train_baseline.py --method factor_vae --data dsprites_grid --output_dir outputs/factor_vae
    python recipes/evaluate.py --model outputs/factor_vae --metrics disentanglement reconstruction

Each method has flags of its own: ``--method NAME --help`` lists them. Methods that learn from pairs or triplets of
images make them from the data: of different contexts, or, of data in one context, from its true factors. All have a
Bernoulli likelihood in nats, summed over pixels; weights are chosen by the ELBO of images kept for validation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from context_module.baselines import Baseline, LabelledBaseline, available_baselines, get_baseline, traversals
from context_module.cli import TrainingArguments, argument, given, next_command, parse_arguments, run_recipe
from context_module.drawing import labelled_grid
from context_module.io import CONFIG_FILE, WEIGHTS_FILE
from context_module.training import Trainer, make_accelerator

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT, PICTURED = "beta_vae", 8
NOTED = 1000  # images of a context that notes are taken from
FILES = (CONFIG_FILE, WEIGHTS_FILE)


@dataclass(kw_only=True)
class TrainBaselineArguments(TrainingArguments):
    """The flags of this recipe."""

    method: str = argument(DEFAULT, help=f"{', '.join(available_baselines())}, or an installed one")
    data: str = argument(
        "dsprites_grid", help="as for recipes/finetune.py; dsprites_grid is the whole grid of sprites"
    )
    resolution: int | None = argument(None, help="height and width of the images; default: the data's own")
    contexts: list[str] = argument([], help="training contexts to learn from; default: all")
    max_train_steps: int = argument(20_000, help="optimiser steps (published: 300,000)")
    learning_rate: float = argument(5e-4, help="peak learning rate; it falls to 1%% along a cosine (published: 1e-4)")
    max_grad_norm: float = argument(1000.0, help="gradients are clipped to this norm")
    validation_steps: int = argument(1000, help="steps between validations, each with a picture of what latents do")


def arguments_of(method: str) -> Any:
    """The dataclass of all flags for a method: those of this recipe, and its settings."""
    settings = get_baseline(method).settings_class

    def check(self: Any) -> None:
        """What either half of the flags checks."""
        TrainBaselineArguments.__post_init__(self)
        settings.__post_init__(self)

    bases = (TrainBaselineArguments, settings)
    name, checks = f"{method}_arguments", {"__post_init__": check}
    return dataclasses.make_dataclass(name, [], bases=bases, namespace=checks, kw_only=True)


def read(argv: Sequence[str] | None) -> Any:
    """The flags of a command line."""
    kind = arguments_of(given("method", DEFAULT, argv))
    return parse_arguments(kind, description=__doc__.splitlines()[0], argv=argv)


@torch.no_grad()
def preview(model: Baseline, x: Tensor) -> Image:
    """Images, what the method makes of them, samples of its prior, factors set, and each latent of the first image."""
    x = x.to(model.device)
    samples = model.prior(len(x), torch.Generator().manual_seed(0))
    rows = {
        "images": x,
        "reconstructions": model.decode(model.centre(x)).sigmoid(),
        "samples": model.decode(samples).sigmoid(),
    }
    return labelled_grid(rows | interventions(model, x) | traversals(model, x[0], columns=len(x)))


def interventions(model: Baseline, x: Tensor) -> dict[str, Tensor]:
    """Images with each factor set to values from one end of its labels to the other; none without labels."""
    if not isinstance(model, LabelledBaseline):
        return {}
    code, share = model.centre(x), torch.linspace(0, 1, len(x), device=model.device)
    ends = zip(model.scale.names, model.scale.low, model.scale.high, strict=True)
    return {f"do({name})": model.do(code, {name: low + (high - low) * share}) for name, low, high in ends}


def main(argv: list[str] | None = None) -> None:
    args = read(argv)
    run = args.run_directory(FILES)
    accelerator = make_accelerator(args)
    repository = args.hub_repository() if accelerator.is_main_process else None
    data = args.load(resolution=args.resolution, held_out_samples=0)
    if accelerator.is_main_process:
        print(data.describe())
    images = data.train.only(args.contexts) if args.contexts else data.train
    train_data, val_data = images.split(args.val_fraction, seed=args.seed)
    method = get_baseline(args.method)
    kind = method.settings_class
    settings = kind(**{field.name: getattr(args, field.name) for field in fields(kind)}).completed(data)
    model = method.build(settings, train_data)
    shown = val_data.first(-(-PICTURED // len(val_data.context_names)))[:PICTURED]
    picture = (lambda: preview(model, shown)) if model.kind == "images" else None
    view = model.view(train_data, args.seed)
    trainer = Trainer(accelerator, args, run, model, view, val_data, preview=picture)
    result = trainer.train()
    if accelerator.is_main_process:
        model.save(run.path)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        scored = f"best validation ELBO {-result.loss:.1f}" if model.comparable else f"last error {result.loss:.1f}"
        print(
            f"{run.path}: {args.method} with {parameters:,d} parameters, {scored} nats per {model.kind[:-1]} at "
            f"step {result.best_step} of {result.steps}, {result.seconds:.0f} s"
        )
        for note in model.eval().notes(val_data.first(NOTED).to(model.device)):
            print(f"note: {note}")
        with run.finishing(dataclasses.asdict(result)):
            args.publish(run.path, repository, (*FILES, "README.md"), f"{args.method} baseline")
        print(next_command(__file__, "evaluate", "--model", args.output_dir))


if __name__ == "__main__":
    run_recipe(main)
