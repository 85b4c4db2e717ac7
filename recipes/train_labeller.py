"""Train a small image classifier to label a base's samples as another labeller does, or to judge them apart from it.

    python recipes/train_labeller.py --base dcgan --base_checkpoint gan_face_generate:weights.tar \\
        --data samples --data_options labeller=labels.py concepts=smile,glasses --output_dir outputs/labeller

What labels in minutes, in no format of ours, or may not be given away, becomes a classifier of transformers below a
megabyte that goes where a module goes: ``--data samples --data_options labeller=outputs/labeller``. It learns from
samples of the base alone, by the teacher's own probabilities (Hinton et al. 2015, "Distilling the Knowledge in a
Neural Network"). ``agreement.json`` says how often both agree on samples of the next seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.cli import BaseArguments, TrainingArguments, argument, next_command, parse_arguments, run_recipe
from context_module.data import ContextData, FactorView, SampledDataset, evaluation_loader, parse_options
from context_module.errors import DataError
from context_module.io import write_json
from context_module.objective import Objective
from context_module.training import Trainer, make_accelerator

SMALL: Mapping[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 16, "hidden_sizes": [24, 48, 80], "depths": [1, 1, 1], "layer_type": "basic"},
}
FILES = ["config.json", "preprocessor_config.json", "model.safetensors", "agreement.json"]


@dataclass(kw_only=True)
class TrainLabellerArguments(BaseArguments, TrainingArguments):
    """The flags of this recipe."""

    data: str = argument("samples", help="samples, those of the base; their labeller teaches")
    model_type: str = argument("resnet", help="of transformers; resnet is made small")
    config_overrides: list[str] = argument([], help="of its configuration, each name=value")
    image_size: int | None = argument(None, help="side that images are scaled to first; default: twice their own")
    output_dir: str = argument("outputs/labeller", help="where the classifier, checkpoints and metrics go")
    max_train_steps: int = argument(1500, help="optimiser steps")
    train_batch_size: int = argument(128, help="images per optimiser step")
    learning_rate: float = argument(2e-3, help="peak learning rate; it falls to 1%% along a cosine")
    validation_steps: int = argument(300, help="steps between validations")


class Distillation(Objective):
    """The cross-entropy of a classifier's probabilities to those of labellers, summed over concepts.

    Args:
        net: of transformers.
        side: that images are scaled to.
    """

    optimizer = torch.optim.AdamW

    def __init__(self, net: nn.Module, side: int) -> None:
        super().__init__()
        self.net, self.side = net, side

    def logits(self, images: Tensor) -> Tensor:
        """(B, K), as the classifier is asked later on, too: scaled, with values in [-1, 1]."""
        larger = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        return self.net(larger * 2 - 1).logits.float()

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        logits, taught = self.logits(batch["x"]), batch["factors"]
        loss = F.binary_cross_entropy_with_logits(logits, taught.sigmoid(), reduction="none").sum(1)
        return {"loss": loss, "disagreement": ((logits > 0) != (taught > 0)).float().mean(1)}


def new_classifier(args: TrainLabellerArguments, concepts: Iterable[str], channels: int) -> nn.Module:
    """With random weights, drawn by --seed."""
    from transformers import AutoConfig, AutoModelForImageClassification

    given = SMALL.get(args.model_type, {}) | parse_options(args.config_overrides)
    labels = dict(enumerate(concepts))
    config = AutoConfig.for_model(
        args.model_type,
        num_channels=channels,
        id2label=labels,
        label2id={name: place for place, name in labels.items()},
        problem_type="multi_label_classification",
        **given,
    )
    torch.manual_seed(args.seed)
    return AutoModelForImageClassification.from_config(config)


def scored(data: ContextData) -> FactorView:
    """The samples of every context, those of several concepts too, with what the labellers said of each."""
    parts = [part for part in (data.train, data.held_out) if part is not None]
    if not all(isinstance(part, SampledDataset) for part in parts):
        raise DataError("a labeller is taught by another one, on samples of a base: give --data samples")
    images = parts[0] if len(parts) == 1 else parts[0].joined(parts[1])
    return FactorView(images, tuple(data.concepts), torch.cat([part.scores for part in parts]))


@torch.no_grad()
def agreement(objective: Distillation, view: FactorView) -> dict[str, float]:
    """The share of images on which classifier and labeller agree, by concept."""
    device = next(objective.parameters()).device
    batches = evaluation_loader(view, 256)
    same = [(objective.logits(b["x"].to(device)).cpu() > 0) == (b["factors"] > 0) for b in batches]
    return dict(zip(view.factor_names, torch.cat(same).float().mean(0).tolist(), strict=True))


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(TrainLabellerArguments, description=__doc__.splitlines()[0], argv=argv)
    run = args.run_directory(FILES)
    accelerator = make_accelerator(args)
    repository = args.hub_repository() if accelerator.is_main_process else None
    base = args.load_base()
    if base is None:
        raise ValueError("samples are drawn of a base: give --base and --base_checkpoint")
    base.to(accelerator.device)
    taught = scored(args.load(**base.data_settings()))
    channels, height, width = base.image_shape
    side = args.image_size or 2 * max(height, width)
    net = new_classifier(args, taught.factor_names, channels)
    objective = Distillation(net, side)
    train_data, val_data = (
        FactorView(taught.data.subset(rows), taught.factor_names, taught.factors[rows])
        for rows in taught.data.split_indices(args.val_fraction, seed=args.seed)
    )
    result = Trainer(accelerator, args, run, objective, train_data, val_data).train()
    if accelerator.is_main_process:
        found = agreement(objective.eval(), scored(args.load(**base.data_settings() | {"seed": args.seed + 1})))
        net.save_pretrained(run.path)
        halves, size = [0.5] * channels, {"height": side, "width": side}
        write_json(run.path / "preprocessor_config.json", {"size": size, "image_mean": halves, "image_std": halves})
        write_json(run.path / "agreement.json", found)
        print(f"{run.path}: agrees on {', '.join(f'{share:.1%} of {name}' for name, share in found.items())}")
        with run.finishing(dataclasses.asdict(result)):
            args.publish(run.path, repository, FILES, "labeller")
        words = ["--base", args.base, "--base_checkpoint", args.base_checkpoint, "--data", args.data]
        options = [f"labeller={args.output_dir}", f"concepts={','.join(taught.factor_names)}"]
        print("\n" + next_command(__file__, "finetune", *words, "--data_options", *options))


if __name__ == "__main__":
    run_recipe(main)
