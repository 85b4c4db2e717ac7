"""Train a classifier end to end on a label: what representations are compared with, from few labels or under a shift.

    python recipes/train_classifier.py --data pendulum --data_options corruption=0.2 --output_dir outputs/erm
    python recipes/train_classifier.py --config outputs/erm/arguments.json --images 100 --output_dir outputs/erm-100

It learns from observational images, --images of them, for as many steps as it is given, and is tested on others:
``accuracy.json`` has its accuracy, and, where the data knows a factor that only goes with the target, the average and
that of the worst group where the two have nothing to do with each other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from context_module.baselines import Classifier, ClassifierSettings
from context_module.cli import TrainingArguments, argument, parse_arguments, run_recipe
from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextData, ContextDataset, evaluation_loader, with_factors
from context_module.errors import DataError
from context_module.io import CONFIG_FILE, WEIGHTS_FILE, write_json
from context_module.metrics import share_estimate, shift_accuracy
from context_module.training import Trainer, make_accelerator

TESTED = 4000  # images
FILES = (CONFIG_FILE, WEIGHTS_FILE, "accuracy.json")


@dataclass(kw_only=True)
class TrainClassifierArguments(TrainingArguments, ClassifierSettings):
    """The flags of this recipe."""

    data: str = argument("pendulum", help="as for recipes/finetune.py; with true factors")
    target: str | None = argument(None, help="factor to predict, 0 or 1; default: the data's")
    images: int | None = argument(None, help="labelled images to learn from; default: all observational ones")
    resolution: int | None = argument(None, help="height and width of the images; default: the data's own")
    output_dir: str = argument("outputs/classifier", help="where the classifier, checkpoints and figures go")
    max_train_steps: int = argument(2000, help="optimiser steps")
    learning_rate: float = argument(1e-3, help="peak learning rate; it falls to 1%% along a cosine")
    validation_steps: int = argument(500, help="steps between validations")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images is not None and self.images < 20:
            raise ValueError(f"images must be at least 20, got {self.images}")


def labelled(args: TrainClassifierArguments, images: ContextDataset) -> ContextDataset:
    """The images to learn from: those of --images that a seed chooses."""
    if args.images is None:
        return images
    if args.images > len(images):
        raise DataError(f"there are {len(images)} observational images, fewer than the {args.images} of --images")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(args.seed))[: args.images]
    return images.subset(chosen.sort().values)


@torch.no_grad()
def hits(model: Classifier, images: ContextDataset) -> Tensor:
    """Whether the model is right on every image, bool (n,)."""
    truth = column(images, model.target)
    device = next(model.parameters()).device
    found = [model.predict(batch["x"].to(device)).cpu() for batch in evaluation_loader(images, 250)]
    return torch.cat(found) == (truth > 0.5)


def column(images: ContextDataset, name: str) -> Tensor:
    """The values of one factor (n,)."""
    if images.factors is None or name not in images.factor_names:
        raise DataError(
            f"the data has no labels of {name!r}; it has those of {', '.join(images.factor_names) or 'none'}"
        )
    return images.factors[:, images.factor_names.index(name)]


def scores(model: Classifier, data: ContextData, test: ContextDataset, seed: int) -> dict[str, Any]:
    """Accuracies with their intervals."""
    found = {"accuracy": share_estimate(hits(model, test))}
    if data.spurious and model.target == data.target:
        drawn = data.simulator and data.simulator.shifted(1, TESTED, seed=seed)
        images = drawn[1] if drawn else test
        groups = [column(images, name).long() for name in (model.target, data.spurious)]
        shift = shift_accuracy(hits(model, images), *groups)
        found |= {"average": shift.average, "worst_group": shift.worst}
    return {name: dataclasses.asdict(estimate) for name, estimate in found.items()}


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(TrainClassifierArguments, description=__doc__.splitlines()[0], argv=argv)
    run = args.run_directory(FILES)
    accelerator = make_accelerator(args)
    repository = args.hub_repository() if accelerator.is_main_process else None
    data = args.load(resolution=args.resolution, held_out_samples=0, test_samples=TESTED)
    target = args.target or data.target
    if target is None:
        raise DataError("the data does not say what is to be predicted: give --target, the name of a factor")
    column(data.train, target)
    images = data.train.only([OBSERVATIONAL])
    train, kept = images.split(args.val_fraction, seed=args.seed)
    test = kept if data.test is None else data.test.only([OBSERVATIONAL])
    settings = ClassifierSettings(**{field.name: getattr(args, field.name) for field in fields(ClassifierSettings)})
    torch.manual_seed(args.seed)
    model = Classifier(settings, images.image_shape, target)
    views = [with_factors(part, model.scale.names) for part in (labelled(args, train), kept)]
    model.scale.fit(views[0].factors)
    result = Trainer(accelerator, args, run, model, *views).train()
    if accelerator.is_main_process:
        found = scores(model.eval(), data, test, args.seed)
        model.save(run.path)
        write_json(run.path / "accuracy.json", found)
        said = ", ".join(f"{name.replace('_', ' ')} {score['value']:.1%}" for name, score in found.items())
        print(f"{run.path}: {said}, after {result.steps} steps on {len(views[0]):,d} images, {result.seconds:.0f} s")
        with run.finishing(dataclasses.asdict(result)):
            args.publish(run.path, repository, FILES, "classifier")


if __name__ == "__main__":
    run_recipe(main)
