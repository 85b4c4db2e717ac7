"""Train a small image classifier to label a base's samples as another labeller does, or to judge them apart from it.

    python recipes/train_labeller.py --base dcgan --base_checkpoint gan_face_generate:weights.tar \\
        --data samples --data_options labeller=labels.py concepts=smile,glasses --output_dir outputs/labeller

What labels in minutes, in no format of ours, or may not be given away, becomes a classifier of transformers below a
megabyte that goes where a module goes: ``--data samples --data_options labeller=outputs/labeller``. It learns from
samples of the base alone, by the teacher's own probabilities (Hinton et al. 2015, "Distilling the Knowledge in a
Neural Network"). ``agreement.json`` says how often both agree on samples of another seed.
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
from context_module.data import ContextData, ContextDataset, evaluation_loader, parse_options
from context_module.errors import DataError
from context_module.io import write_json
from context_module.objective import Objective
from context_module.training import RunDirectory, Trainer, make_accelerator

SMALL: Mapping[str, dict[str, Any]] = {
    "convnext": {"patch_size": 2, "hidden_sizes": [24, 48, 96], "depths": [1, 2, 1], "num_stages": 3},
    "resnet": {"embedding_size": 16, "hidden_sizes": [24, 48, 80], "depths": [1, 1, 1], "layer_type": "basic"},
}
FILES = ["config.json", "preprocessor_config.json", "model.safetensors", "agreement.json"]


@dataclass(kw_only=True)
class LabellerArguments(BaseArguments, TrainingArguments):
    """The flags of this recipe."""

    data: str = argument("samples", help="samples, those of the base; their labeller teaches")
    model_type: str = argument("convnext", help="of transformers; convnext and resnet are made small")
    config_overrides: list[str] = argument([], help="of its configuration, each name=value")
    output_dir: str = argument("outputs/labeller", help="where the classifier, checkpoints and metrics go")
    max_train_steps: int = argument(1500, help="optimiser steps")
    train_batch_size: int = argument(128, help="images per optimiser step")
    learning_rate: float = argument(2e-3, help="peak learning rate; it falls to 1%% along a cosine")
    validation_steps: int = argument(300, help="steps between validations")


class Distillation(Objective):
    """The cross-entropy of a classifier's probabilities to those of labellers, summed over concepts."""

    optimizer = torch.optim.AdamW

    def __init__(self, net: nn.Module, labellers: Mapping[str, Any]) -> None:
        super().__init__()
        self.net, self.labellers = net, labellers

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        taught = scores(self.labellers, batch["x"])
        logits = self.net(batch["x"] * 2 - 1).logits.float()
        loss = F.binary_cross_entropy_with_logits(logits, taught.sigmoid(), reduction="none").sum(1)
        return {"loss": loss, "disagreement": ((logits > 0) != (taught > 0)).float().mean(1)}


@torch.no_grad()
def scores(labellers: Mapping[str, Any], images: Tensor) -> Tensor:
    """(B, K)."""
    return torch.stack([torch.as_tensor(labeller(images)).float() for labeller in labellers.values()], dim=1)


def new_classifier(args: LabellerArguments, concepts: Iterable[str], channels: int) -> nn.Module:
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


def all_of(data: ContextData) -> ContextDataset:
    """The samples of every context, those of several concepts too."""
    return data.train if data.held_out is None else data.train.joined(data.held_out)


@torch.no_grad()
def agreement(net: nn.Module, labellers: Mapping[str, Any], images: ContextDataset) -> dict[str, float]:
    """The share of images on which classifier and labeller agree, by concept."""
    device = next(net.parameters()).device
    batches = (batch["x"].to(device) for batch in evaluation_loader(images.pooled(), 256))
    same = [(net(x * 2 - 1).logits > 0) == (scores(labellers, x) > 0) for x in batches]
    return dict(zip(labellers, torch.cat(same).float().mean(0).tolist(), strict=True))


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(LabellerArguments, description=__doc__.splitlines()[0], argv=argv)
    run = RunDirectory(args.output_dir, overwrite=args.overwrite, resume=args.resume_from_checkpoint)
    accelerator = make_accelerator(args)
    repository = args.hub_repository() if accelerator.is_main_process else None
    base = args.load_base()
    if base is None:
        raise ValueError("samples are drawn of a base: give --base and --base_checkpoint")
    base.to(accelerator.device)
    data = args.load(**base.data_settings())
    if not data.labellers:
        raise DataError(f"a labeller is taught by another one, and none comes with the {args.data} data: use samples")
    net = new_classifier(args, data.labellers, base.image_shape[0])
    train_data, val_data = all_of(data).split(args.val_fraction, seed=args.seed)
    result = Trainer(accelerator, args, run, Distillation(net, data.labellers), train_data, val_data).train()
    if accelerator.is_main_process:
        unseen = all_of(args.load(**base.data_settings() | {"seed": args.seed + 1}))
        found = agreement(net.eval(), data.labellers, unseen)
        net.save_pretrained(run.path)
        height, width = base.image_shape[1:]
        halves = [0.5] * base.image_shape[0]
        size = {"height": height, "width": width}
        write_json(run.path / "preprocessor_config.json", {"size": size, "image_mean": halves, "image_std": halves})
        write_json(run.path / "agreement.json", {"samples": len(unseen), **found})
        run.finish(dataclasses.asdict(result))
        print(f"{run.path}: agrees on {', '.join(f'{share:.1%} of {name}' for name, share in found.items())}")
        args.publish(run.path, repository, FILES, "labeller")
        words = ["--base", args.base, "--base_checkpoint", args.base_checkpoint, "--data", args.data]
        options = [f"labeller={args.output_dir}", f"concepts={','.join(data.concepts)}"]
        print("\n" + next_command(__file__, "finetune", *words, "--data_options", *options))


if __name__ == "__main__":
    run_recipe(main)
